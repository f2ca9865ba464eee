"""Student's t likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions import inverse_scale, positive, to_scale
from pyrovae.likelihoods.location_scale import LocationScale, Mode

LEAST_DF = 2.1
"""The least learned degrees of freedom: at 2 the variance is infinite."""


class StudentT(LocationScale):
    r"""Student's t likelihood of real data with heavy tails.

    .. math:: p(x \mid z) \propto \frac1\sigma \left(1 + \frac{(x - \mu(z))^2}{\nu \sigma^2}\right)^{-(\nu + 1) / 2}

    An outlier costs only the logarithm of its distance, so it is left alone where a Gaussian would move for it. Where
    the scale comes from is as for the Gaussian; its standard deviation is :math:`\sigma \sqrt{\nu / (\nu - 2)}`. See
    Takahashi et al. (2018), https://doi.org/10.24963/ijcai.2018/374.

    Args:
        df: degrees of freedom :math:`\nu`: a number above 2, or "shared": one learned for all elements, from 4, above
            2.1.
        scale: a positive number, "shared", "per_dimension" or "network".
        floor: the least learned scale, in units of x.

    >>> likelihood = StudentT(df=3.0, scale=1.0)
    >>> likelihood.build((2,))
    2
    >>> likelihood(torch.zeros(1, 2)).log_prob(torch.zeros(2))  # 2 log(2 / (pi sqrt 3))
    tensor([-2.0018])
    """

    def __init__(
        self, df: float | Literal["shared"] = 4.0, scale: float | Mode = "shared", floor: float = 1e-3
    ) -> None:
        super().__init__(scale, floor)
        self.df = df if df == "shared" else positive(df, "StudentT df: expected shared, or")
        if df != "shared" and self.df <= 2:
            raise ValueError(
                f"StudentT df: expected shared, or a number above 2, got {df!r}, for which the variance is infinite"
            )

    @property
    def deviation(self) -> float:
        df = float(self._df())
        return math.sqrt(df / (df - 2))

    def build(self, event_shape: Sequence[int]) -> int:
        if self.df == "shared":
            self.raw_df = nn.Parameter(inverse_scale(torch.tensor(4.0), LEAST_DF))
        return super().build(event_shape)

    def element(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.StudentT(self._df(), loc, scale)

    def _df(self) -> float | Tensor:
        return to_scale(self.raw_df, LEAST_DF) if self.df == "shared" else self.df
