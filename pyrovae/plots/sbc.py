"""Ranks of simulation-based calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.evaluation import Calibration
from pyrovae.plots.panels import MAX_COLUMNS, panels
from pyrovae.plots.style import FIRST, QUIET, SECOND

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_sbc(calibration: Calibration, *, units: Sequence[str] | None = None) -> Figure:
    """The distribution function of each unit's ranks less that of uniform ranks, a panel for each unit, in the band
    that all keep to with a probability of 1 - alpha if the guide is calibrated (Säilynoja, Bürkner & Vehtari 2022,
    https://arxiv.org/abs/2103.10522).

    Where a curve leaves the band it is dotted. One that is up on the left and down on the right is that of a guide too
    narrow, the reverse too wide; one that is all below 0 too low, all above too high.

    Args:
        calibration: what `pyrovae.sbc` returned.
        units: names of at most 16 units, such as ``["z[0]", "z[3]"]``; None for the 16 that are least uniform, in their
            order.

    Raises:
        ValueError: for units that there are not.

    >>> from pyrovae import VAE, sbc
    >>> len(plot_sbc(sbc(VAE((4,), 2, likelihood="gaussian"), num_simulations=50)).axes)
    2
    """
    table, curves = calibration.units, calibration.curves()
    if units is None:
        first = table["p_value"].rank(method="first") <= MAX_COLUMNS
        units = table.index[first].tolist()
    if not 1 <= len(units) <= MAX_COLUMNS or any(unit not in table.index for unit in units):
        raise ValueError(
            f"units: expected 1 to {MAX_COLUMNS} names from {table.index[0]} to {table.index[-1]}, got {list(units)}"
        )
    total = calibration.ranks.sizes["simulation"]
    of = "" if len(units) == len(table) else f", {len(units)} of {len(table)} units"
    title = f"Ranks of {total:,} simulations among {calibration.num_draws} draws of the guide{of}"
    figure, axes = panels(list(units), title)
    share = np.arange(calibration.num_draws + 2) / (calibration.num_draws + 1)
    # Both distribution functions start at 0 and end at 1.
    lower, upper = (np.pad(curves[name].values, 1) for name in ("lower", "upper"))
    reach = 1.1 * max(np.abs(curves["difference"].sel(unit=list(units))).max().item(), upper.max(), -lower.min())
    for ax, unit in zip(axes, units, strict=True):
        ax.fill_between(share, lower, upper, color=QUIET, alpha=0.3, linewidth=0)
        ax.axhline(0, color=QUIET, linewidth=0.8)
        line = np.pad(curves["difference"].sel(unit=unit).values, 1)
        outside = (line < lower) | (line > upper)
        ax.plot(share, line, color=FIRST, linewidth=1.2)
        ax.plot(share[outside], line[outside], ".", color=SECOND, markersize=4)
        ax.set(xlim=(0, 1), ylim=(-reach, reach), xticks=[0, 0.5, 1])
        ax.set_title(f"{unit}, p = {table.loc[unit, 'p_value']:.2g}", fontsize=9)
    key = f"grey: {100 * (1 - calibration.alpha):g} % band of uniform ranks, all units together; dots: outside"
    figure.supxlabel(f"share of draws below the true value\n{key}", fontsize=9)
    figure.supylabel("observed less uniform", fontsize=9)
    return figure
