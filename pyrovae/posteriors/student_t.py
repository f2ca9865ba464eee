"""Student t posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions import inverse_scale, positive, to_scale
from pyrovae.posteriors.location_scale import LocationScale

LEAST_DF = 2.1
"""Of learned degrees of freedom: at 2 the variance is infinite, and with it the KL to a normal prior."""


class StudentT(LocationScale):
    r"""Student t posterior, with heavy tails: :math:`q(z \mid x) = \prod_d t_\nu(z_d; \mu_d(x), \sigma_d(x))`.

    Its heavy tails can keep importance weights p(z, x) / q(z | x) bounded where a normal's are not: for the
    importance-weighted bounds and for log p(x). Domke & Sheldon (2018), https://arxiv.org/abs/1808.09034.

    Args:
        df: degrees of freedom, a number above 2, or ``"shared"``: learned, one for all rows and dimensions, from 5.
        floor: the least scale.

    >>> posterior = StudentT(df=4)
    >>> posterior.build((2,))
    4
    >>> posterior(torch.zeros(3, 4)).event_shape
    torch.Size([2])
    """

    def __init__(self, df: float | Literal["shared"] = "shared", floor: float = 1e-4) -> None:
        super().__init__(floor)
        known = "student_t df: expected shared, or"
        self.df = df if df == "shared" else positive(df, known)
        if df != "shared" and self.df <= 2:
            raise ValueError(f"{known} a number above 2, below which the variance is infinite, got {df!r}")

    def build(self, event_shape: Sequence[int]) -> int:
        if self.df == "shared":
            self.raw_df = nn.Parameter(inverse_scale(torch.tensor(5.0), LEAST_DF))
        return super().build(event_shape)

    def element(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        df = to_scale(self.raw_df, LEAST_DF) if self.df == "shared" else loc.new_tensor(self.df)
        return dist.StudentT(df, loc, scale)
