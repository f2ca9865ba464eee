"""What a picture needs from the model: checked rows, decoded means, names of columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pyrovae.distributions import expectation
from pyrovae.modes import evaluating
from pyrovae.vae import VAE

MAX_ROWS = 5000
"""More rows than that make a picture slower and no clearer."""


def first_rows(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    condition: Any,  # noqa: ANN401
    most: int,
    columns: Sequence[str] | None = None,
) -> tuple[Tensor, Tensor | None, int]:
    """The first ``most`` rows of checked data, a row of condition for each, and how many rows there are in all."""
    x = vae.check(x, columns)
    with evaluating(vae):
        condition = vae.labelled(x, vae.check_condition(condition, len(x)))
    return x[:most], None if condition is None else condition[:most], len(x)


def decode(vae: VAE, z: Tensor, condition: Tensor | None) -> Tensor:
    """E[x | z] for z ``(..., D)``, of shape ``(..., *event_shape)``."""
    with evaluating(vae):
        return expectation(vae.decode(z, condition)).to(vae.like.dtype)


def column_names(vae: VAE, columns: Sequence[str] | None) -> list[str]:
    """A name for each element of an event."""
    size = vae.event_shape.numel()
    if columns is None:
        return [", ".join(map(str, index)) for index in np.ndindex(*vae.event_shape)]
    if len(columns) != size:
        raise ValueError(f"columns: expected one name for each of the {size} columns, got {len(columns)}")
    return [str(column) for column in columns]


def is_image(vae: VAE) -> bool:
    """Whether a row can be drawn as a picture: ``(1 or 3, H, W)``."""
    return len(vae.event_shape) == 3 and vae.event_shape[0] in (1, 3)
