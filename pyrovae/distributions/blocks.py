"""Vectors of m variables of k classes each, laid end to end."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks import count


def blocks(size: int, classes: int | None, name: str) -> tuple[int, int]:
    """How many variables m of how many classes k a vector of ``size`` elements holds; None classes is one variable.

    Raises:
        ValueError: unless ``size`` is a multiple of ``classes``, which are at least 2.

    >>> blocks(12, 4, "categorical"), blocks(12, None, "categorical")
    ((3, 4), (1, 12))
    """
    classes = count(size if classes is None else classes, f"{name} classes", 2)
    if size % classes:
        raise ValueError(
            f"{name}: expected latent_dim to be a multiple of classes={classes}, got {size}. "
            f"For m variables choose latent_dim = m * {classes}."
        )
    return size // classes, classes


class _Blocks(constraints.Constraint):
    """Vectors of one or more blocks of ``classes`` elements, each of them in `block`."""

    event_dim = 1
    block: constraints.Constraint

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def check(self, value: Tensor) -> Tensor:
        if value.shape[-1] % self.classes:
            return torch.zeros(value.shape[:-1], dtype=torch.bool, device=value.device)
        return self.block.check(value.unflatten(-1, (-1, self.classes))).all(-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__[1:]}(classes={self.classes})"


class _OneHotBlocks(_Blocks):
    """Each block is 1 at one element and 0 at the others."""

    is_discrete = True
    block = constraints.one_hot


class _SimplexBlocks(_Blocks):
    """Each block is nonnegative and sums to 1."""

    block = constraints.simplex


one_hot_blocks = _OneHotBlocks
simplex_blocks = _SimplexBlocks
