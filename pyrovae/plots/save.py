"""All pictures of a run, as files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae.datasets import Dataset
from pyrovae.plots.history import plot_history
from pyrovae.plots.latent import plot_latent
from pyrovae.plots.reconstructions import plot_reconstructions
from pyrovae.plots.samples import plot_samples
from pyrovae.plots.style import DPI
from pyrovae.plots.traversal import plot_traversal
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd


def save_figures(
    vae: VAE,
    dataset: Dataset,
    history: pd.DataFrame,
    folder: str | os.PathLike[str],
    *,
    condition: Any = None,  # noqa: ANN401 - whatever a user has
    seed: int = 0,
) -> list[Path]:
    """Write history, reconstructions, samples, latent and traversal, each a .png, from the test rows; their paths.

    ``condition``, for a conditional VAE, is that of the test rows.
    """
    x = dataset.test
    table = {"columns": dataset.columns, "unit": "" if dataset.scale is None else "standardized"}
    some = None if condition is None else condition[:1]
    figures = {
        "history": plot_history(history),
        "reconstructions": plot_reconstructions(vae, x, condition=condition, **table),
        "samples": plot_samples(vae, None, x, condition=some, seed=seed, **table),
        "latent": plot_latent(vae, x, dataset.test_labels, dataset.label_names, condition=condition),
        "traversal": plot_traversal(vae, x, condition=condition, seed=seed, **table),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path, dpi=DPI)
    return paths
