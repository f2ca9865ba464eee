"""Distribution functions less the uniform one, in the band that uniform numbers keep to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.plots.panels import MAX_COLUMNS, panels
from pyrovae.plots.style import FIRST, QUIET, SECOND

if TYPE_CHECKING:
    import pandas as pd
    import xarray
    from matplotlib.figure import Figure


def plot_uniform(
    p_values: pd.Series,
    curves: xarray.Dataset,
    names: Sequence[str] | None,
    *,
    title: str,
    words: tuple[str, str],
    alpha: float,
) -> Figure:
    """A panel for each of at most 16 names, None for those that are least uniform, dotted where it leaves the band.

    Args:
        p_values: by name; its index is named after what they are, such as "unit".
        curves: difference, lower and upper at L evenly spaced places, by name or for all.
        names: which of them.
        title: of the picture; how many of how many is added.
        words: what the places are, and what keeps to the band at ``alpha``.
        alpha: of the band.

    Raises:
        ValueError: for names that there are not.
    """
    kind = p_values.index.name
    if names is None:
        names = p_values.index[p_values.rank(method="first") <= MAX_COLUMNS].tolist()
    if not 1 <= len(names) <= MAX_COLUMNS or any(name not in p_values.index for name in names):
        raise ValueError(
            f"{kind}s: expected 1 to {MAX_COLUMNS} names from {p_values.index[0]} to {p_values.index[-1]}, "
            f"got {list(names)}"
        )
    of = "" if len(names) == len(p_values) else f", {len(names)} of {len(p_values)} {kind}s"
    figure, axes = panels(list(names), title + of)
    shown = curves.broadcast_like(curves["difference"]).sel({kind: list(names)})
    reach = 1.1 * max(float(abs(shown[name]).max()) for name in ("difference", "lower", "upper"))
    for ax, name in zip(axes, names, strict=True):
        # Both distribution functions start at 0 and end at 1.
        line, lower, upper = (
            np.pad(shown[part].sel({kind: name}).values, 1) for part in ("difference", "lower", "upper")
        )
        share = np.linspace(0, 1, len(line))
        ax.fill_between(share, lower, upper, color=QUIET, alpha=0.3, linewidth=0)
        ax.axhline(0, color=QUIET, linewidth=0.8)
        outside = (line < lower) | (line > upper)
        ax.plot(share, line, color=FIRST, linewidth=1.2)
        ax.plot(share[outside], line[outside], ".", color=SECOND, markersize=4)
        ax.set(xlim=(0, 1), ylim=(-reach, reach), xticks=[0, 0.5, 1])
        ax.set_title(f"{name}, p = {p_values[name]:.2g}", fontsize=9)
    what, uniform = words
    key = f"grey: {100 * (1 - alpha):g} % band of uniform {uniform}, all {kind}s together; dots: outside"
    figure.supxlabel(f"{what}\n{key}", fontsize=9)
    figure.supylabel("observed less uniform", fontsize=9)
    return figure
