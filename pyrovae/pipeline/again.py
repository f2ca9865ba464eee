"""What is done with a run folder: the model loaded, evaluated, sampled."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import torch

from pyrovae import plots
from pyrovae.config import Architecture, Data, Evaluating, Training
from pyrovae.datasets import Dataset, Schema
from pyrovae.evaluation import Diagnosis, Evaluation
from pyrovae.modes import isolated
from pyrovae.pipeline.diagnosis import diagnose_test
from pyrovae.pipeline.fit import evaluate_test
from pyrovae.pipeline.folder import write_figure
from pyrovae.pipeline.prepare import Run, conditions, load_data
from pyrovae.serialization import load
from pyrovae.vae import VAE


def reload(folder: str | os.PathLike[str], device: str = "cpu") -> tuple[Run, VAE, Dataset]:
    """The settings, the model and the data of a run folder.

    Raises:
        FileNotFoundError, ValueError: if the folder is no run's.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Expected the folder of a run that `pyrovae fit` made.")
    saved = json.loads(path.read_text())
    settings = Run(
        dataset=saved["dataset"],
        out=str(folder),
        progress=saved["progress"],
        architecture=Architecture(**saved["architecture"]),
        data=Data(**saved["data"]),
        training=Training(**saved["training"]),
        evaluating=Evaluating(**saved["evaluating"]),
    )
    vae = load(folder, device=device)
    # The codes of the categories are those of the model, whatever has become of the file.
    columns = getattr(vae.likelihood.piece, "columns", None)
    return settings, vae, load_data(settings, columns and Schema(columns))


def evaluate_again(folder: str | os.PathLike[str], num_samples: int | None = None, progress: bool = True) -> Evaluation:
    """Evaluate the model of a run folder on its test rows, and rewrite metrics.json."""
    settings, vae, data = reload(folder)
    if num_samples is not None:
        changed = dataclasses.replace(settings.evaluating, num_samples=num_samples)
        settings = dataclasses.replace(settings, evaluating=changed)
    settings = dataclasses.replace(settings, progress=progress)
    return evaluate_test(vae, data, settings, Path(folder))


def diagnose_again(folder: str | os.PathLike[str], rows: int, gap_rows: int) -> Diagnosis:
    """Diagnose the model of a run folder on random test rows, and rewrite diagnosis.csv."""
    settings, vae, data = reload(folder)
    return diagnose_test(vae, data, settings, Path(folder), rows, gap_rows)


def write_samples(folder: str | os.PathLike[str], n: int, seed: int = 0) -> list[Path]:
    """n draws from the model of a run folder, as samples.npy, with a picture in samples.png, and those of a
    table of different types in its own words as samples.csv; returns the paths."""
    settings, vae, data = reload(folder)
    condition = conditions(data, settings)["test"]
    with isolated(seed):
        # Under a condition, each draw has that of a random test row.
        condition = None if condition is None else condition[torch.randint(len(condition), (n,))]
        samples = vae.sample(n, condition)
    paths = [Path(folder) / "samples.npy", Path(folder) / "samples.png"]
    np.save(paths[0], samples.cpu().numpy())
    if data.schema is not None:
        paths.insert(1, Path(folder) / "samples.csv")
        data.schema.decode(samples).to_csv(paths[1], index=False)
    write_figure(paths[-1], plots.plot_samples(vae, n, condition=condition))
    return paths
