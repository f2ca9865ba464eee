"""The protocol of every source of batches, and what those have in common whose rows are checked at their step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pyrovae.checks import as_rows, trusted
from pyrovae.training.batches import Transform
from pyrovae.vae import VAE

Batch = tuple[Tensor, Tensor | None]
"""x, ``(B, *event_shape)``, and the condition, ``(B, condition_dim)``, on the device of the model."""

LOOK = 2**22
"""Numbers of x (16 MB of them) that are looked at before the first step, where they are not all in memory."""


class Source(Protocol):
    """Gives a fit its batches: each row once an epoch.

    Of several processes (see `pyrovae.training.distributed`), each has its own part of every batch, which may be empty.
    """

    rows: int | None
    """N, or None where nobody knows."""
    times: Counter[int]
    """How many batches of each size there are in an epoch, as far as is known; of several processes, of own sizes."""
    head: Batch
    """Rows to look at, and to initialise from, before the first step: all of them, or as many as `LOOK` allows."""

    def epoch(self, generator: torch.Generator, draws: torch.Generator) -> Iterator[Batch]:
        """The batches of an epoch, checked. ``generator`` decides their order, ``draws`` is for transforms."""
        ...


def checked(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user's data give
    condition: Any,  # noqa: ANN401
    numbers: Sequence[int],
    transform: Transform | None = None,
    draws: torch.Generator | None = None,
) -> Batch:
    """A batch on the model's device, through ``transform``.

    Raises:
        ValueError: that names, by ``numbers``, the first row that does not fit.
    """
    with trusted(False):
        x = as_rows(x, vae.event_shape, like=vae.like)
        if transform is not None:
            x = transform(x, draws)
        x = vae.check(x, numbers=numbers)
        try:
            return x, vae.check_condition(condition, len(x))
        except ValueError as error:
            raise ValueError(f"{error} (of rows {numbers[0]} to {numbers[-1]})") from None


def empty(vae: VAE) -> Batch:
    """No rows: the part of a process in a batch of fewer rows than there are processes."""
    return vae.like.new_empty(0, *vae.event_shape), None
