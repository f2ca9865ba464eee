"""Columns of a real table to mean 0 and standard deviation 1."""

from __future__ import annotations

import torch
from torch import Tensor


def standardization(train: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and standard deviation (dividing by N) of each column of the *training* rows, shape ``(N, D)``.

    No other split is looked at, so held-out figures stay honest. A constant column gets scale 1; it is found
    by its range, because rounding gives a column of 0.1 a standard deviation that is not quite 0.

    >>> standardization(torch.tensor([[1.0, 0.1], [3.0, 0.1]], dtype=torch.float64))[1]
    tensor([1., 1.], dtype=torch.float64)
    """
    constant = train.amax(0) == train.amin(0)
    loc = torch.where(constant, train[0], train.mean(0))
    return loc, torch.where(constant, torch.ones_like(loc), train.std(0, correction=0))
