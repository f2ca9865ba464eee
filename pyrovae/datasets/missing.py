"""Cells taken away at random."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.seeds import generator
from pyrovae.datasets.splits import PARTS


def take_away(dataset: Dataset, share: float, seed: int = 0) -> Dataset:
    """``dataset`` with each cell missing (NaN) with probability ``share``, whatever its value: missing completely at
    random. Where that leaves a row without any cell, one of them stays.

    Raises ValueError for a share that is not from 0 to below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"missing: expected a share of the cells, from 0 to below 1, got {share!r}")
    if share == 0:
        return dataset
    return replace(
        dataset,
        **{part: _without(getattr(dataset, part), share, generator(seed, f"{part} missing cells")) for part in PARTS},
    )


def _without(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    chance = torch.rand(x.shape, generator=generator)
    kept = (chance >= share) & ~x.isnan()
    # Of the cells that were there, the one that had the best chance.
    last = chance.masked_fill(x.isnan(), -1.0).flatten(1)
    kept = kept | (last == last.amax(1, keepdim=True)).reshape(x.shape)
    return torch.where(kept, x, torch.nan)
