"""A new run: load, build, fit, evaluate, export, draw."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyrovae import plots
from pyrovae.datasets import Dataset
from pyrovae.evaluation import Diagnosis, Evaluation, evaluate
from pyrovae.inference_data import to_inference_data, write_netcdf
from pyrovae.pipeline.diagnosis import diagnose_test
from pyrovae.pipeline.folder import new_folder, write_json
from pyrovae.pipeline.prepare import Run, build, conditions, load_data, shuffled_test
from pyrovae.serialization import describe, save
from pyrovae.training import distributed, fit, history
from pyrovae.training.history import Row
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Result:
    """What a run made; all of it is in ``folder`` too."""

    folder: Path
    vae: VAE
    history: pd.DataFrame
    evaluation: Evaluation
    diagnosis: Diagnosis
    seconds: dict[str, float]

    def __str__(self) -> str:
        seconds = ", ".join(f"{value:.1f} {name}" for name, value in self.seconds.items())
        epochs = f"best of {len(self.history)} epochs: {self.history.attrs['best_epoch']}"
        last = f"{'seconds':<18}{sum(self.seconds.values()):>10.1f}  {seconds}; {epochs}"
        return f"{self.evaluation}\n\n{self.diagnosis}\n\n{last}"


def run(settings: Run) -> Result | None:
    """Fit a VAE to a data set, evaluate it on the test rows and write the run folder.

    Of several processes that ``torchrun`` has started, all fit; the first alone writes, evaluates and returns a result.
    The folder holds config.json, model.safetensors (the best epoch by validation), history.csv (written as training
    goes), metrics.json, diagnosis.csv, inference_data.nc, figures/ and checkpoints/.

    Raises:
        ValueError: for settings or data that do not fit, before training.
        FileNotFoundError: for data that are not there.
    """
    if settings.resume and settings.out is None:
        raise ValueError("resume: expected --out, the folder of the run to go on with, got none")
    data = load_data(settings)
    vae = build(settings, data)
    if not distributed.is_first():
        _fit(vae, data, settings, None if settings.out is None else Path(settings.out))
        return None
    with new_folder(settings) as folder:
        write_json(folder / "config.json", {**dataclasses.asdict(settings), "model": describe(vae), **_versions()})
        marks = [time.perf_counter()]
        epochs = _fit(vae, data, settings, folder)
        save(vae, folder)
        marks.append(time.perf_counter())
        evaluation = evaluate_test(vae, data, settings, folder)
        diagnosis = diagnose_test(vae, data, settings, folder)
        marks.append(time.perf_counter())
        _export(vae, data, settings, epochs, folder)
        marks.append(time.perf_counter())
    seconds = dict(zip(("training", "evaluation", "export"), np.diff(marks).tolist(), strict=True))
    return Result(folder, vae, epochs, evaluation, diagnosis, seconds)


def _fit(vae: VAE, data: Dataset, settings: Run, folder: Path | None) -> pd.DataFrame:
    """Train; history.csv grows with each epoch, from where it is if the run was broken off."""

    rows: list[Row] = []

    def record(vae: VAE, row: Row) -> None:
        file, part = folder / "history.csv", folder / "history.csv.part"
        if not rows and row["epoch"] > 1:
            rows.extend(history.read(file)[: int(row["epoch"]) - 1])
        rows.append(row)
        history.frame(rows).to_csv(part)
        part.replace(file)

    condition = conditions(data, settings)
    training = dataclasses.asdict(settings.training)
    if isinstance(vae.label, int) and training["elbo"] == "elbo":
        training["elbo"] = "enum_elbo"
    return fit(
        vae,
        data.train,
        condition["train"],
        validation=data.validation,
        validation_condition=condition["validation"],
        transform=data.transform,
        checkpoint=None if folder is None else folder / "checkpoints",
        resume=settings.resume,
        callbacks=[record],
        progress=settings.progress,
        **training,
    )


def evaluate_test(vae: VAE, data: Dataset, settings: Run, folder: Path) -> Evaluation:
    """Evaluate on the test rows; writes metrics.json."""
    evaluation = evaluate(
        vae,
        data.test,
        conditions(data, settings)["test"],
        num_samples=settings.evaluating.num_samples,
        seed=settings.training.seed,
        progress=settings.progress,
    )
    metrics = {"dataset": data.name, "split": "test", **evaluation.summary()}
    if vae.label is not None:
        wrong = vae.predict(data.test).cpu() - data.test_labels
        metrics |= (
            {"accuracy": float((wrong == 0).float().mean())}
            if isinstance(vae.label, int)
            else {"label_mse": float(wrong.square().mean())}
        )
    write_json(folder / "metrics.json", metrics)
    return evaluation


def _export(vae: VAE, data: Dataset, settings: Run, epochs: pd.DataFrame, folder: Path) -> None:
    """inference_data.nc and figures/."""
    data, condition = shuffled_test(data, settings)
    head = slice(0, settings.evaluating.export_rows)
    idata = to_inference_data(
        vae,
        data.test[head],
        None if condition is None else condition[head],
        labels=None if data.test_labels is None else data.test_labels[head],
        label_names=data.label_names,
        columns=data.columns,
        num_samples=settings.evaluating.export_draws,
        seed=settings.training.seed,
    )
    write_netcdf(idata, folder / "inference_data.nc")
    plots.save_figures(vae, data, epochs, folder / "figures", condition=condition)


def _versions() -> dict[str, str]:
    import pyro

    from pyrovae import __version__

    return {"pyrovae": __version__, "torch": torch.__version__, "pyro": pyro.__version__}
