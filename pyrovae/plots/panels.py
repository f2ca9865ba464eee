"""Small multiples: a panel for each column of a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pyrovae.plots.style import cut, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLUMNS = 16
"""Panels of a picture that is still read at first look."""


def panels(names: list[str], title: str) -> tuple[Figure, list[Axes]]:
    """A panel for each of the first columns, and a title that says how many of how many."""
    count = min(len(names), MAX_COLUMNS)
    across = min(count, 4)
    down = math.ceil(count / across)
    figure = new_figure(max(2.7 * across, 5), 2.6 * down + 0.8)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for ax in axes[count:]:
        ax.remove()
    for ax, name in zip(axes, names, strict=False):
        ax.set_title(cut(name, 30), fontsize=9)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    shown = "" if count == len(names) else f", first {count} of {len(names)} columns"
    figure.suptitle(title + shown, fontsize=11)
    return figure, axes[:count]


def flat(values: Tensor) -> np.ndarray:
    """Rows as a NumPy table ``(N, columns)``."""
    return values.flatten(1).float().cpu().numpy()
