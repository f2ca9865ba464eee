"""Laplace prior."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.priors.location_scale import LocationScale


class Laplace(LocationScale):
    r"""Laplace prior, for sparse codes: :math:`p(z) = \prod_d \frac{1}{2b_d} e^{-|z_d - \mu_d| / b_d}`.

    Sharper at 0 than the normal, with heavier tails. Its scale b is not a standard deviation: the
    variance is 2 b^2. Unlike the normal it is not the same in every rotation of z, which ties the axes to the data.
    After Olshausen & Field (1996), https://doi.org/10.1038/381607a0.

    Args:
        learned: False for Laplace(0, 1); True, to train mean and scale; or ``"ard"``, to train the scale alone (see
            `pyrovae.priors.Normal`).
        floor: the least scale, where learned.

    >>> import torch
    >>> prior = Laplace()
    >>> prior.build((2,))
    0
    >>> prior(None).log_prob(torch.zeros(2))  # -2 log 2
    tensor(-1.3863)
    """

    def element(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale)
