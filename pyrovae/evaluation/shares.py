"""Rows in groups with random numbers of their own, so that it does not matter who computes which."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from pyrovae.modes import reseed
from pyrovae.training.batches import ordered
from pyrovae.training.sweep import sweep

Group = tuple[slice, Tensor, Tensor | None]
"""Which rows, the rows, and their condition."""
Found = TypeVar("Found")


class Share(NamedTuple):
    """One of ``count`` shares of the rows."""

    index: int = 0
    count: int = 1

    def groups(self, x: Tensor, condition: Tensor | None, size: int) -> list[Group]:
        """Of all rows in groups of ``size``, in order, those of this share.

        >>> import torch
        >>> [rows for rows, _, _ in Share(1, 2).groups(torch.zeros(10, 3), None, 2)]
        [slice(4, 6, None), slice(6, 8, None), slice(8, 10, None)]
        """
        groups = list(ordered(x, condition, size))
        first, last = (len(groups) * i // self.count for i in (self.index, self.index + 1))
        return groups[first:last]

    def shown(self, progress: bool) -> bool:
        """Whether a progress bar is to be seen: of the first share alone, as all take about as long."""
        return progress and self.index == 0


ALL = Share()


def seed_of(rows: slice, seed: int) -> int:
    """That of the random numbers of some rows: it comes from ``seed`` and the first of them."""
    return int(np.random.SeedSequence([seed % 2**64, rows.start]).generate_state(1, np.uint64)[0])


def reseed_for(rows: slice, seed: int) -> None:
    """Let the random numbers be those of some rows."""
    reseed(seed_of(rows, seed))


def by_shares(compute: Callable[[Share], list[Found]], n_jobs: int) -> list[Found]:
    """What ``compute`` lists for all rows: of as many shares as there are jobs at a time, as `sweep` has them."""
    if n_jobs == 1:
        return compute(ALL)
    from joblib import effective_n_jobs

    count = effective_n_jobs(n_jobs)
    shares = [(Share(i, count),) for i in range(count)]
    return list(chain.from_iterable(sweep(compute, shares, n_jobs=n_jobs, progress=False)))
