"""Columns of a real table to mean 0 and standard deviation 1."""

from __future__ import annotations

import torch
from torch import Tensor


def standardization(train: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and standard deviation (dividing by N) of each column of the *training* rows, shape ``(N, D)``, over the
    cells that are there: NaN is a missing one.

    No other split is looked at, so held-out figures stay honest. A constant column gets scale 1; it is found
    by its range, because rounding gives a column of 0.1 a standard deviation that is not quite 0.

    >>> standardization(torch.tensor([[1.0, 0.1], [3.0, 0.1]], dtype=torch.float64))[1]
    tensor([1., 1.], dtype=torch.float64)
    """
    missing = torch.isnan(train)
    low, high = train.masked_fill(missing, torch.inf).amin(0), train.masked_fill(missing, -torch.inf).amax(0)
    constant = low >= high
    loc = torch.where(constant, low, train.nanmean(0))
    return loc, torch.where(constant, torch.ones_like(loc), (train - loc).square().nanmean(0).sqrt())
