"""The rate-distortion curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyrovae.plots.style import MARKERS, PALETTE, QUIET, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def plot_rate_distortion(table: pd.DataFrame) -> Figure:
    """Distortion by rate, a line for each size of z, a point for each beta; dashed, the ELBO of the best at beta = 1.

    Args:
        table: what `pyrovae.rate_distortion` returned.
    """
    figure = new_figure(7, 5)
    ax = figure.subplots()
    sizes = table.index.unique("latent_dim")
    for i, size in enumerate(sizes):
        part = table.xs(size, level="latent_dim").sort_index()
        style = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)], "markersize": 5}
        ax.plot(part["rate"], part["distortion"], linewidth=1.2, label=f"{size} latent dimensions", **style)
    for beta, rate, distortion in table.xs(sizes[-1], level="latent_dim")[["rate", "distortion"]].itertuples():
        place = {"xytext": (-6, -12), "textcoords": "offset points", "ha": "right"}
        ax.annotate(f"β = {beta:g}", (rate, distortion), **place, fontsize=8)
    ax.margins(x=0.12)
    best = table["elbo"].max()
    low, high = ax.get_ylim()
    rates = [max(0.0, -best - high), -best - low]
    ax.plot(rates, [-best - rate for rate in rates], "--", color=QUIET, linewidth=1, label=f"ELBO {best:.4g}")
    ax.set_ylim(low, high)
    ax.set(xlabel="rate: KL(q(z | x) || p(z)), nats a row", ylabel="distortion: -E log p(x | z), nats a row")
    ax.legend(frameon=False, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
