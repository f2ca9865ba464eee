"""Log-normal likelihood."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae import distributions
from pyrovae.likelihoods.location_scale import LocationScale


class LogNormal(LocationScale):
    r"""Log-normal likelihood of positive data: :math:`\log x \sim \mathcal{N}(\mu(z), \sigma^2)`.

    A Gaussian of log x with the Jacobian :math:`-\log x` in the density, so that its log p(x) compares with that of
    other likelihoods of the same data. For what varies by factors: incomes, concentrations, durations. See Limpert,
    Stahel & Abbt (2001), https://doi.org/10.1641/0006-3568%282001%29051%5B0341:LNDATS%5D2.0.CO;2.

    Args:
        scale: the standard deviation of log x: a positive number, "shared", "per_dimension" or "network".
        floor: the least learned scale, of log x.

    >>> likelihood = LogNormal(scale=1.0)
    >>> likelihood.build((2,))
    2
    >>> likelihood(torch.zeros(1, 2)).log_prob(torch.ones(2))  # -log(2 pi)
    tensor([-1.8379])
    """

    support = constraints.positive
    remedy = "Drop or shift zeros, or use likelihood='gaussian' for real numbers."

    def element(self, loc: Tensor, scale: Tensor) -> distributions.LogNormal:
        return distributions.LogNormal(loc, scale)

    def features(self, x: Tensor) -> Tensor:
        # Data that vary by factors would drown the network in their greatest values. It is tried on zeros first.
        return x.clamp_min(torch.finfo(x.dtype).tiny).log()

    def initial(self, x: Tensor) -> Tensor:
        return super().initial(x.log())
