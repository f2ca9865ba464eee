"""The thermodynamic variational objective."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyrovae.checks import count
from pyrovae.elbos.bound import Bound, Weights


@dataclass(eq=False)
class TVO(Bound):
    r"""Thermodynamic variational objective: a left Riemann sum of thermodynamic integration,

    .. math:: \sum_{s=0}^{S-1} (\beta_{s+1} - \beta_s) \, \mathrm{E}_{\pi_{\beta_s}}[\log w], \qquad
        \pi_\beta(z) \propto p(x, z)^\beta \, q(z \mid x)^{1 - \beta},

    with :math:`0 = \beta_0 < \dots < \beta_S = 1` and each mean by the same K draws from q with weights
    :math:`w_k^\beta`. On K draws the integral itself is `IWAE`'s value and the integrand rises, so that this is below
    IWAE, and the ELBO at S = 1.

    The gradient needs no reparameterisation: :math:`\nabla \mathrm{E}_\pi[f] = \mathrm{E}_\pi[\nabla f] +
    \operatorname{Cov}_\pi(\nabla \log \tilde \pi, f)`, estimated by the same weights, and so with a bias that falls
    with K (none at S = 1).

    Reference: Masrani, Le and Wood, 2019, https://arxiv.org/abs/1907.00031

    Args:
        partitions: S, the terms of the sum.
        first_beta: the first beta above 0; the others rise to 1 by a constant factor.
    """

    gradient = "score"
    least = 2
    num_particles: int = 2
    partitions: int = field(default=2, kw_only=True)
    first_beta: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        count(self.partitions, "partitions", 1)
        if not 0 < self.first_beta < 1:
            raise ValueError(f"first_beta: expected a number between 0 and 1, got {self.first_beta}")

    def bound(self, log_weights: Tensor) -> Tensor:
        weights, steps, _ = self._parts(log_weights)
        return (steps * weights * log_weights).sum((0, 1))

    def weights(self, log_weights: Tensor) -> Weights:
        weights, steps, betas = self._parts(log_weights)
        deviation = log_weights - (weights * log_weights).sum(1, keepdim=True)
        # As for any sample covariance: with it, the term of beta = 0 is exact in the mean.
        deviation = deviation * len(log_weights) / (len(log_weights) - 1)
        model = steps * weights * (1 + betas * deviation)
        score = steps * weights * ((1 - betas) * deviation - 1)
        return Weights(model.sum(0), score=score.sum(0))

    def _parts(self, log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised weights ``(S, K, *rows)`` at each beta, and steps and betas that multiply them."""
        exponents = torch.linspace(0, 1, self.partitions, dtype=torch.float64)
        grid = torch.cat([torch.zeros(1), self.first_beta ** (1 - exponents)]) if self.partitions > 1 else None
        grid = torch.tensor([0.0, 1.0]) if grid is None else grid
        grid = grid.to(log_weights).reshape(-1, *[1] * log_weights.ndim)
        betas = grid[:-1]
        return (betas * log_weights).softmax(1), grid.diff(dim=0), betas
