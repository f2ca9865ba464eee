"""Gamma posterior."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyrovae import distributions
from pyrovae.distributions import positive, to_scale
from pyrovae.piece import Piece


class Gamma(Piece):
    r"""Gamma posterior of positive codes: :math:`q(z \mid x) = \prod_d \Gamma(z_d; \alpha_d, \alpha_d / \mu_d)`.

    The network gives the mean :math:`\mu` and the concentration :math:`\alpha`. Draws are
    reparameterised implicitly, Figurnov, Mohamed & Mnih (2018), https://arxiv.org/abs/1805.08498.

    Args:
        floor: the least concentration; below about 0.2, draws underflow in float32.
        mean_floor: the least mean.

    >>> import torch
    >>> posterior = Gamma()
    >>> posterior.build((2,))
    4
    >>> posterior(torch.zeros(3, 4)).event_shape
    torch.Size([2])
    """

    support = constraints.positive
    numbers = 2

    def __init__(self, floor: float = 0.2, mean_floor: float = 1e-4) -> None:
        super().__init__()
        self.floor = positive(floor, "gamma floor: expected")
        self.mean_floor = positive(mean_floor, "gamma mean_floor: expected")

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        raw_mean, raw_concentration = self.split(params)
        concentration = to_scale(raw_concentration, self.floor)
        rate = concentration / to_scale(raw_mean, self.mean_floor)
        return distributions.Gamma(concentration, rate).to_event(len(self.event_shape))
