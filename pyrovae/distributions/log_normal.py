"""The log-normal, with draws and means that are positive numbers."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor


class LogNormal(dist.LogNormal):
    r"""Log-normal: :math:`\log x \sim \mathcal{N}(\mu, \sigma^2)`, with mean :math:`e^{\mu + \sigma^2 / 2}`.

    Draws and means are put between the least and the greatest positive number of their dtype. torch's are 0 or
    infinite beyond (in float32, for logarithms below -103 and above 88), and so outside the support.

    Args:
        loc: mean of log x, of shape ``batch_shape``.
        scale: standard deviation of log x.

    >>> LogNormal(torch.tensor(-1e3), torch.tensor(1.0)).mean > 0
    tensor(True)
    """

    def expand(self, batch_shape: torch.Size, _instance: LogNormal | None = None) -> LogNormal:
        return super().expand(batch_shape, _instance=self._get_checked_instance(LogNormal, _instance))

    @property
    def mean(self) -> Tensor:
        return _inside(super().mean)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return _inside(super().rsample(sample_shape))


def _inside(x: Tensor) -> Tensor:
    limits = torch.finfo(x.dtype)
    return x.clamp(limits.tiny, limits.max)
