"""Whether the model of a run is to be trusted, on its test rows."""

from __future__ import annotations

from pathlib import Path

from pyrovae.datasets import Dataset
from pyrovae.evaluation import Diagnosis, diagnose
from pyrovae.pipeline.prepare import Run, shuffled_test
from pyrovae.vae import VAE

ROWS, DRAWS, GAP_ROWS = 256, 500, 16
"""Random test rows, draws and rows whose gap is split, by which a run is diagnosed after its fit."""


def diagnose_test(
    vae: VAE, data: Dataset, settings: Run, folder: Path, rows: int = ROWS, gap_rows: int = GAP_ROWS
) -> Diagnosis:
    """Diagnose a model on random test rows; writes diagnosis.csv."""
    part, condition = shuffled_test(data, settings, rows)
    found = diagnose(
        vae, part.test, condition, num_samples=DRAWS, gap_rows=gap_rows, seed=settings.training.seed,
        progress=settings.progress,
    )  # fmt: skip
    found.checks.to_csv(folder / "diagnosis.csv")
    return found
