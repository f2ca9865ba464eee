"""What the guide says of a row's z, and what the posterior is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.plots.panels import MAX_COLUMNS, panels
from pyrovae.plots.style import FIRST, SECOND

if TYPE_CHECKING:
    import arviz
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_DOTS = 500
"""Draws of a cloud that are shown."""
BINS = 24


def plot_posteriors(
    guide: arviz.InferenceData | xarray.DataTree,
    reference: arviz.InferenceData | xarray.DataTree,
    *,
    rows: Sequence[int] | None = None,
    units: Sequence[int] | None = None,
    site: str = "z",
) -> Figure:
    """Draws of the guide over those of a reference, a panel for each row of data.

    Two units of z are clouds of points, a single one histograms.

    Args:
        guide: draws of q(z | x), from `pyrovae.sample_posterior` with method "guide" or `pyrovae.to_inference_data`.
        reference: draws of p(z | x) of the same rows, from `pyrovae.sample_posterior`.
        rows: which rows, at most 16; None for the first eight.
        units: which one or two units of z; None for those in whose means, or else spreads, the two differ most, in
            standard deviations of the reference.
        site: of several layers, which: ``z1``, ``z2``, ...

    Raises:
        ValueError: for a site that there is not, draws of different rows, and rows and units that there are not.

    >>> import torch
    >>> from pyrovae import VAE, sample_posterior
    >>> vae, x = VAE((4,), 2, likelihood="gaussian"), torch.randn(3, 4)
    >>> draws = [sample_posterior(vae, x, method=method, num_samples=50) for method in ("guide", "sir")]
    >>> len(plot_posteriors(*draws).axes)
    3
    """
    ours, theirs = (_draws(idata, site, name) for idata, name in ((guide, "guide"), (reference, "reference")))
    if ours.shape[1:] != theirs.shape[1:]:
        raise ValueError(
            f"reference: expected draws of the rows and units of the guide's, {ours.shape[1:]}, got {theirs.shape[1:]}"
        )
    count, latents = ours.shape[1:]
    rows = _chosen(range(min(count, 8)) if rows is None else rows, count, "rows", MAX_COLUMNS)
    units = _chosen(_apart(ours[:, rows], theirs[:, rows]) if units is None else units, latents, "units", 2)
    figure, axes = panels([f"row {row}" for row in rows], f"Draws of {site}: the guide's over those of the posterior")
    for ax, row in zip(axes, rows, strict=False):
        clouds = [values[:, row][:, units] for values in (theirs, ours)]
        if len(units) == 1:
            _histograms(ax, clouds)
        else:
            _clouds(ax, clouds)
    figure.supxlabel(f"{site}[{units[0]}]", fontsize=10)
    figure.supylabel("density" if len(units) == 1 else f"{site}[{units[1]}]", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", markerscale=3, frameon=False, fontsize=9)
    return figure


def _draws(idata: arviz.InferenceData | xarray.DataTree, site: str, name: str) -> np.ndarray:
    """Draws of all chains, ``(draws, rows, units)``."""
    try:
        group = idata["posterior"]
        z = group[site]
    except KeyError:
        there = "none" if "posterior" not in idata else ", ".join(map(str, group.data_vars))
        raise ValueError(
            f"{name}: expected a group posterior with {site}, as sample_posterior gives, got {there}. Of several "
            "layers, choose one by site="
        ) from None
    return z.values.reshape(-1, *z.shape[2:])


def _chosen(values: Sequence[int], count: int, name: str, most: int) -> list[int]:
    """Indices, if they are such."""
    chosen = [int(value) for value in values]
    if not 1 <= len(chosen) <= most or any(not 0 <= value < count for value in chosen):
        most = min(most, count)
        raise ValueError(f"{name}: expected 1 to {most} numbers from 0 to {count - 1}, got {list(values)}")
    return chosen


def _apart(ours: np.ndarray, theirs: np.ndarray) -> list[int]:
    """The two units in which draws differ most, or the only one."""
    sd = theirs.std(0) + np.finfo(theirs.dtype).tiny
    apart = np.abs(ours.mean(0) - theirs.mean(0)) / sd + np.abs(np.log((ours.std(0) + sd * 1e-6) / sd))
    return sorted(np.argsort(-apart.mean(0))[:2].tolist())


STYLES = (("posterior", SECOND), ("guide", FIRST))


def _clouds(ax: Axes, clouds: list[np.ndarray]) -> None:
    for points, (label, colour) in zip(clouds, STYLES, strict=True):
        shown = points[np.linspace(0, len(points) - 1, min(len(points), MAX_DOTS)).astype(int)]
        ax.plot(*shown.T, ".", color=colour, markersize=3, alpha=0.35, label=label, rasterized=True)


def _histograms(ax: Axes, clouds: list[np.ndarray]) -> None:
    bins = np.histogram_bin_edges(np.concatenate(clouds), BINS)
    for values, (label, colour) in zip(clouds, STYLES, strict=True):
        ax.hist(values[:, 0], bins, density=True, histtype="step", color=colour, linewidth=1.4, label=label)
