"""Tail-adaptive f-divergences."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyrovae.elbos.bound import Weights
from pyrovae.elbos.iwae import IWAE


@dataclass(eq=False)
class TailAdaptive(IWAE):
    r"""Guide trained under an f-divergence that adapts to the tail of the weights: draw k counts by its rank,

    .. math:: \gamma_k \propto \hat F(w_k)^\beta, \qquad \hat F(w) = \frac1K \#\{j : w_j \ge w\}, \qquad
        \nabla_\phi \approx \sum_k \gamma_k \, \partial_{z_k} \log w_k \, \partial_\phi z_k,

    so that weights without a finite variance do no harm. The value, and the gradient of the model, are `IWAE`'s.
    (Pyro's TraceTailAdaptive_ELBO takes the order of the weights for their ranks.)

    Reference: Wang, Liu and Liu, 2018, https://arxiv.org/abs/1810.11943

    Args:
        beta: the exponent, from -1 (the paper's) to 0 (all draws alike).
    """

    gradient = "path"
    least = 2
    num_particles: int = 2
    beta: float = field(default=-1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.beta <= 0:
            raise ValueError(f"beta: expected a number between -1 and 0, got {self.beta}")

    def weights(self, log_weights: Tensor) -> Weights:
        by_row = log_weights.movedim(0, -1).contiguous()
        less = torch.searchsorted(by_row.sort(-1).values, by_row)
        not_less = (len(log_weights) - less).movedim(-1, 0).to(log_weights)
        power = not_less**self.beta
        return Weights(log_weights.softmax(0), power / power.sum(0))
