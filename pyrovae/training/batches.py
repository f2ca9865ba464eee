"""How rows become batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Transform = Callable[[Tensor, torch.Generator], Tensor]
"""From a batch of rows and a generator to the data of one step, such as a fresh binarization."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def bounds(rows: int, batch_size: int) -> list[tuple[int, int]]:
    """First and one-past-last row of each batch. A last batch of a single row joins the one before it.

    A single row has no variance over its batch, so BatchNorm could not be trained on it.

    >>> bounds(7, 3)
    [(0, 3), (3, 7)]
    >>> bounds(8, 3)
    [(0, 3), (3, 6), (6, 8)]
    """
    starts = list(range(0, rows, batch_size))
    if len(starts) > 1 and rows - starts[-1] == 1 and batch_size > 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], rows], strict=True))


def check_batch_norm(module: nn.Module, rows: int, batch_size: int) -> None:
    """Raise a ValueError if ``module`` has BatchNorm and would be given a batch of a single row."""
    if min(rows, batch_size) > 1:
        return
    for name, layer in module.named_modules():
        if isinstance(layer, BATCH_NORMS):
            raise ValueError(
                f"{name} is a {type(layer).__name__}, which needs batches of at least 2 rows to train on, got batches "
                f"of 1 ({rows} rows, batch_size {batch_size}). Use more rows, a larger batch_size, or LayerNorm."
            )


def ordered(x: Tensor, condition: Tensor | None, batch_size: int) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Every row once, in order: which rows, the rows, and their condition."""
    for first, last in bounds(len(x), batch_size):
        rows = slice(first, last)
        yield rows, x[rows], None if condition is None else condition[rows]
