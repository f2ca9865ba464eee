"""Discretised logistic likelihoods of pixels."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae import distributions
from pyrovae.checks import count
from pyrovae.distributions import inverse_scale, positive, to_scale
from pyrovae.piece import Piece

DEVIATION = math.pi / math.sqrt(3)
"""The standard deviation of a logistic of scale 1."""
MOST_LEVELS = 2**16


class DiscretisedLogistic(Piece):
    r"""Discretised logistic likelihood of pixels: a logistic, rounded to the pixel's levels.

    .. math::
        P(x \mid z) = \sum_{j=1}^{K} \pi_j \left[\sigma\!\left(\frac{x + h - \mu_j}{s_j}\right)
        - \sigma\!\left(\frac{x - h - \mu_j}{s_j}\right)\right], \qquad h = \frac{1}{2 (\text{levels} - 1)}

    with both ends open. For 8-bit pixels divided by 255: a probability and no density, so its log p(x) is at most 0
    and gives bits per dimension. The network gives :math:`\mu` and s for each element; with several components, their
    weights too. Kingma et al. (2016), https://arxiv.org/abs/1606.04934; the mixture is that of Salimans et al. (2017),
    https://arxiv.org/abs/1701.05517, without its autoregression over channels: given z, elements are independent.

    Args:
        components: K, how many logistics are mixed for each element.
        levels: how many values a pixel has, from 0 to 1 in equal steps.
        floor: the least scale s, in units of x.

    >>> likelihood = DiscretisedLogistic(levels=2)
    >>> likelihood.build((3,))
    6
    >>> likelihood(torch.zeros(1, 6)).log_prob(torch.tensor([0.0, 1.0, 1.0])).exp()  # 0.673 x 0.327^2
    tensor([0.0720])
    """

    def __init__(self, components: int = 1, levels: int = 256, floor: float = 1e-4) -> None:
        super().__init__()
        self.components = count(components, "DiscretisedLogistic components", 1)
        self.levels = count(levels, "DiscretisedLogistic levels", 2)
        if levels > MOST_LEVELS:
            raise ValueError(
                f"DiscretisedLogistic levels: expected at most {MOST_LEVELS} (16 bits), got {levels}. "
                "Use likelihood='gaussian' for data as fine as that."
            )
        self.floor = positive(floor, "DiscretisedLogistic floor: expected")
        self.support = distributions.Levels(levels)
        self.numbers = 2 if components == 1 else 3 * components
        self.remedy = (
            f"Divide whole numbers 0 to {levels - 1} by {levels - 1}, round to the levels there are, or use "
            "likelihood='continuous_bernoulli' for any values in [0, 1]."
        )

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        # (..., numbers, *event_shape) -> (..., *event_shape, components), for locations, scales and weights.
        numbers = torch.stack(self.split(params), -1).split(self.components, -1)
        loc, scale = numbers[0], to_scale(numbers[1], self.floor)
        if self.components == 1:
            p = distributions.DiscretisedLogistic(loc.squeeze(-1), scale.squeeze(-1), self.levels)
        else:
            p = dist.MixtureSameFamily(
                dist.Categorical(logits=numbers[2]), distributions.DiscretisedLogistic(loc, scale, self.levels)
            )
        return p.to_event(len(self.event_shape))

    def initial(self, x: Tensor) -> Tensor:
        mean, deviation = x.mean(0), x.std(0, correction=0)
        if self.components == 1:
            return torch.stack([mean, inverse_scale(deviation / DEVIATION, self.floor)]).flatten()
        # Half of the variance is between components, so that they start apart and can share the work.
        offsets = torch.linspace(-1, 1, self.components).to(x)
        offsets = offsets / offsets.square().mean().sqrt() * math.sqrt(0.5)
        loc = mean + offsets.view(-1, *[1] * mean.ndim) * deviation
        raw_scale = inverse_scale(deviation * math.sqrt(0.5) / DEVIATION, self.floor).expand_as(loc)
        return torch.cat([loc, raw_scale, torch.zeros_like(loc)]).flatten()


class DiscretisedLogisticMixture(DiscretisedLogistic):
    """Mixture of discretised logistics for each pixel: `DiscretisedLogistic` with five components.

    For pixels of several modes, such as black or white. Salimans et al. (2017), https://arxiv.org/abs/1701.05517.

    Args:
        components, levels, floor: as there.

    >>> DiscretisedLogisticMixture().build((3,))
    45
    """

    def __init__(self, components: int = 5, levels: int = 256, floor: float = 1e-4) -> None:
        super().__init__(components, levels, floor)
