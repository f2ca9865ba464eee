"""Reading rows of a file that numpy has mapped into memory."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks import as_rows
from pyrovae.training.sources.indexed import Read
from pyrovae.vae import VAE

AT_ONCE = 16
"""Rows that are read before their pages are given back. A row may bring 2 MB of pages around it."""


def is_mapped(values: Any) -> bool:  # noqa: ANN401 - whatever a user has
    """Whether ``values`` is an array whose numbers lie in a file: `numpy.memmap`, or a view of one."""
    return isinstance(values, np.ndarray) and _file(values) is not None


def reader(vae: VAE, x: np.ndarray, condition: Any) -> Read:  # noqa: ANN401 - whatever a user has
    """A function that reads rows of mapped x, and of a condition that may be mapped too.

    Raises:
        ValueError: for an x of another shape or kind, or a condition that does not fit.
    """
    # The shape as a whole, without its numbers, and the kind of its numbers by the first of them.
    as_rows(torch.empty(x.shape, device="meta"), vae.event_shape)
    as_rows(np.array(x[:1]), vae.event_shape)
    far = is_mapped(condition)
    if far and len(condition) != len(x):
        raise ValueError(f"condition: expected {len(x)} rows, as x has, got {len(condition)}")
    near = None if far else vae.check_condition(condition, len(x))

    def read(rows: np.ndarray) -> tuple[Tensor, Any]:
        taken = _take(x, rows)
        if far:
            return taken, _take(condition, rows)
        return taken, None if near is None else near[torch.from_numpy(rows).to(near.device)]

    return read


def _take(values: np.ndarray, rows: np.ndarray) -> Tensor:
    """``values[rows]``, read in the order of the file."""
    order = np.argsort(rows)
    taken = np.empty((len(rows), *values.shape[1:]), values.dtype)
    file = _file(values)
    for start in range(0, len(order), AT_ONCE):
        some = order[start : start + AT_ONCE]
        taken[some] = values[rows[some]]
        # Pages that have been read, and those around them, count as memory of the process until the system wants them
        # back. Those of a file that is mapped to be copied on writing hold what was written.
        if hasattr(mmap, "MADV_DONTNEED") and isinstance(values, np.memmap) and values.mode != "c":
            file.madvise(mmap.MADV_DONTNEED)
    return torch.from_numpy(taken)


def _file(values: np.ndarray) -> mmap.mmap | None:
    """The mapped file under an array, however many views lie between."""
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
