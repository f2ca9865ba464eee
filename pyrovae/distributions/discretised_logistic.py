"""The logistic rounded to the levels of a pixel."""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all


class Levels(constraints.Constraint):
    """The values k / (levels - 1), for k = 0, ..., levels - 1, as near as float32 has them.

    >>> Levels(256)
    {0, 1/255, ..., 1}
    >>> Levels(256).check(torch.tensor([0.2, 0.5]))  # 51/255 and 127.5/255
    tensor([ True, False])
    """

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def check(self, value: Tensor) -> Tensor:
        top = self.levels - 1
        return ((value - (value * top).round() / top).abs() < 1e-6) & (value > -0.5 / top) & (value < 1 + 0.5 / top)

    def __repr__(self) -> str:
        return "{0, 1}" if self.levels == 2 else f"{{0, 1/{self.levels - 1}, ..., 1}}"


class DiscretisedLogistic(dist.TorchDistribution):
    r"""A logistic variable rounded to the nearest of ``levels`` values 0, 1 / (levels - 1), ..., 1.

    .. math::
        P(x) = \sigma\!\left(\frac{x + h - \mu}{s}\right) - \sigma\!\left(\frac{x - h - \mu}{s}\right), \qquad
        h = \frac{1}{2 (\text{levels} - 1)}

    where the first value takes all that lies below it and the last all that lies above, so that the probabilities add
    up to 1. Kingma et al. (2016), https://arxiv.org/abs/1606.04934.

    Args:
        loc: location :math:`\mu`, of shape ``batch_shape``; not bound to [0, 1].
        scale: s; the logistic's standard deviation is :math:`\pi s / \sqrt 3`.
        levels: how many values there are, such as 256.

    >>> DiscretisedLogistic(torch.tensor(0.5), torch.tensor(0.1), levels=2).log_prob(torch.tensor(1.0)).exp()
    tensor(0.5000)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Levels:
        return Levels(self.levels)

    def expand(self, batch_shape: torch.Size, _instance: DiscretisedLogistic | None = None) -> DiscretisedLogistic:
        new = self._get_checked_instance(DiscretisedLogistic, _instance)
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        new.levels = self.levels
        super(DiscretisedLogistic, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The difference of sigmoids as the product :math:`\sigma(u) \sigma(-l) (1 - e^{l - u})`: it loses no digits.

        At the first value l is minus infinity and at the last u is infinity.
        """
        if self._validate_args:
            self._validate_sample(value)
        top = self.levels - 1
        k = (value * top).round()
        first, last = k <= 0, k >= top
        below = F.logsigmoid(((k + 0.5) / top - self.loc) / self.scale)
        above = F.logsigmoid((self.loc - (k - 0.5) / top) / self.scale)
        width = torch.log(-torch.expm1(-1 / (top * self.scale)))
        return below.masked_fill(last, 0.0) + above.masked_fill(first, 0.0) + torch.where(first | last, 0.0, width)

    @property
    def mean(self) -> Tensor:
        r""":math:`\frac{1}{\text{levels} - 1} \sum_k P(x > \text{edge}_k)`."""
        # One edge at a time: all at once would take 255 times the memory of the data.
        top = self.levels - 1
        return sum(torch.sigmoid((self.loc - (k + 0.5) / top) / self.scale) for k in range(top)) / top

    @property
    def variance(self) -> Tensor:
        top, mean = self.levels - 1, self.mean
        values = (torch.full_like(mean, k / top) for k in range(self.levels))
        return sum(self.log_prob(value).exp() * (value - mean).square() for value in values)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        with torch.no_grad():
            shape, top = self._extended_shape(sample_shape), self.levels - 1
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            x = self.loc + self.scale * torch.logit(u, eps=torch.finfo(u.dtype).eps)
            return (x * top).round().clamp(0, top) / top
