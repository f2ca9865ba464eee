"""Beta likelihood."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import distributions
from pyrovae.distributions import inverse_scale, open_unit_interval, positive, to_scale
from pyrovae.piece import Piece

EDGE = 1e-6
"""How near the mean comes to 0 and 1: near enough to be there, and far enough to be told from 1 in float32."""


class Beta(Piece):
    r"""Beta likelihood of data between 0 and 1, by its mean :math:`\mu` and its concentration :math:`c = 1 / s^2`.

    .. math:: p(x \mid z) = \frac{x^{c\mu - 1} (1 - x)^{c(1 - \mu) - 1}}{\mathrm{B}(c\mu, c(1 - \mu))}, \qquad
        \operatorname{sd}(x) = s \sqrt{\frac{\mu (1 - \mu)}{1 + s^2}}

    The network gives the logit of :math:`\mu` and the spread s, both for each row and element. For proportions and
    rates, which are never exactly 0 or 1: there the density is 0 or infinite. Ferrari & Cribari-Neto (2004),
    https://doi.org/10.1080/0266476042000214501.

    Args:
        floor: the least spread s.

    >>> likelihood = Beta()
    >>> likelihood.build((3,))
    6
    >>> likelihood(torch.zeros(1, 6)).mean
    tensor([[0.5000, 0.5000, 0.5000]])
    """

    numbers = 2
    support = open_unit_interval
    remedy = (
        "Use likelihood='continuous_bernoulli', which takes 0 and 1 too, or likelihood='gaussian' for real numbers."
    )

    def __init__(self, floor: float = 1e-3) -> None:
        super().__init__()
        self.floor = positive(floor, "Beta floor: expected")

    def forward(self, params: Tensor) -> TorchDistribution:
        logit, raw_spread = self.split(params)
        concentration = to_scale(raw_spread, self.floor) ** -2
        # Each from its own sigmoid: 1 - mean would lose the digits of a mean near 1.
        a, b = (concentration * (EDGE + (1 - 2 * EDGE) * torch.sigmoid(side)) for side in (logit, -logit))
        return distributions.Beta(a, b).to_event(len(self.event_shape))

    def initial(self, x: Tensor) -> Tensor:
        mean, variance = x.mean(0), x.var(0, correction=0)
        # Rows of nothing but near-0 and near-1 leave no more than rounding between the variance and the most it can be.
        left = (mean * (1 - mean) - variance).clamp_min(torch.finfo(x.dtype).eps)
        spread = (variance / left).sqrt()
        logit = torch.logit((mean - EDGE) / (1 - 2 * EDGE), eps=EDGE)
        return torch.cat([logit.flatten(), inverse_scale(spread, self.floor).flatten()])
