"""ELBO estimators side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyrovae.plots.style import MARKERS, PALETTE, QUIET, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyrovae.evaluation import ElboComparison, TrainingComparison


def plot_elbos(comparison: ElboComparison) -> Figure:
    """Bounds, signal-to-noise ratios of the gradients, time and memory by the number of draws, a line an estimator.

    Args:
        comparison: what `pyrovae.compare_elbos` returned.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    figure = new_figure(12, 7)
    axes = figure.subplots(2, 3)
    bound, *others = axes.flat
    _lines(bound, comparison.table, "bound", error="standard_error")
    value, error = comparison.log_marginal
    bound.axhspan(value - 2 * error, value + 2 * error, color=QUIET, alpha=0.3, linewidth=0)
    bound.axhline(value, color=QUIET, linewidth=1)
    bound.annotate("log p(x)", (0.01, value), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    bound.set(title="Bound, ± 2 standard errors", ylabel="nats a row")
    panels = (
        ("encoder_snr", 1.0, "Signal-to-noise ratio, encoder", "|E g| / sd g"),
        ("decoder_snr", 1.0, "Signal-to-noise ratio, all other parameters", "|E g| / sd g"),
        ("encoder_bias_z", 1.0, "Bias of the encoder's gradient", "square of the bias, in standard errors"),
        ("seconds", 1e3, "Time of a step, median and quartiles", "ms"),
        ("bytes", 1e-6, "Memory of a step", "MB"),
    )
    for ax, (column, unit, title, label) in zip(others, panels, strict=True):
        _lines(ax, comparison.table, column, unit)
        ax.set(title=title, ylabel=label)
        if column == "encoder_bias_z":
            ax.axhspan(-3, 3, color=QUIET, alpha=0.2, linewidth=0)
            ax.set_yscale("symlog", linthresh=3)
        else:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_locator(NullLocator())
            ax.tick_params(axis="y", labelsize=8)
    draws = sorted(comparison.table.index.unique("num_particles"))
    for ax in axes.flat:
        ax.set_xscale("log", base=2)
        ax.set_xticks(draws, [f"{k:,}" for k in draws])
        ax.set_xlabel("draws K")
        ax.title.set_fontsize(10)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*bound.get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    return figure


def _lines(ax: Axes, table: pd.DataFrame, column: str, unit: float = 1.0, error: str | None = None) -> None:
    for i, name in enumerate(table.index.unique("estimator")):
        part = table.xs(name, level="estimator")
        values = part[column] * unit
        style = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
        bars = None
        if error is not None:
            bars = 2 * part[error] * unit
        elif f"{column}_low" in part:
            bars = [(part[column] - part[f"{column}_low"]) * unit, (part[f"{column}_high"] - part[column]) * unit]
        ax.errorbar(part.index, values, yerr=bars, linewidth=1.2, elinewidth=1, label=name, **style)


def plot_training(comparison: TrainingComparison) -> Figure:
    """log p(x) of held-out rows after training by each estimator: a dot for each seed, and their mean.

    Args:
        comparison: what `pyrovae.compare_training` returned.
    """
    table = comparison.table.reset_index()
    labels = [f"{name}, K = {k}" for name, k in comparison.summary().index]
    figure = new_figure(8, 1.2 + 0.4 * len(labels))
    ax = figure.subplots()
    for place, (key, mean, error) in enumerate(comparison.summary().itertuples()):
        name, k = key
        values = table[(table["estimator"] == name) & (table["num_particles"] == k)]["log_marginal"]
        ax.plot(values, [place] * len(values), "o", color=QUIET, markersize=4, alpha=0.7)
        ax.errorbar([mean], [place], xerr=[2 * error], fmt="D", color=PALETTE[0], markersize=6)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set(xlabel=f"log p(x), nats a row; ± 2 standard errors over seeds, {comparison.budget} each")
    ax.spines[["top", "right"]].set_visible(False)
    return figure
