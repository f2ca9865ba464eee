"""Colours, words and the blank figure that every picture starts from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
"""Dots per inch of the files that `save_figures` writes."""

# Blue, vermilion and grey stay apart for every kind of colour vision (Okabe & Ito 2008, https://jfly.uni-koeln.de/color).
FIRST, SECOND, QUIET = "#0072B2", "#D55E00", "#888888"
# Ten that do the same (Petroff 2021, https://arxiv.org/abs/2107.02270); the markers help where they are pale.
PALETTE = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = "o^sD"
# Colour and marker go round in step: so many pairs differ.
MAX_CLASSES = math.lcm(len(PALETTE), len(MARKERS))


def new_figure(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    """A blank figure, sizes in inches. Axes of a fixed aspect stand closest under the layout "compressed"."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def square(ax: Axes, across: np.ndarray, up: np.ndarray) -> None:
    """Give both axes the same span, around the values of each, so that lengths in both directions compare."""
    middles = [(values.min() + values.max()) / 2 for values in (across, up)]
    half = 0.54 * max(np.ptp(across), np.ptp(up), 1e-6)
    ax.set(xlim=(middles[0] - half, middles[0] + half), ylim=(middles[1] - half, middles[1] + half))
    ax.set_aspect("equal", adjustable="box")


def counted(number: int, thing: str) -> str:
    """A number and what there are so many of, in the plural where it should be."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def with_unit(text: str, unit: str) -> str:
    """The label of an axis, with its unit if there is one."""
    return f"{text} ({unit})" if unit else text


def cut(text: str, most: int) -> str:
    """A text of at most that many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
