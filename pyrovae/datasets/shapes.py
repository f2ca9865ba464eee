"""Images whose factors of variation are known, and independent: the truth for scores of disentanglement."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks import count
from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.seeds import generator
from pyrovae.datasets.splits import split

if TYPE_CHECKING:
    import pandas as pd

SIDE = 28
LINES = 4
"""Lines in a row of pixels."""
ROWS_AT_ONCE = 500

# A shape is its half width at each height, from -1 at its top to 1 at its bottom, in half widths of its box.
OUTLINES: dict[str, Callable[[Tensor], Tensor]] = {
    "rectangle": torch.ones_like,
    "ellipse": lambda v: (1 - v.square()).clamp_min(0).sqrt(),
    "triangle": lambda v: (1 + v) / 2,
}
LEVELS = {
    "shape": tuple(range(len(OUTLINES))),
    "x": tuple(i - 4.5 for i in range(10)),
    "y": tuple(i - 4.5 for i in range(10)),
    "size": (8.0, 9.5, 11.0, 12.5, 14.0),
    "stretch": (-0.8, -0.4, 0.0, 0.4, 0.8),
}
TOTAL = 7_500
"""Images in the full grid of levels."""


def shapes(n: int = TOTAL, seed: int = 0) -> tuple[Tensor, pd.DataFrame]:
    """Images of single shapes, and the five factors that each is drawn from.

    The rows are ``n`` different ones of the full grid of the factors, in random order; all of it, by default, in which
    the factors are exactly independent:

    =========== ========= ==============================================================
    ``shape``   3 classes rectangle, ellipse or triangle
    ``x, y``    10 levels centre of its box, pixels to the right of and below that of the image
    ``size``    5 levels  geometric mean of the width and the height of its box, pixels
    ``stretch`` 5 levels  log2 of width over height
    =========== ========= ==============================================================

    Each can be read off an image. There is no rotation, which symmetric shapes would hide.

    Args:
        n: number of rows, at most 7,500.
        seed: of their choice and order.

    Returns:
        Images ``(n, 1, 28, 28)``, the share of each pixel that is covered, and factors, a DataFrame of n rows whose
        ``shape`` is categorical.

    Raises:
        ValueError: for an n that is no number of rows of the grid.

    >>> images, factors = shapes(3)
    >>> images.shape, factors.columns.tolist()
    (torch.Size([3, 1, 28, 28]), ['shape', 'x', 'y', 'size', 'stretch'])
    """
    import pandas as pd

    if count(n, "n", 1) > TOTAL:
        raise ValueError(f"n: expected at most {TOTAL}, the images of the full grid, got {n}")
    levels = [torch.tensor(values, dtype=torch.float64, device="cpu") for values in LEVELS.values()]
    order = torch.randperm(TOTAL, generator=generator(seed, "shapes"), device="cpu")[:n]
    table = torch.cartesian_prod(*levels)[order]
    images = torch.cat([_drawn(rows) for rows in table.split(ROWS_AT_ONCE)])
    factors = pd.DataFrame(table.numpy(), columns=list(LEVELS))
    factors["shape"] = pd.Categorical.from_codes(table[:, 0].int().numpy(), list(OUTLINES))
    return images, factors


def load(*, seed: int = 0) -> Dataset:
    """The 7,500 images of `shapes` in 28 x 28 grey pixels; their labels are the shape.

    Reference: in the manner of dSprites, Higgins et al., 2017, https://openreview.net/forum?id=Sy2fzU9gl

    >>> load().test_factors.columns.tolist()
    ['shape', 'x', 'y', 'size', 'stretch']
    """
    images, factors = shapes(seed=seed)
    labels = torch.tensor(factors["shape"].cat.codes.to_numpy(), dtype=torch.int64, device="cpu")
    parts = {part: rows for part, (_, rows) in split({"train": len(images)}, seed, "shapes").items()}
    return Dataset(
        "shapes",
        **{part: images[rows] for part, rows in parts.items()},
        support=constraints.unit_interval,
        **{f"{part}_labels": labels[rows] for part, rows in parts.items()},
        label_names=tuple(OUTLINES),
        **{f"{part}_factors": factors.iloc[rows.numpy()].reset_index(drop=True) for part, rows in parts.items()},
    )


def _drawn(table: Tensor) -> Tensor:
    """Images ``(B, 1, 28, 28)`` of factors ``(B, 5)``, a thin line at a time."""
    shape, x, y, size, stretch = table[:, :, None].unbind(1)
    width, height = size * 2 ** (stretch / 2), size * 2 ** (-stretch / 2)
    down = torch.arange(SIDE * LINES, dtype=table.dtype, device="cpu") / LINES
    v = ((down + 0.5 / LINES - SIDE / 2 - y) / (height / 2)).clamp(-1, 1)
    outlines = torch.stack([outline(v) for outline in OUTLINES.values()])
    half = outlines.gather(0, shape.long().expand_as(v)[None])[0] * width / 2
    lines = _covered(y, height / 2, down, 1 / LINES)
    pixels = _covered(x[..., None], half[..., None], down[::LINES], 1.0) * lines[..., None]
    return pixels.unflatten(1, (SIDE, LINES)).sum(2).float()[:, None]


def _covered(middle: Tensor, half: Tensor, start: Tensor, length: float) -> Tensor:
    """How much of each cell, of this start and length, lies within ``half`` of ``middle``, from the image's own."""
    low, high = SIDE / 2 + middle - half, SIDE / 2 + middle + half
    return (torch.minimum(high, start + length) - torch.maximum(low, start)).clamp_min(0)
