"""Where the data lie in latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks import check_labels
from pyrovae.evaluation.units import posterior_moments
from pyrovae.plots.rows import MAX_ROWS, first_rows
from pyrovae.plots.style import FIRST, MARKERS, MAX_CLASSES, PALETTE, counted, new_figure, square
from pyrovae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_latent(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    labels: Any = None,  # noqa: ANN401
    label_names: Sequence[str] | None = None,
    *,
    condition: Any = None,  # noqa: ANN401
) -> Figure:
    """Posterior means of z, coloured by label: the plane itself for two units, else its two principal components.

    With a single unit the other axis is its posterior standard deviation. At most 5,000 rows are drawn.

    Args:
        vae: the model.
        x: data ``(N, *event_shape)``.
        labels: ``(N,)``: integers are classes, with a legend, up to 20 of them; other numbers have a colour bar.
        label_names: the name of each class.
        condition: ``(N, condition_dim)``, for a conditional VAE.

    Raises:
        ValueError: for data that the model does not take, or labels and names that do not fit them.

    >>> figure = plot_latent(VAE((4,), 2, likelihood="gaussian"), torch.randn(9, 4))
    >>> figure.axes[0].get_xlabel()
    'posterior mean of z[0]'
    """
    x, condition, total = first_rows(vae, x, condition, MAX_ROWS)
    labels, names = check_labels(labels, label_names, total)
    mean, deviation = posterior_moments(vae, x, condition)
    points, axes = _plane(mean, deviation)
    figure = new_figure(7, 5.6, "compressed")
    ax = figure.subplots()
    style = {"s": 36 if len(x) <= 300 else 14, "linewidths": 0, "rasterized": True}
    if labels is None:
        ax.scatter(*points.T, color=FIRST, alpha=max(0.15, min(0.7, 600 / len(x))), **style)
    else:
        names = labels.astype(str) if names is None else names
        _coloured(figure, ax, points, labels[: len(x)], names[: len(x)], style)
    shown = counted(len(x), "row") if len(x) == total else f"{len(x):,} of {total:,} rows"
    ax.set(xlabel=axes[0], ylabel=axes[1], title=f"Posterior means of z, {shown}")
    if vae.latent_dim > 1:
        square(ax, *points.T)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def _plane(mean: Tensor, deviation: Tensor) -> tuple[np.ndarray, tuple[str, str]]:
    """Points ``(N, 2)`` that stand for posterior means ``(N, D)``, and what the two axes are."""
    if mean.shape[1] == 1:
        return torch.cat([mean, deviation], 1).numpy(), (
            "posterior mean of z[0]",
            "posterior standard deviation of z[0]",
        )
    if mean.shape[1] == 2:
        return mean.numpy(), ("posterior mean of z[0]", "posterior mean of z[1]")
    centred = (mean - mean.mean(0)).double()
    _, size, directions = torch.linalg.svd(centred, full_matrices=False)
    share = 100 * size**2 / (size**2).sum().clamp_min(torch.finfo(size.dtype).tiny)
    # A single row has one component only; the other is 0.
    points = torch.nn.functional.pad(centred @ directions[:2].T, (0, max(0, 2 - len(directions))))
    first, second = [*share.tolist(), 0.0][:2]
    axes = (f"principal component 1, {first:.0f} % of variance", f"principal component 2, {second:.0f} % of variance")
    return points.numpy(), axes


def _coloured(
    figure: Figure,
    ax: Axes,
    points: np.ndarray,
    labels: np.ndarray,
    names: np.ndarray,
    style: dict[str, Any],
) -> None:
    """Points in the colour of their labels, with a legend for classes and a colour bar for numbers."""
    classes = np.unique(labels)
    if labels.dtype.kind == "f" or len(classes) > MAX_CLASSES:
        # Numbers go to float for matplotlib; a class that is text has its place in the sorted order.
        values = labels if labels.dtype.kind in "iuf" else np.searchsorted(classes, labels)
        dots = ax.scatter(*points.T, c=values, cmap="viridis", **style)
        figure.colorbar(dots, label="label")
        return
    for i, value in enumerate(classes):
        chosen = labels == value
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        ax.scatter(*points[chosen].T, color=colour, marker=marker, label=names[chosen][0], alpha=0.8, **style)
    legend = figure.legend(loc="outside right upper", frameon=False, title="label")
    for handle in legend.legend_handles:
        handle.set(sizes=[40], alpha=1)
