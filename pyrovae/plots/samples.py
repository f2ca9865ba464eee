"""What the model makes up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyrovae.modes import isolated
from pyrovae.plots.grid import fill, grid
from pyrovae.plots.panels import flat, panels
from pyrovae.plots.rows import column_names, is_image
from pyrovae.plots.style import FIRST, SECOND, counted, with_unit
from pyrovae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_samples(
    vae: VAE,
    n: int | None = None,
    x: Any = None,  # noqa: ANN401 - whatever a user has
    *,
    condition: Any = None,  # noqa: ANN401
    columns: Sequence[str] | None = None,
    unit: str = "",
    seed: int = 0,
) -> Figure:
    """What the model makes up: means E[x | z] at draws of z from the prior, or of a table the draws of x by column.

    Args:
        vae: the model.
        n: how many; 64 images or 2,000 rows of a table by default.
        x: data to compare the histograms of a table with.
        condition: ``(n, condition_dim)``, or one row for all, for a conditional VAE.
        columns: names of the columns of a table.
        unit: what the values are in, for the axes of a table.
        seed: of the draws; the random state of the user is left alone.

    Raises:
        ValueError: for n below 1, or data that the model does not take.

    >>> figure = plot_samples(VAE((4,), 2, likelihood="gaussian"), 100)
    >>> len(figure.axes)
    4
    """
    n = (64 if is_image(vae) else 2000) if n is None else n
    with isolated(seed):
        draws = vae.sample(n, condition, mean=is_image(vae))
    if not is_image(vae):
        data = None if x is None else vae.check(x, columns)
        return _table_samples(draws, data, column_names(vae, columns), unit)
    figure, _ = grid(fill(draws, math.ceil(math.sqrt(n))), f"E[x | z] at {counted(n, 'draw')} of z from the prior")
    return figure


def _table_samples(draws: Tensor, x: Tensor | None, names: list[str], unit: str) -> Figure:
    groups = [(flat(draws), f"model, {counted(len(draws), 'draw')}", SECOND)]
    if x is not None:
        groups.insert(0, (flat(x), f"data, {counted(len(x), 'row')}", FIRST))
    figure, axes = panels(names, "Draws of x from the model" + ("" if x is None else " and the data"))
    count = round(2 * math.sqrt(min(len(values) for values, _, _ in groups)))
    for i, ax in enumerate(axes):
        known = [(values[~np.isnan(values[:, i]), i], label, colour) for values, label, colour in groups]
        known = [group for group in known if len(group[0])]
        bins = np.histogram_bin_edges(np.concatenate([values for values, _, _ in known]), bins=min(30, max(8, count)))
        for values, label, colour in known:
            style = {"color": colour, "label": label if i == 0 else None}
            if label.startswith("data"):
                ax.hist(values, bins=bins, density=True, alpha=0.35, **style)
            else:
                ax.hist(values, bins=bins, density=True, histtype="step", linewidth=1.5, **style)
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
    figure.supxlabel(with_unit("value", unit), fontsize=10)
    figure.supylabel("density", fontsize=10)
    return figure
