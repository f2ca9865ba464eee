"""What the likelihoods of classes share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks import count
from pyrovae.piece import Piece


class Classes(Piece):
    """Elements that are one of the classes 0 .. K-1: their support and how often each was seen.

    Args:
        classes: K, a whole number of at least 2; it must be given.
    """

    def __init__(self, classes: int | None = None) -> None:
        super().__init__()
        name = type(self).__name__
        if classes is None:
            raise ValueError(
                f"{name} classes: expected a whole number of at least 2, got none. Write classes=K for data of the "
                "classes 0, 1, ..., K-1."
            )
        self.classes = count(classes, f"{name} classes", 2)
        self.support = constraints.integer_interval(0, self.classes - 1)
        self.remedy = f"Number the classes from 0 to {self.classes - 1}, or raise classes."

    def frequencies(self, x: Tensor) -> Tensor:
        """Of each class and element, ``(classes, *event_shape)``, as if each had been seen half a time more."""
        seen = torch.stack([(x == k).sum(0) for k in range(self.classes)]).to(x.dtype)
        return (seen + 0.5) / (len(x) + 0.5 * self.classes)
