"""What a sampler of the posterior is asked for, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.evaluation.coordinates import Coordinates, Density, Latents, coordinates, latents
from pyrovae.evaluation.states import States
from pyrovae.vae import VAE

DISPERSION = 2.0
"""How many times as far from the middle as draws of the guide chains start: draws of the guide itself would agree with
one another wherever it is too narrow, and r-hat with them."""


class Draws(NamedTuple):
    """z of shape ``(num_chains, num_samples, B, D)``, all layers side by side, and statistics: name to dims and
    values."""

    z: Tensor
    stats: dict[str, tuple[tuple[str, ...], Tensor]]


@dataclass(frozen=True)
class Task:
    """Draws of p(z | x) of B rows, of each so many chains of so many draws.

    Attributes:
        vae: the model, frozen.
        x: rows ``(B, *event_shape)``.
        condition: ``(B, condition_dim)``, or None.
        num_chains: chains for each row.
        num_samples: draws of each chain.
        warmup: moves of each chain before the first draw, in which the kernel is adapted.
        leapfrog: the most steps of the integrator in a move.
        chunk: z's that go through the decoder at once.
        states: those of chains under log p(x, z).
        tick: to be told of the moves that are done, rows times moves.
    """

    vae: VAE
    x: Tensor
    condition: Tensor | None
    num_chains: int
    num_samples: int
    warmup: int
    leapfrog: int
    chunk: int
    states: States
    tick: Callable[[int], object]

    def space(self) -> Coordinates:
        """The densities of the rows, in coordinates without bounds."""
        return coordinates(self.vae, self.x, self.condition, "sample_posterior")

    def starts(self, space: Coordinates) -> Tensor:
        """Where chains start, u ``(num_chains, B, D)``: draws of the guide, spread out.

        Raises FloatingPointError, naming a row, where log p(x, z) is not finite at draws of the guide either.
        """
        draws = space.from_guide(max(self.num_chains, 64))
        middle, draws = draws.mean(0), draws[: self.num_chains]
        for factor in (DISPERSION, 1.0):
            starts = middle + factor * (draws - middle)
            finite = torch.isfinite(space.joint(starts))
            if finite.all():
                return starts
        row = int((~finite).any(0).nonzero()[0])
        raise FloatingPointError(
            f"x: expected a finite log p(x, z) at draws of the guide, got nan or inf at row {row} of the batch: the "
            "model's weights are not finite or its density overflows. Look at that row, or train with a lower lr."
        )

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(x, z) in nats of z ``(..., B, D)``: ``(..., B)``, a few z's at a time."""
        return self._some_at_a_time(self._latents.joint, z)

    def log_guide(self, z: Tensor) -> Tensor:
        """log q(z | x) in the same way."""
        return self._some_at_a_time(self._latents.guide, z)

    def from_guide(self, *shape: int) -> Tensor:
        """Draws of q(z | x), ``(*shape, B, D)``, a few at a time."""
        draw, count = self._latents.from_guide, math.prod(shape)
        draws = torch.cat([draw(min(self._at_once, count - i)) for i in range(0, count, self._at_once)])
        return draws.reshape(*shape, *draws.shape[1:])

    @cached_property
    def _latents(self) -> Latents:
        return latents(self.vae, self.x, self.condition)

    @property
    def _at_once(self) -> int:
        """Draws of all rows whose z's go through a network at once."""
        return max(1, self.chunk // len(self.x))

    def _some_at_a_time(self, density: Density, z: Tensor) -> Tensor:
        parts = [density(part) for part in z.flatten(0, -3).split(self._at_once)]
        return torch.cat(parts).reshape(z.shape[:-1])
