"""Rows that are read by their numbers, when their batch is due: from a mapped file, or from a torch ``Dataset``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch

from pyrovae.training.batches import Transform, bounds
from pyrovae.training.distributed import World
from pyrovae.training.prefetch import prefetch
from pyrovae.training.sources.source import LOOK, Batch, checked, empty
from pyrovae.vae import VAE

Read = Callable[[np.ndarray], tuple[Any, Any]]
"""From the numbers of rows, int64 of shape ``(B,)``, to those rows and their condition (or None)."""


class Indexed:
    """Batches in an order that is drawn for each epoch, the next of which is read while the model makes its step.

    The order is that of `Memory`, so that a fit to the same rows is the same fit. Each batch is checked at its step.

    Args:
        vae: the model, on its device.
        read: gives rows by their numbers.
        rows: N.
        batch_size: rows a step.
        transform: makes data of a batch at each step.
        world: the processes that share each batch; each of them reads its own part.
        seed: of the rows that are looked at before the first step, where they are too many to look at all.

    Raises:
        ValueError: here and in `epoch`, for rows that the model does not take.
    """

    def __init__(
        self,
        vae: VAE,
        read: Read,
        rows: int,
        batch_size: int,
        transform: Transform | None,
        world: World,
        seed: int,
    ) -> None:
        self.vae, self.read, self.transform, self.world = vae, read, transform, world
        self.rows = rows
        self.bounds = bounds(rows, batch_size)
        self.times = Counter(world.share(last - first) for first, last in self.bounds)
        generator = torch.Generator().manual_seed(seed)
        size = max(batch_size, LOOK // vae.event_shape.numel())
        chosen = np.arange(rows)
        if size < rows:
            # With replacement: numbers of all rows in random order would be memory too, and repeats are few.
            chosen = torch.randint(rows, (size,), generator=generator).sort().values.numpy()
        self.head = checked(vae, *read(chosen), chosen, transform, torch.Generator().manual_seed(seed))

    def epoch(self, generator: torch.Generator, draws: torch.Generator) -> Iterator[Batch]:
        order = torch.randperm(self.rows, generator=generator).numpy()
        parts = (order[first:last][self.world.part(last - first)] for first, last in self.bounds)
        with closing(prefetch((part, *self._rows(part)) for part in parts)) as batches:
            for part, x, condition in batches:
                yield checked(self.vae, x, condition, part, self.transform, draws) if len(part) else empty(self.vae)

    def _rows(self, part: np.ndarray) -> tuple[Any, Any]:
        return self.read(part) if len(part) else (None, None)
