"""Laplace likelihood."""

from __future__ import annotations

import math

import pyro.distributions as dist
from torch import Tensor

from pyrovae.likelihoods.location_scale import LocationScale


class Laplace(LocationScale):
    r"""Laplace likelihood of real data with outliers: :math:`\log p(x \mid z) = -|x - \mu(z)| / b - \log 2b`.

    The mean absolute error as a density: the decoder gives medians, and outliers pull less than on a Gaussian. Where
    the scale comes from is as for the Gaussian; its standard deviation is :math:`\sqrt 2\, b`. Its use in place of the
    squared error is that of Bloesch et al. (2018), https://arxiv.org/abs/1804.00874.

    Args:
        scale: b: a positive number, "shared", "per_dimension" or "network".
        floor: the least learned b, in units of x.

    >>> import torch
    >>> likelihood = Laplace(scale=1.0)
    >>> likelihood.build((2,))
    2
    >>> likelihood(torch.zeros(1, 2)).log_prob(torch.zeros(2))  # -2 log 2
    tensor([-1.3863])
    """

    deviation = math.sqrt(2)

    def element(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale)
