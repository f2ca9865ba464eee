"""Planar flow posterior."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Transform

from pyrovae.distributions import planar
from pyrovae.posteriors.flow import GAIN, FlowPosterior


class Planar(FlowPosterior):
    r"""Planar flow posterior: a normal, bent T times along a direction.

    .. math:: z \leftarrow z + u \tanh(w^\top z + b)

    u, w and b of each step are numbers from the encoder. A step bends along one direction only, so that wide latent
    spaces need many, or ``"sylvester"``. The log-density of a value that it did not draw takes T bisections. Rezende &
    Mohamed (2015), https://arxiv.org/abs/1505.05770.

    Args:
        transforms: T.
        floor: the least scale of the normal.

    >>> import torch
    >>> posterior = Planar(transforms=4)
    >>> posterior(torch.randn(3, posterior.build((2,)))).event_shape
    torch.Size([2])
    """

    def extra(self, size: int) -> int:
        return self.transforms * (2 * size + 1)

    def bend(self, numbers: Tensor) -> Sequence[Transform]:
        size = self.event_shape.numel()
        steps = numbers.unflatten(-1, (self.transforms, 2 * size + 1)).unbind(-2)
        return [planar.Planar(GAIN * n[..., :size], n[..., size:-1], n[..., -1]) for n in steps]
