"""What all streams from files have in common: rows are read group by group, and shuffled in a buffer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from pyrovae.checks import count

BUFFER = 2**24
"""Numbers (64 MB of float32) that the buffer holds by default."""

Rows = tuple[np.ndarray, np.ndarray | None]
"""x ``(B, D)``, and the condition, ``(B,)`` or ``(B, C)``."""


class Grouped(ABC):
    """Batches of the rows of a file, anew each time that it is iterated over; each is x, or a pair (x, condition).

    A file keeps its rows in groups (of a Parquet file, its row groups), of which one is read at a time. With
    ``shuffle`` they come in random order, and their rows are mixed in a buffer: the order is the more random, the more
    groups the buffer holds. A pass takes the memory of the buffer and the largest group.

    Args:
        sizes: the number of rows of each group.
        width: D.
        batch_size: rows a batch; the last one may be shorter.
        shuffle: whether the order of rows is random.
        buffer: rows in the buffer; None: as many as make `BUFFER` numbers.
        seed: of the order, which is then the same in each pass; None draws a new one from torch's random numbers at
            each pass, so that it follows the seed of `pyrovae.fit`.

    Raises:
        ValueError: for no rows, or sizes below 1.
    """

    def __init__(
        self, sizes: Iterable[int], width: int, batch_size: int, shuffle: bool, buffer: int | None, seed: int | None
    ) -> None:
        self.sizes = tuple(sizes)
        self.width = width
        self.batch_size = count(batch_size, "batch_size", 1)
        self.shuffle = shuffle
        self.buffer = max(batch_size, BUFFER // width) if buffer is None else count(buffer, "buffer", 1)
        self.seed = None if seed is None else count(seed, "seed", 0)
        if not self.rows:
            raise ValueError(f"{self}: expected at least one row, got none")

    @property
    def rows(self) -> int:
        """N."""
        return sum(self.sizes)

    def __len__(self) -> int:
        """The number of batches."""
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray | Rows]:
        # Here, and not at the first batch, which may be asked for in another thread.
        seed = int(torch.randint(2**62, ())) if self.seed is None and self.shuffle else self.seed or 0
        return self._batches(np.random.default_rng(seed))

    @abstractmethod
    def read(self, groups: Iterable[int]) -> Iterator[Rows]:
        """The rows of these groups, one after the other; the file is open in between."""

    def _batches(self, rng: np.random.Generator) -> Iterator[np.ndarray | Rows]:
        order = rng.permutation(len(self.sizes)) if self.shuffle else range(len(self.sizes))
        enough, keep = (max(self.buffer, self.batch_size), self.buffer // 2) if self.shuffle else (self.batch_size, 0)
        held: list[Rows] = []
        for x, condition in self.read(int(group) for group in order):
            held.append((x, condition))
            if sum(len(x) for x, _ in held) >= enough:
                whole = self._mixed(held, rng)
                end = (len(whole[0]) - keep) // self.batch_size * self.batch_size
                yield from self._cut(whole, end)
                held = [_rows(whole, slice(end, None))]
        if held and len(held[0][0]) + sum(len(x) for x, _ in held[1:]):
            whole = self._mixed(held, rng)
            yield from self._cut(whole, len(whole[0]))

    def _mixed(self, held: list[Rows], rng: np.random.Generator) -> Rows:
        """Rows of the buffer as one, in random order."""
        x = np.concatenate([x for x, _ in held])
        condition = None if held[0][1] is None else np.concatenate([c for _, c in held])
        return _rows((x, condition), rng.permutation(len(x))) if self.shuffle else (x, condition)

    def _cut(self, whole: Rows, end: int) -> Iterator[np.ndarray | Rows]:
        """The rows until ``end`` as batches, without a condition where there is none."""
        for start in range(0, end, self.batch_size):
            x, condition = _rows(whole, slice(start, min(start + self.batch_size, end)))
            yield x if condition is None else (x, condition)


def _rows(whole: Rows, rows: slice | np.ndarray) -> Rows:
    x, condition = whole
    return x[rows], None if condition is None else condition[rows]
