"""Data beside their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.plots.grid import centres, fill, grid
from pyrovae.plots.panels import flat, panels
from pyrovae.plots.rows import MAX_ROWS, column_names, first_rows, is_image
from pyrovae.plots.style import FIRST, QUIET, counted, square, with_unit
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_reconstructions(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    *,
    condition: Any = None,  # noqa: ANN401
    columns: Sequence[str] | None = None,
    unit: str = "",
) -> Figure:
    """Rows of data beside E[x | z] at the posterior mean of z.

    Images ``(1 or 3, H, W)`` stand above their reconstructions, the first 20 of them. Of anything else each column has
    a panel of reconstructed against observed values, with the share of its variance that is reconstructed, R².

    Args:
        vae: the model.
        x: data ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        columns: names of the columns of a table.
        unit: what the values are in, for the axes of a table.

    Raises:
        ValueError: for data that the model does not take.

    >>> figure = plot_reconstructions(VAE((4,), 2, likelihood="gaussian"), torch.randn(9, 4))
    >>> len(figure.axes)
    4
    """
    x, condition, _ = first_rows(vae, x, condition, 20 if is_image(vae) else MAX_ROWS, columns)
    decoded = torch.cat([vae.reconstruct(part, c) for _, part, c in ordered(x, condition, 1000)])
    if not is_image(vae):
        return _table_reconstructions(x, decoded, column_names(vae, columns), unit)
    observed, decoded = (fill(images, min(len(x), 10)) for images in (x, decoded))
    pairs = torch.stack([observed, decoded], 1).flatten(0, 1)
    figure, ax = grid(pairs, "Observed images and their reconstructions, E[x | z] at the posterior mean of z")
    ax.set_yticks(*centres(pairs, 0, ["observed", "reconstructed"] * len(observed)))
    return figure


def _table_reconstructions(x: Tensor, decoded: Tensor, names: list[str], unit: str) -> Figure:
    observed, decoded = flat(x), flat(decoded)
    figure, axes = panels(names, f"Reconstructed against observed values, {counted(len(x), 'row')}")
    for i, ax in enumerate(axes):
        known = ~np.isnan(observed[:, i])
        if not known.any():
            ax.text(0.5, 0.5, "no values observed", transform=ax.transAxes, ha="center", va="center", fontsize=8)
            continue
        one, other = observed[known, i], decoded[known, i]
        both = np.concatenate([one, other])
        square(ax, both, both)
        ax.axline((0, 0), slope=1, color=QUIET, linewidth=1, zorder=0)
        ax.plot(one, other, ".", color=FIRST, markersize=4, alpha=0.6, rasterized=True)
        spread = one.var()
        if spread > 0:
            share = 1 - np.square(one - other).mean() / spread
            ax.text(0.03, 0.97, f"R² {share:.2f}", transform=ax.transAxes, va="top", fontsize=8)
    figure.supxlabel(with_unit("observed", unit), fontsize=10)
    figure.supylabel(with_unit("reconstructed, E[x | z]", unit), fontsize=10)
    return figure
