"""What the likelihoods of counts given their total share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks import count
from pyrovae.likelihoods.counts import REMEDY
from pyrovae.piece import Piece


class Composition(Piece):
    """Rows of D counts given their total, which data bring along and draws take from ``total_count``.

    Args:
        total_count: the total of each row that is drawn; None: the rounded mean total of the data it started on.
    """

    support = constraints.nonnegative_integer
    remedy = REMEDY

    def __init__(self, total_count: int | None = None) -> None:
        super().__init__()
        self.total_count = None if total_count is None else count(total_count, "total_count", 1)

    def build(self, event_shape: Sequence[int]) -> int:
        if len(event_shape) != 1:
            raise ValueError(
                f"{type(self).__name__}: expected rows of D counts, event_shape (D,), got {tuple(event_shape)}. "
                f"Flatten them: event_shape=({torch.Size(event_shape).numel()},)."
            )
        # Kept with the weights: a loaded model draws rows as long as those that it was trained on.
        self.register_buffer("total", torch.tensor(float(self.total_count or 1)), persistent=self.total_count is None)
        return super().build(event_shape)

    def initial(self, x: Tensor) -> Tensor:
        if self.total_count is None:
            self.total.copy_(x.sum(-1).mean().round().clamp_min(1))
        return self.shares(x).log()

    def shares(self, x: Tensor) -> Tensor:
        """Of the counts of each element in all, ``(D,)``, as if each had been seen half a time more."""
        seen = x.sum(0) + 0.5
        return seen / seen.sum()

    def features(self, x: Tensor) -> Tensor:
        """log(1 + D x / N) and log(1 + N), ``(B, D + 1)``: what a row is made of apart from how long it is.

        The likelihood explains only the first; the second tells the posterior how sure to be. A share is taken in units
        of 1 / D and its logarithm, so that rare and common words come in a network's range at any D and N.
        """
        total = x.sum(-1, keepdim=True)
        return torch.cat([torch.log1p(x.shape[-1] * x / total.clamp_min(1)), torch.log1p(total)], -1)
