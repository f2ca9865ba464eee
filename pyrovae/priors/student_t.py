"""Student t prior."""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
from torch import Tensor

from pyrovae.distributions import positive
from pyrovae.priors.location_scale import LocationScale


class StudentT(LocationScale):
    r"""Student t prior, independent in each latent.

    .. math::
        p(z_d) \propto \left(1 + \frac{(z_d - \mu_d)^2}{\nu \sigma_d^2}\right)^{-(\nu + 1) / 2}

    For heavy tails, which let a few rows lie far out; the smaller :math:`\nu`, the heavier, from the Cauchy at 1 to
    the normal as it grows. The variance is :math:`\sigma^2 \nu / (\nu - 2)`, infinite up to :math:`\nu = 2`. As a
    prior of axis-aligned codes see Mathieu et al. (2019), https://arxiv.org/abs/1812.02833.

    Args:
        df: degrees of freedom :math:`\nu`.
        learned: False for location 0 and scale 1; True, to train both; or ``"ard"``, to train the scale alone (see
            `pyrovae.priors.Normal`).
        floor: the least scale, where learned.

    >>> import torch
    >>> prior = StudentT(df=1.0)
    >>> prior.build((1,))
    0
    >>> prior(None).log_prob(torch.zeros(1))  # Cauchy: -log(pi)
    tensor(-1.1447)
    """

    def __init__(self, df: float = 4.0, learned: bool | Literal["ard"] = False, floor: float = 1e-3) -> None:
        super().__init__(learned, floor)
        self.df = positive(df, "student_t df: expected")

    def element(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.StudentT(loc.new_tensor(self.df), loc, scale)
