"""FactorVAE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from pyrovae.distributions import positive
from pyrovae.elbos.regularized.latent import Latent
from pyrovae.elbos.regularized.regularized import Regularized, amount
from pyrovae.networks.mlp import MLP, check_widths


@dataclass(eq=False)
class FactorVAE(Regularized):
    r"""ELBO less the total correlation of the aggregate posterior :math:`q(z) = \frac1N \sum_n q(z \mid x_n)`,

    .. math:: \mathrm{ELBO} - \gamma \, \mathrm{KL}\bigl(q(z) \,\|\, \textstyle\prod_d q(z_d)\bigr), \qquad
        \mathrm{KL} \approx \frac1B \sum_n \log \frac{D(z_n)}{1 - D(z_n)},

    for latents that are independent of one another over the data. The discriminator D learns to tell draws of q(z) from
    those whose dimensions are permuted over the rows, by a step of Adam after each step of the model. It is made at
    first use, from torch's random numbers, is no part of the model, and is not saved with it. Below the ELBO as far as
    D has learned. Each batch needs two rows or more.

    Reference: Kim and Mnih, 2018, https://arxiv.org/abs/1802.05983

    Args:
        gamma: weight of the total correlation.
        hidden: widths of D's layers (in the paper, six of 1000).
        lr: the learning rate of D.
    """

    stateful: ClassVar[bool] = True

    gamma: float = field(default=10.0, kw_only=True)
    hidden: Sequence[int] = field(default=(256, 256, 256), kw_only=True)
    lr: float = field(default=1e-4, kw_only=True)
    _discriminator: nn.Module | None = field(default=None, init=False, repr=False)
    _optimizer: Adam | None = field(default=None, init=False, repr=False)
    _kind: tuple[object, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        amount(self.gamma, "gamma")
        positive(self.lr, "lr: expected")
        self.hidden = check_widths(self.hidden, "expected hidden")

    def penalty(self, latent: Latent) -> Tensor:
        latent.at_least(2)
        return latent.kl.mean() + self.gamma * self.total_correlation(latent.z)

    def total_correlation(self, z: Tensor) -> Tensor:
        """The estimate, in nats, at draws ``(..., B, D)`` of q(z)."""
        return self.log_ratio(z).mean()

    def advance(self, latent: Latent) -> None:
        self.learn(latent.z)

    def log_ratio(self, z: Tensor) -> Tensor:
        """The logit of D, an estimate of log q(z) - sum of log q(z_d), at draws ``(..., D)``: ``(...)``."""
        return self._made_for(z)(z.flatten(0, -2)).reshape(z.shape[:-1])

    def learn(self, z: Tensor) -> float:
        """A step of D at draws ``(..., B, D)`` of q(z); returns its cross-entropy before, in nats."""
        z = z.detach()
        discriminator = self._made_for(z).requires_grad_()
        permuted = z.gather(-2, torch.rand_like(z).argsort(-2))
        loss = (F.softplus(-self.log_ratio(z)).mean() + F.softplus(self.log_ratio(permuted)).mean()) / 2
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        # The model's gradient goes through D and has no use for that of its weights.
        discriminator.requires_grad_(False)
        return float(loss.detach())

    def _made_for(self, z: Tensor) -> nn.Module:
        """The discriminator; a new one where there is none for draws like these."""
        kind = (z.shape[-1], z.dtype, z.device)
        if self._discriminator is None or self._kind != kind:
            made = nn.Sequential(MLP(z.shape[-1:], self.hidden, "leaky_relu"), nn.Linear(self.hidden[-1], 1))
            # It has nothing to say before it has learned.
            nn.init.zeros_(made[1].weight)
            nn.init.zeros_(made[1].bias)
            made.to(z).requires_grad_(False)
            self._discriminator, self._kind = made, kind
            self._optimizer = Adam(made.parameters(), lr=self.lr, betas=(0.5, 0.9))
        return self._discriminator
