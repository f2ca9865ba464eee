"""Controlled capacity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from pyrovae.checks import count
from pyrovae.elbos.regularized.latent import Latent
from pyrovae.elbos.regularized.regularized import Regularized, amount


@dataclass(eq=False)
class Capacity(Regularized):
    r"""KL held at a capacity C, which rises as training goes,

    .. math:: \mathrm{E}_q[\log p(x \mid z)] - \gamma \, \Bigl| \frac1B \sum_n \mathrm{KL}\bigl(q(z \mid x_n) \,\|\,
        p(z)\bigr) - C \Bigr|,

    for latents that are taken up one by one, the most useful first. No bound: at C nats the KL costs nothing.

    Reference: Burgess et al., 2018, https://arxiv.org/abs/1804.03599

    Args:
        nats: the last C, in nats a row.
        gamma: how tightly the KL is held there.
        steps: steps of training (calls of `loss_and_grads`) over which C rises from 0; 0: it is ``nats`` throughout.
    """

    stateful: ClassVar[bool] = True

    nats: float = field(default=25.0, kw_only=True)
    gamma: float = field(default=100.0, kw_only=True)
    steps: int = field(default=0, kw_only=True)
    taken: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        amount(self.nats, "nats")
        amount(self.gamma, "gamma")
        count(self.steps, "steps", 0)

    @property
    def capacity(self) -> float:
        """C at the next step."""
        return self.nats * min(1.0, self.taken / self.steps) if self.steps else self.nats

    def penalty(self, latent: Latent) -> Tensor:
        return self.gamma * (latent.kl.mean() - self.capacity).abs()

    def advance(self, latent: Latent) -> None:
        self.taken += 1
