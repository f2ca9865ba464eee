"""What a method for a posterior over decoder weights is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.func import functional_call

from pyrovae import hierarchy
from pyrovae.training.batches import bounds
from pyrovae.vae import VAE


class Weights(Protocol):
    """A distribution over all the weights in one vector, of length P: any Pyro distribution of such events is one.

    Attributes:
        mean: ``(P,)``.
        variance: of each weight, ``(P,)``.
    """

    mean: Tensor
    variance: Tensor

    def sample(self, sample_shape: torch.Size) -> Tensor:
        """Draws ``(*sample_shape, P)``."""


class Fitted(NamedTuple):
    """What a method gives: the distribution of the weights, and its objective at each step, in nats per row."""

    weights: Weights
    history: list[float]


@dataclass(frozen=True)
class Task:
    """A posterior over the weights ``names`` of a decoder, given rows.

    Attributes:
        vae: the model, in evaluation mode and frozen.
        x: rows ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, or None.
        names: of the weights, as parameters of ``vae.likelihood``.
        prior_scale: s of their prior N(0, s^2).
        steps: steps to take.
        lr: of the optimizer.
        batch_size: rows in a step.
        num_particles: draws of z for each row.
        rank: of a covariance of low rank.
        tick: to be told of each step.
    """

    vae: VAE
    x: Tensor
    condition: Tensor | None
    names: tuple[str, ...]
    prior_scale: float
    steps: int
    lr: float
    batch_size: int
    num_particles: int
    rank: int
    tick: Callable[[], object]

    @property
    def start(self) -> Tensor:
        """The trained weights, ``(P,)``."""
        return flat(self.vae.likelihood, self.names)

    def likelihood(self, weights: Tensor, z: Tensor, condition: Tensor | None) -> TorchDistribution:
        """p(x | z, W) with weights ``(P,)`` in the place of the trained ones."""
        decoder = self.vae.likelihood
        return functional_call(decoder, unflat(decoder, self.names, weights), (z, condition))

    def rows(self, index: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """Some of the rows, with their condition."""
        return self.x[index], None if self.condition is None else self.condition[index]

    def latents(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """A draw of the z next to x from the guide for each row, ``(B, D)``."""
        with torch.no_grad():
            return hierarchy.draw_posterior(self.vae, x, condition, self.vae.sites)

    def batches(self) -> Iterator[Tensor]:
        """Which rows, for step after step: each once before any comes again, in an order that is new each time."""
        while True:
            order = torch.randperm(len(self.x), device=self.x.device)
            for first, last in bounds(len(order), self.batch_size):
                yield order[first:last]

    def check(self, objective: float, step: int) -> None:
        """Raise a FloatingPointError for an objective that is not finite."""
        if not -torch.inf < objective < torch.inf:
            raise FloatingPointError(
                f"decoder_posterior: expected a finite objective, got {objective} at step {step + 1}. "
                f"Try a lower lr (now {self.lr:g})."
            )


def flat(module: nn.Module, names: tuple[str, ...]) -> Tensor:
    """Parameters of a module in one vector."""
    return torch.cat([module.get_parameter(name).detach().flatten() for name in names])


def unflat(module: nn.Module, names: tuple[str, ...], values: Tensor) -> dict[str, Tensor]:
    """From vectors ``(..., P)`` to the parameters of a module that are in them, ``(..., *shape)`` each."""
    shapes = [module.get_parameter(name).shape for name in names]
    parts = values.split([shape.numel() for shape in shapes], -1)
    return {
        name: part.unflatten(-1, shape) if shape else part.squeeze(-1)
        for name, shape, part in zip(names, shapes, parts, strict=True)
    }
