"""InfoVAE, by the maximum mean discrepancy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pyrovae.distributions import positive
from pyrovae.elbos.regularized.latent import Latent
from pyrovae.elbos.regularized.regularized import Regularized, amount
from pyrovae.registry import choose

KERNELS = ("inverse_multiquadratic", "rbf")


@dataclass(eq=False)
class InfoVAE(Regularized):
    r"""InfoVAE: part of the KL of each row in exchange for a distance of the aggregate posterior q(z) from the prior,

    .. math:: \mathrm{E}_q[\log p(x \mid z)] - (1 - \alpha) \, \mathrm{KL}\bigl(q(z \mid x) \,\|\, p(z)\bigr)
        - (\alpha + \lambda - 1) \, \mathrm{MMD}^2\bigl(q(z), p(z)\bigr),

    so that z may say more about x. At alpha = 1 it is MMD-VAE, a Wasserstein autoencoder whose posterior has noise
    (Tolstikhin et al. 2018, https://arxiv.org/abs/1711.01558); at alpha = 0, lambda = 1 the ELBO. Below the ELBO, in
    the mean, where alpha is at most 0; no bound elsewhere. The squared MMD is a U-statistic over pairs of different
    rows of the batch, each with a draw from the model's own prior: without bias, and so below 0 at times. Its unit is
    not the nat, and its kernel at most 1, hence the great weight. Each batch needs two rows or more.

    Reference: Zhao, Song and Ermon, 2019, https://arxiv.org/abs/1706.02262

    Args:
        alpha: share of the KL that is given up, at most 1; below 0, the KL weighs more.
        weight: :math:`\lambda`, at least 1 - alpha.
        kernel: "inverse_multiquadratic", :math:`1 / (1 + r)`, or "rbf", :math:`e^{-r}`, with
            :math:`r = \|z - z'\|^2 / (2 D s^2)`: for draws from N(0, I), 1 on average at s = 1.
        scale: s.
    """

    alpha: float = field(default=0.0, kw_only=True)
    weight: float = field(default=1000.0, kw_only=True)
    kernel: Literal["inverse_multiquadratic", "rbf"] = field(default="inverse_multiquadratic", kw_only=True)
    scale: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -math.inf < self.alpha <= 1:
            raise ValueError(f"alpha: expected a finite number of at most 1, got {self.alpha!r}")
        amount(self.weight, "weight")
        if self.alpha + self.weight < 1:
            raise ValueError(f"weight: expected at least 1 - alpha = {1 - self.alpha:g}, got {self.weight:g}")
        choose(self.kernel, KERNELS, "kernel")
        positive(self.scale, "scale: expected")

    def penalty(self, latent: Latent) -> Tensor:
        latent.at_least(2)
        mmd = self.mmd(latent.z, latent.draw_prior()).mean()
        return (1 - self.alpha) * latent.kl.mean() + (self.alpha + self.weight - 1) * mmd

    def mmd(self, z: Tensor, other: Tensor) -> Tensor:
        """The squared MMD of two samples ``(..., B, D)``, paired row by row: ``(...)``."""
        # Pairs of different rows alone: draws for the same row are not independent where the prior has a condition.
        cross = self._kernel(z, other)
        each = self._kernel(z, z) + self._kernel(other, other) - cross - cross.mT
        rows = z.shape[-2]
        different = ~torch.eye(rows, dtype=torch.bool, device=z.device)
        return torch.where(different, each, 0.0).sum((-2, -1)) / (rows * (rows - 1))

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        square = (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1) / (2 * a.shape[-1] * self.scale**2)
        return (-square).exp() if self.kernel == "rbf" else 1 / (1 + square)
