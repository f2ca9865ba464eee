"""Training by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyrovae.plots.style import FIRST, QUIET, SECOND, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TERMS = (("elbo", "ELBO"), ("reconstruction", "Reconstruction, E[log p(x | z)]"), ("kl", "KL(q(z | x) || p(z))"))


def plot_history(history: pd.DataFrame) -> Figure:
    """ELBO, reconstruction and KL by epoch, in nats a row, of training and, where there are any, validation rows.

    Args:
        history: what `pyrovae.fit` returned.

    Raises:
        ValueError: for a table that has none of those columns.
    """
    if missing := [name for name, _ in TERMS if name not in history]:
        raise ValueError(f"history: expected the columns that pyrovae.fit gives, got none called {missing[0]!r}")
    figure = new_figure(11, 4)
    best = history.attrs.get("best_epoch")
    # A line of a few epochs, or of one, does not show without its points.
    marker = "o" if len(history) <= 20 else None
    for ax, (name, title) in zip(figure.subplots(1, 3), TERMS, strict=True):
        for column, label, colour in ((name, "training", FIRST), (f"validation_{name}", "validation", SECOND)):
            if column in history:
                ax.plot(history.index, history[column], color=colour, label=label, marker=marker, markersize=3)
        if best is not None and "validation_elbo" in history:
            ax.axvline(best, color=QUIET, linestyle=":", label=f"best epoch, {best}")
        ax.set(title=title, xlabel="epoch", ylabel="nats per row")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
