"""ELBO estimators held against each other on the model of a run folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from pyrovae import plots
from pyrovae.evaluation import ElboComparison, TrainingComparison, compare_elbos, compare_training
from pyrovae.pipeline.again import reload
from pyrovae.pipeline.folder import write_figure
from pyrovae.pipeline.prepare import build, conditions, shuffled_test
from pyrovae.vae import VAE


def compare(
    folder: str | os.PathLike[str],
    estimators: Sequence[str],
    num_particles: Sequence[int],
    *,
    rows: int,
    num_repeats: int,
    annealed: bool,
    progress: bool,
) -> ElboComparison:
    """Hold estimators against each other on random test rows of a run, at its weights; adds compare_elbos.csv,
    compare_elbos.nc and figures/compare_elbos.png to its folder."""
    settings, vae, data = reload(folder)
    data, condition = shuffled_test(data, settings, rows)
    comparison = compare_elbos(
        vae, data.test, estimators, condition, num_particles=num_particles, num_repeats=num_repeats,
        annealed=annealed, seed=settings.training.seed, progress=progress,
    )  # fmt: skip
    comparison.table.to_csv(Path(folder) / "compare_elbos.csv")
    comparison.to_xarray().to_netcdf(Path(folder) / "compare_elbos.nc", engine="h5netcdf")
    write_figure(Path(folder) / "figures" / "compare_elbos.png", plots.plot_elbos(comparison))
    return comparison


def compare_by_training(
    folder: str | os.PathLike[str],
    estimators: Sequence[str],
    num_particles: Sequence[int],
    *,
    rows: int,
    epochs: int | None,
    seconds: float | None,
    seeds: int,
    progress: bool,
) -> TrainingComparison:
    """Train the model of a run anew by each estimator; adds compare_training.csv and figures/compare_training.png."""
    settings, _, data = reload(folder)
    given = conditions(data, settings)
    held_out, condition = shuffled_test(data, settings, rows)

    def make() -> VAE:
        seed = int(torch.randint(2**31, ()))
        return build(dataclasses.replace(settings, training=dataclasses.replace(settings.training, seed=seed)), data)

    comparison = compare_training(
        make, data.train, held_out.test,
        [(name, k) for name in estimators for k in num_particles], given["train"],
        condition, epochs=epochs, seconds=seconds, seeds=range(seeds),
        transform=data.transform, batch_size=settings.training.batch_size, lr=settings.training.lr,
        optimizer=settings.training.optimizer, device=settings.training.device, progress=progress,
    )  # fmt: skip
    comparison.table.to_csv(Path(folder) / "compare_training.csv")
    write_figure(Path(folder) / "figures" / "compare_training.png", plots.plot_training(comparison))
    return comparison
