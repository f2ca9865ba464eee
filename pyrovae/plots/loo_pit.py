"""Leave-one-cell-out probability integral transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyrovae.evaluation import LooPit
from pyrovae.plots.uniform import plot_uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_loo_pit(found: LooPit, *, cells: Sequence[str] | None = None) -> Figure:
    """The distribution function of each cell's transforms less the uniform one, a panel for each cell, in the band that
    all keep to with a probability of 1 - alpha if the model is right (Säilynoja, Bürkner & Vehtari 2022,
    https://arxiv.org/abs/2103.10522).

    Where a curve leaves the band it is dotted. One that is up on the left and down on the right is that of a model too
    sure of its guesses, the reverse not sure enough; one that is all below 0 guesses too low, all above too high.

    Args:
        found: what `pyrovae.loo_pit` returned.
        cells: names of at most 16 cells, such as ``["x[0]", "x[3]"]``; None for the 16 that are least uniform, in their
            order.

    Raises:
        ValueError: for cells that there are not.

    >>> import torch
    >>> from pyrovae import VAE, loo_pit
    >>> found = loo_pit(VAE((4,), 2, likelihood="gaussian"), torch.randn(30, 4), num_samples=50)
    >>> len(plot_loo_pit(found).axes)
    4
    """
    return plot_uniform(
        found.cells["p_value"],
        found.curves(),
        cells,
        title=f"Each cell of {found.pit.sizes['row']:,} rows among what the model says of it from the others",
        words=("probability of a smaller value", "numbers"),
        alpha=found.alpha,
    )
