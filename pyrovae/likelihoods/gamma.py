"""Gamma likelihood."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae import distributions
from pyrovae.distributions import inverse_scale, positive, to_scale
from pyrovae.piece import Piece

LEAST_MEAN = 1e-6


class Gamma(Piece):
    r"""Gamma likelihood of positive data, by its mean and its shape :math:`k = 1 / s^2`.

    .. math:: \log p(x \mid z) = k \log \frac{k}{m(z)} + (k - 1) \log x - \frac{k x}{m(z)} - \log \Gamma(k)

    The network gives the mean m, at least 1e-6, and the coefficient of variation s (standard deviation over mean),
    both for each row and element. For durations, amounts and intensities whose spread grows with their mean;
    ``"log_normal"`` has the heavier tail. See McCullagh & Nelder (1989), chapter 8, https://doi.org/10.1201/9780203753736.

    Args:
        floor: the least coefficient of variation.

    >>> likelihood = Gamma()
    >>> likelihood.build((3,))
    6
    >>> likelihood(torch.zeros(1, 6)).mean  # log 2
    tensor([[0.6931, 0.6931, 0.6931]])
    """

    numbers = 2
    support = constraints.positive
    remedy = "Drop or shift zeros, or use likelihood='gaussian' for real numbers."

    def __init__(self, floor: float = 1e-3) -> None:
        super().__init__()
        self.floor = positive(floor, "Gamma floor: expected")

    def forward(self, params: Tensor) -> TorchDistribution:
        raw_mean, raw_spread = self.split(params)
        shape = to_scale(raw_spread, self.floor) ** -2
        return distributions.Gamma(shape, shape / to_scale(raw_mean, LEAST_MEAN)).to_event(len(self.event_shape))

    def features(self, x: Tensor) -> Tensor:
        # Data that vary by factors would drown the network in their greatest values. It is tried on zeros first.
        return x.clamp_min(torch.finfo(x.dtype).tiny).log()

    def initial(self, x: Tensor) -> Tensor:
        mean = x.mean(0)
        spread = x.std(0, correction=0) / mean
        return torch.cat([inverse_scale(mean, LEAST_MEAN).flatten(), inverse_scale(spread, self.floor).flatten()])
