"""Jackknife variational inference."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from pyrovae.checks import count
from pyrovae.elbos.bound import Bound, log_mean_exp, sum_without_each


@dataclass(eq=False)
class Jackknife(Bound):
    r"""Importance-weighted bound with its bias in 1/K taken off up to order m,

    .. math:: \sum_{j=0}^m (-1)^j \frac{(K - j)^m}{(m - j)! \, j!} \, \bar L_{K-j},

    where :math:`\bar L_{K-j}` is the mean of the bounds of all subsets that leave j draws out. The bias falls from
    O(1/K) to O(1/K^(m+1)); the variance rises with m; no bound any more, because it may lie above log p(x).

    Reference: Nowozin, 2018, https://openreview.net/forum?id=HyZoi-WRb

    Args:
        num_particles: K, above m.
        order: m; the cost of order 2 and more grows with K to that power.
    """

    num_particles: int = 2
    order: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        count(self.order, "order", 0)
        if self.num_particles <= self.order:
            raise ValueError(f"num_particles: expected more than order={self.order}, got {self.num_particles}")

    @property
    def side(self) -> int:
        return 0 if self.order else -1

    def bound(self, log_weights: Tensor) -> Tensor:
        draws, order = len(log_weights), self.order
        return sum(
            (-1) ** left_out
            * (draws - left_out) ** order
            / (math.factorial(order - left_out) * math.factorial(left_out))
            * _mean_without(log_weights, left_out)
            for left_out in range(order + 1)
        )


def _mean_without(log_weights: Tensor, left_out: int) -> Tensor:
    """Mean over all choices of draws to leave out of the bound of the others."""
    draws = len(log_weights)
    if left_out == 0:
        return log_mean_exp(log_weights)
    if left_out == 1:
        return (sum_without_each(log_weights) - math.log(draws - 1)).mean(0)
    kept = torch.tensor(list(combinations(range(draws), draws - left_out)), device=log_weights.device)
    return log_mean_exp(log_weights[kept], 1).mean(0)
