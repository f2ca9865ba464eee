"""Rows into training, validation and test rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyrovae.datasets.seeds import generator

PARTS = ("train", "validation", "test")


def split(sizes: Mapping[str, int], seed: int, name: str = "x") -> dict[str, tuple[str, Tensor]]:
    """Which rows of which part make up each of train, validation and test.

    ``sizes`` is the number of rows of each part that there is, ``train`` at least. A part that there is stays
    as it is; each one that is missing is a tenth of ``train`` (one row at least) after a seeded shuffle. So
    one table becomes 80% / 10% / 10%.

    Raises ValueError where there are too few rows to give each part one.

    >>> [len(rows) for _, rows in split({"train": 25}, seed=0).values()]
    [21, 2, 2]
    """
    missing = [part for part in PARTS if part not in sizes]
    n = sizes["train"]
    if n <= len(missing):
        raise ValueError(
            f"{name}: expected at least {len(missing) + 1} rows to split into {', '.join(['train', *missing])}, got {n}"
        )
    if empty := [part for part in sizes if not sizes[part]]:
        raise ValueError(f"{name}: expected at least one row in {empty[0]!r}, got none")
    order = torch.randperm(n, generator=generator(seed, "split"), device="cpu") if missing else _all(n)
    held_out = max(1, n // 10)
    cut = {part: order[i * held_out : (i + 1) * held_out] for i, part in enumerate(missing)}
    rows = {"train": ("train", order[len(missing) * held_out :])}
    for part in PARTS[1:]:
        rows[part] = ("train", cut[part]) if part in cut else (part, _all(sizes[part]))
    return rows


def _all(n: int) -> Tensor:
    return torch.arange(n, device="cpu")
