"""Bounds from Renyi's divergences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from pyrovae.elbos.bound import Bound, log_mean_exp


@dataclass(eq=False)
class Renyi(Bound):
    r"""Variational Renyi bound of order alpha,

    .. math:: L_\alpha = \frac{1}{1 - \alpha} \log \frac1K \sum_{k=1}^K w_k^{1 - \alpha},

    the ELBO at alpha = 1, `IWAE` at 0, the largest weight at -inf. Below log p(x) for alpha >= 0; for alpha < 0 an
    upper bound as K grows, of which K draws see less than the whole.

    Reference: Li and Turner, 2016, https://arxiv.org/abs/1602.02311

    Args:
        alpha: the order, any number or -inf.
    """

    alpha: float = field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha < math.inf:
            raise ValueError(f"alpha: expected a number below inf, got {self.alpha}")

    @property
    def side(self) -> int:
        return -1 if self.alpha >= 0 else 0

    def bound(self, log_weights: Tensor) -> Tensor:
        if self.alpha == 1:
            return log_weights.mean(0)
        if self.alpha == -math.inf:
            return log_weights.amax(0)
        power = 1 - self.alpha
        return log_mean_exp(power * log_weights) / power
