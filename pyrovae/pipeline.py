"""From settings to a run folder: load, build, fit, evaluate, export, draw."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributions import constraints

from pyrovae import datasets, likelihoods, plots, registry
from pyrovae.config import Architecture, Data, Evaluating, Training
from pyrovae.datasets import Dataset, Schema
from pyrovae.evaluation import (
    ElboComparison,
    Evaluation,
    TrainingComparison,
    compare_elbos,
    compare_training,
    evaluate,
)
from pyrovae.inference_data import to_inference_data, write_netcdf
from pyrovae.modes import isolated
from pyrovae.serialization import describe, load, save
from pyrovae.training import fit, history
from pyrovae.training.history import Row
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LIKELIHOODS = {
    str(constraints.boolean): "bernoulli",
    str(constraints.unit_interval): "continuous_bernoulli",
    str(constraints.real): "gaussian",
}


@dataclass(frozen=True)
class Run:
    """All settings of ``pyrovae fit``."""

    dataset: str
    """A name from `pyrovae list`, or a .npy, .npz, .csv or .parquet file."""
    out: str | None = None
    """Folder to make for the run; runs/NAME by default."""
    progress: bool = True
    """Show progress bars."""
    architecture: Architecture = field(default_factory=Architecture)
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    evaluating: Evaluating = field(default_factory=Evaluating)


@dataclass(frozen=True)
class Result:
    """What a run made; all of it is in ``folder`` too."""

    folder: Path
    vae: VAE
    history: pd.DataFrame
    evaluation: Evaluation
    seconds: dict[str, float]

    def __str__(self) -> str:
        seconds = ", ".join(f"{value:.1f} {name}" for name, value in self.seconds.items())
        epochs = f"best of {len(self.history)} epochs: {self.history.attrs['best_epoch']}"
        return f"{self.evaluation}\n{'seconds':<18}{sum(self.seconds.values()):>10.1f}  {seconds}; {epochs}"


def run(settings: Run) -> Result:
    """Fit a VAE to a data set, evaluate it on the test rows and write the run folder.

    The folder holds config.json, model.safetensors (the best epoch by validation), history.csv (written as training
    goes), metrics.json, inference_data.nc, figures/ and checkpoints/.

    Raises:
        ValueError: for settings or data that do not fit, before training.
        FileNotFoundError: for data that are not there.
    """
    data = load_data(settings)
    vae = build(settings, data)
    with _new_folder(settings) as folder:
        _write_json(folder / "config.json", {**dataclasses.asdict(settings), "model": describe(vae), **_versions()})
        marks = [time.perf_counter()]
        epochs = _fit(vae, data, settings, folder)
        marks.append(time.perf_counter())
        evaluation = _evaluate(vae, data, settings, folder)
        marks.append(time.perf_counter())
        _export(vae, data, settings, epochs, folder)
        marks.append(time.perf_counter())
    seconds = dict(zip(("training", "evaluation", "export"), np.diff(marks).tolist(), strict=True))
    return Result(folder, vae, epochs, evaluation, seconds)


def build(settings: Run, data: Dataset) -> VAE:
    """The VAE of the settings, initialised from the seed, for checked data."""
    parts = dataclasses.asdict(settings.architecture)
    if parts["likelihood"] == "auto":
        parts["likelihood"] = LIKELIHOODS[str(data.support)]
    if data.schema is not None:
        name, arguments = registry.parse(parts["likelihood"], "likelihood")
        parts["likelihood"] = {"name": name, **arguments, "columns": data.schema.to_list()}
    given = conditions(data, settings)["train"]
    width = 0 if given is None else given.shape[1]
    with isolated(settings.training.seed):
        vae = VAE(event_shape=data.event_shape, condition_dim=width, **parts)
    if data.transform is None:
        vae.check(data.train, columns=data.columns)
    return vae


def conditions(data: Dataset, settings: Run) -> dict[str, torch.Tensor | None]:
    """The condition of each split's rows, ``(N, C)``: indicators of classes, or numeric labels, standardized.

    Raises:
        ValueError: for a condition that the data do not have.
    """
    labels = {part: getattr(data, f"{part}_labels") for part in ("train", "validation", "test")}
    if settings.data.condition is None:
        return dict.fromkeys(labels)
    if settings.data.condition != "labels":
        raise ValueError(f"condition: expected labels, or none, got {settings.data.condition!r}")
    if labels["train"] is None:
        raise ValueError(f"condition: expected labels, and {data.name} has none. Name their column with --label.")
    if labels["train"].is_floating_point():
        loc, scale = labels["train"].mean(), labels["train"].std().clamp_min(torch.finfo(torch.float32).tiny)
        return {part: ((values - loc) / scale).float()[:, None] for part, values in labels.items()}
    classes = 1 + max(int(values.max()) for values in labels.values())
    return {part: torch.nn.functional.one_hot(values, classes).float() for part, values in labels.items()}


def _fit(vae: VAE, data: Dataset, settings: Run, folder: Path) -> pd.DataFrame:
    """Train and save; history.csv grows with each epoch."""
    rows: list[Row] = []

    def record(vae: VAE, row: Row) -> None:
        rows.append(row)
        part = folder / "history.csv.part"
        history.frame(rows).to_csv(part)
        part.replace(folder / "history.csv")

    condition = conditions(data, settings)
    epochs = fit(
        vae,
        data.train,
        condition["train"],
        validation=data.validation,
        validation_condition=condition["validation"],
        transform=data.transform,
        checkpoint=folder / "checkpoints",
        callbacks=[record],
        progress=settings.progress,
        **dataclasses.asdict(settings.training),
    )
    save(vae, folder)
    return epochs


def _export(vae: VAE, data: Dataset, settings: Run, epochs: pd.DataFrame, folder: Path) -> None:
    """inference_data.nc and figures/."""
    data = _shuffled_test(data, settings.training.seed)
    condition = conditions(data, settings)["test"]
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


def _shuffled_test(data: Dataset, seed: int) -> Dataset:
    """The test rows in random order: those of static_mnist, say, are sorted by digit, and the first are all zeros."""
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(seed))
    labels = None if data.test_labels is None else data.test_labels[order]
    return dataclasses.replace(data, test=data.test[order], test_labels=labels)


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
    return _evaluate(vae, data, settings, Path(folder))


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
    plots.plot_samples(vae, n, condition=condition).savefig(paths[-1], dpi=plots.DPI)
    return paths


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
    data = _shuffled_test(data, settings.training.seed)
    condition = conditions(data, settings)["test"]
    comparison = compare_elbos(
        vae, data.test[:rows], estimators, None if condition is None else condition[:rows],
        num_particles=num_particles, num_repeats=num_repeats, annealed=annealed, seed=settings.training.seed,
        progress=progress,
    )  # fmt: skip
    comparison.table.to_csv(Path(folder) / "compare_elbos.csv")
    comparison.to_xarray().to_netcdf(Path(folder) / "compare_elbos.nc", engine="h5netcdf")
    _save(plots.plot_elbos(comparison), folder, "compare_elbos.png")
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
    shuffled = _shuffled_test(data, settings.training.seed)
    condition = conditions(shuffled, settings)["test"]

    def make() -> VAE:
        seed = int(torch.randint(2**31, ()))
        return build(dataclasses.replace(settings, training=dataclasses.replace(settings.training, seed=seed)), data)

    comparison = compare_training(
        make, data.train, shuffled.test[:rows],
        [(name, k) for name in estimators for k in num_particles], given["train"],
        None if condition is None else condition[:rows], epochs=epochs, seconds=seconds, seeds=range(seeds),
        transform=data.transform, batch_size=settings.training.batch_size, lr=settings.training.lr,
        optimizer=settings.training.optimizer, device=settings.training.device, progress=progress,
    )  # fmt: skip
    comparison.table.to_csv(Path(folder) / "compare_training.csv")
    _save(plots.plot_training(comparison), folder, "compare_training.png")
    return comparison


def _save(figure: Figure, folder: str | os.PathLike[str], name: str) -> None:
    path = Path(folder) / "figures" / name
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=plots.DPI)


def load_data(settings: Run, schema: Schema | None = None) -> Dataset:
    """The data of the settings, as their likelihood wants them: with a schema, standardized, or as they are.

    ``schema`` is that of a table of different types, where it is known already.
    """
    options = dataclasses.asdict(settings.data)
    del options["condition"]
    root, mode, kinds = (options.pop(key) for key in ("data_root", "binarize", "kinds"))
    name, arguments = registry.parse(settings.architecture.likelihood, "likelihood")
    if name == "tabular":
        if options["standardize"]:
            raise ValueError("standardize: tabular keeps the units of the table, and standardizes inside. Omit it.")
        options["schema"] = schema or (Schema(arguments["columns"]) if "columns" in arguments else kinds)
    elif kinds:
        raise ValueError(f"kinds: expected likelihood tabular, which has columns of different kinds, got {name}")
    if options["standardize"] is None:
        options["standardize"] = name == "auto" or _is_of_reals(settings.architecture.likelihood)
    return datasets.load(
        settings.dataset, root=root, binarize=None if mode == "auto" else mode, seed=settings.training.seed, **options
    )


def _is_of_reals(likelihood: str) -> bool:
    with warnings.catch_warnings():
        # It is made only to look at its support; when it is made for good it warns.
        warnings.simplefilter("ignore", UserWarning)
        return str(likelihoods.make(likelihood).support) == str(constraints.real)


def _evaluate(vae: VAE, data: Dataset, settings: Run, folder: Path) -> Evaluation:
    evaluation = evaluate(
        vae,
        data.test,
        conditions(data, settings)["test"],
        num_samples=settings.evaluating.num_samples,
        seed=settings.training.seed,
        progress=settings.progress,
    )
    _write_json(folder / "metrics.json", {"dataset": data.name, "split": "test", **evaluation.summary()})
    return evaluation


@contextmanager
def _new_folder(settings: Run) -> Iterator[Path]:
    """The folder asked for, which must be new or empty; otherwise the first free runs/NAME, runs/NAME-2, ...

    It is removed again if nothing was trained: after a mistake in the settings the same command can be given again.
    """
    folder = _make_folder(settings)
    try:
        yield folder
    except BaseException:
        if not (folder / "history.csv").exists():
            shutil.rmtree(folder)
        raise


def _make_folder(settings: Run) -> Path:
    if settings.out is not None:
        folder = Path(settings.out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"out: expected a new or empty folder, got {folder}, which is not. Choose another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    name = Path(settings.dataset).stem
    for number in range(1, 10_000):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ValueError(f"out: runs/{name} to runs/{name}-9999 are all taken. Choose another --out.")


def _versions() -> dict[str, str]:
    import pyro

    from pyrovae import __version__

    return {"pyrovae": __version__, "torch": torch.__version__, "pyro": pyro.__version__}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in value.items()}
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(finite, indent=2, allow_nan=False) + "\n")
    part.replace(path)
