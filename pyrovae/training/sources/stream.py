"""Batches that come one after the other."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks import as_rows
from pyrovae.modes import seeded
from pyrovae.training.batches import Transform, check_batch_norm
from pyrovae.training.distributed import World
from pyrovae.training.prefetch import prefetch
from pyrovae.training.sources.source import LOOK, Batch, checked, empty
from pyrovae.vae import VAE

LOOK_ROWS = 1024
"""Rows of a stream, at least, that are looked at before the first step."""


class Stream:
    """The batches of a ``DataLoader``, or of anything that gives batches anew each time that it is iterated over.

    The next batch is read in a thread while the model makes its step. A last batch of a single row joins the one before
    it. Of several processes, each reads the whole stream and keeps its part of each batch.

    Args:
        vae: the model, on its device.
        batches: each x, or a pair (x, condition).
        batch_size: rows that a batch is expected to have, or None.
        transform: makes data of a batch at each step.
        world: the processes that share each batch.
        seed: of what is looked at before the first step.
        epochs: how many times all batches are needed.

    Raises:
        ValueError: here and in `epoch`, for batches that the model does not take, for none, and for an iterator, which
            cannot begin again, where there are several epochs.
    """

    def __init__(
        self,
        vae: VAE,
        batches: Iterable[Any],
        batch_size: int | None,
        transform: Transform | None,
        world: World,
        seed: int,
        epochs: int,
    ) -> None:
        self.vae, self.batches, self.transform, self.world = vae, batches, transform, world
        if isinstance(batches, Iterator) and epochs > 1:
            raise ValueError(
                f"x: expected batches that can be gone through {epochs} times, once an epoch, got a "
                f"{type(batches).__name__}, which ends with its first pass. Pass epochs=1, or an object whose __iter__ "
                "begins anew, such as a list or a DataLoader."
            )
        self.rows = _rows(batches)
        cpu = torch.device("cpu")
        with seeded(seed, cpu):
            iterator = iter(batches)
            pairs = list(_until(_pairs(iterator, vae), LOOK))
        if not pairs:
            raise ValueError(f"x: expected at least one batch, got none from {type(batches).__name__}")
        sizes = [len(x) for x, _ in pairs]
        if batch_size is not None and batch_size != sizes[0]:
            raise ValueError(
                f"batch_size: expected that of the batches that x gives, {sizes[0]}, or none, got {batch_size}"
            )
        steps = _steps(batches)
        self.times: Counter[int] = Counter() if steps is None else Counter({world.share(sizes[0]): steps})
        self._begun = itertools.chain(pairs, _pairs(iterator, vae)) if iterator is batches else None
        if self._begun is None and hasattr(iterator, "close"):
            iterator.close()
        draws = torch.Generator().manual_seed(seed)
        starts = [0, *itertools.accumulate(sizes)]
        seen = [
            checked(vae, *pair, range(start, start + len(pair[0])), transform, draws)
            for start, pair in zip(starts, pairs, strict=False)
        ]
        conditions = [c for _, c in seen if c is not None]
        self.head = torch.cat([x for x, _ in seen]), torch.cat(conditions) if conditions else None

    def epoch(self, generator: torch.Generator, draws: torch.Generator) -> Iterator[Batch]:
        times: Counter[int] = Counter()
        start = 0
        with closing(prefetch(_joined(self._open(generator)))) as batches:
            for x, condition in batches:
                check_batch_norm(self.vae, len(x), len(x))
                part = self.world.part(len(x))
                numbers = range(start, start + len(x))[part]
                start += len(x)
                times[len(numbers)] += 1
                if not numbers:
                    yield empty(self.vae)
                    continue
                condition = None if condition is None else condition[part]
                yield checked(self.vae, x[part], condition, numbers, self.transform, draws)
        if not times:
            raise ValueError(
                f"x: expected batches in every epoch, got none from {type(self.batches).__name__} in this one: it must "
                "begin anew each time that it is iterated over"
            )
        self.times = times

    def _open(self, generator: torch.Generator) -> Iterator[tuple[Any, Any]]:
        """A new pass. Whatever draws its order from torch's random numbers draws the same on each process."""
        with seeded(int(torch.randint(2**62, (), generator=generator)), torch.device("cpu")):
            begun, self._begun = self._begun, None
            return _pairs(iter(self.batches), self.vae) if begun is None else begun


def _pairs(iterator: Iterator[Any], vae: VAE) -> Iterator[tuple[Tensor, Any]]:
    """Each batch as x ``(B, *event_shape)``, wherever it lies, and a condition of B rows or None."""
    for i, batch in enumerate(iterator):
        parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        if not 1 <= len(parts) <= 2:
            raise ValueError(
                f"x: expected of a stream batches of x, or of (x, condition), got {len(parts)} parts in batch {i}"
            )
        x, condition = (*parts, None)[:2]
        try:
            x = as_rows(x, vae.event_shape)
        except ValueError as error:
            raise ValueError(f"{error} (in batch {i} of the stream)") from None
        if condition is not None:
            condition = condition if isinstance(condition, Tensor) else torch.as_tensor(np.array(condition))
            if condition.ndim == 0 or len(condition) != len(x):
                got = tuple(condition.shape)
                raise ValueError(f"condition: expected {len(x)} rows in batch {i} of the stream, got shape {got}")
        yield x, condition


def _until(pairs: Iterator[tuple[Tensor, Any]], limit: int) -> Iterator[tuple[Tensor, Any]]:
    """The first pairs: `LOOK_ROWS` rows or so, but not many more numbers than ``limit``."""
    rows = numbers = 0
    for x, condition in pairs:
        yield x, condition
        rows, numbers = rows + len(x), numbers + x.numel()
        if rows >= LOOK_ROWS or numbers >= limit:
            return


def _joined(pairs: Iterator[tuple[Tensor, Any]]) -> Iterator[tuple[Tensor, Any]]:
    """The pairs, the last of which joins the one before it if it has a single row and that one has more."""
    held: list[tuple[Tensor, Any]] = []
    for pair in pairs:
        if len(pair[0]) > 1 or len(held) > 1:
            yield from held
            held = []
        held.append(pair)
    if len(held) == 2 and len(held[0][0]) > 1 == len(held[1][0]):
        (x, condition), (row, its_condition) = held
        held = [(torch.cat([x, row]), None if condition is None else torch.cat([condition, its_condition]))]
    yield from held


def _steps(batches: Any) -> int | None:  # noqa: ANN401 - whatever a user has
    """How many batches there are, if they say so."""
    try:
        return len(batches)
    except TypeError:
        return None


def _rows(batches: Any) -> int | None:  # noqa: ANN401
    """How many rows there are, if it can be known: of our own streams, and of a DataLoader that drops none."""
    if isinstance(getattr(batches, "rows", None), int):
        return batches.rows
    if not isinstance(batches, torch.utils.data.DataLoader) or batches.drop_last or batches.batch_size is None:
        return None
    try:
        return len(batches.sampler)
    except TypeError:
        return None
