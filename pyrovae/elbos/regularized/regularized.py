"""What all regularised ELBOs have in common: the reconstruction of each row, less a penalty for the batch."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from pyrovae.elbos.draws import Draws, Program
from pyrovae.elbos.estimator import Estimator
from pyrovae.elbos.regularized.latent import Latent


@dataclass(eq=False)
class Regularized(Estimator):
    r"""Reconstruction less a penalty, of a batch of B rows with K draws :math:`z_{kn} \sim q(z \mid x_n)` each,

    .. math:: \sum_n \frac1K \sum_k \log p(x_n \mid z_{kn}) \;-\; B \cdot \text{penalty}(q, p, z).

    A member says what the penalty is, in nats a row, as a function of the whole batch (`Latent`): the mean KL gives the
    ELBO. The factor N/B of subsampling multiplies both; a weight on the KL term (`KLWeight`, ``beta`` and ``warmup`` of
    `pyrovae.fit`) multiplies the penalty. Works on any Pyro model and guide with one latent site, reparameterised.

    Args:
        num_particles: K.
        max_plate_nesting: plates of the model; by default it is run once to see.

    >>> import pyro, pyrovae
    >>> vae = pyrovae.VAE((4,), 2, likelihood="gaussian")
    >>> optim = pyro.optim.Adam({"lr": 1e-3})
    >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim, pyrovae.elbos.FreeBits(nats=0.5))
    >>> loss = svi.step(torch.randn(100, 4))
    """

    def __copy__(self) -> Self:
        # A copy is for another model: what this one has learned and counted is not for that.
        return replace(self)

    @abstractmethod
    def penalty(self, latent: Latent) -> Tensor:
        """What a row of this batch pays on average, in nats."""

    def advance(self, latent: Latent) -> None:  # noqa: B027 - most have nothing to do
        """Whatever changes from one step of training to the next, after the gradient has been taken."""

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:  # noqa: ANN401
        """Minus the scaled objective, in nats."""
        with torch.no_grad():
            return float(self._loss(self.draw(self.num_particles, model, guide, args, kwargs))[0])

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """`loss` as a tensor with its gradient."""
        return self._loss(self.draw(self.num_particles, model, guide, args, kwargs))[0]

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:  # noqa: ANN401
        """The value of `loss`; adds its gradient to that of the parameters, and counts as a step of training."""
        loss, latent = self._loss(self.draw(self.num_particles, model, guide, args, kwargs))
        if loss.requires_grad:
            loss.backward()
        self.advance(latent)
        return float(loss.detach())

    def _loss(self, draws: Draws) -> tuple[Tensor, Latent]:
        latent = Latent(draws, type(self).__name__)
        reconstruction = (draws.observed_scale * draws.observed.mean(0)).sum()
        return latent.scale * latent.rows * self.penalty(latent) - reconstruction, latent


def amount(value: float, name: str) -> float:
    """``value``, if it is a finite number of at least 0; otherwise a ValueError that names it."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")
    return value
