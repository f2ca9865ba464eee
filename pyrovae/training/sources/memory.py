"""Rows that lie in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyrovae.checks import as_rows, trusted
from pyrovae.training.batches import Transform, bounds
from pyrovae.training.distributed import World
from pyrovae.training.sources.source import Batch
from pyrovae.vae import VAE


class Memory:
    """Batches of a tensor, array or data frame, in an order that is drawn for each epoch.

    Args:
        vae: the model, on its device, where all rows go.
        x: ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, where the VAE has one.
        batch_size: rows a step.
        transform: makes data of a batch at each step.
        world: the processes that share each batch.
        seed: of the draw of ``transform`` that stands for the data before the first step.

    Raises:
        ValueError: for rows that the model does not take.
    """

    def __init__(
        self,
        vae: VAE,
        x: Any,  # noqa: ANN401 - whatever a user has
        condition: Any,  # noqa: ANN401
        batch_size: int,
        transform: Transform | None,
        world: World,
        seed: int,
    ) -> None:
        self.vae, self.transform, self.world = vae, transform, world
        self.x = as_rows(x, vae.event_shape, like=vae.like)
        # With a transform, one draw of it stands for the data here, and every later one is checked at its step.
        seen = vae.check(self.x if transform is None else transform(self.x, torch.Generator().manual_seed(seed)))
        self.condition = vae.check_condition(condition, len(self.x))
        self.rows = len(self.x)
        self.bounds = bounds(self.rows, batch_size)
        self.times = Counter(world.share(last - first) for first, last in self.bounds)
        self.head = seen, self.condition

    def epoch(self, generator: torch.Generator, draws: torch.Generator) -> Iterator[Batch]:
        order = torch.randperm(self.rows, generator=generator).to(self.x.device)
        for first, last in self.bounds:
            rows = order[first:last][self.world.part(last - first)]
            yield self._transformed(self.x[rows], draws), None if self.condition is None else self.condition[rows]

    def _transformed(self, x: Tensor, draws: torch.Generator) -> Tensor:
        if self.transform is None or not len(x):
            return x
        x = self.transform(x, draws)
        with trusted(False):
            return self.vae.check(x)
