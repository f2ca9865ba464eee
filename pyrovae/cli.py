"""The command line: ``pyrovae fit | evaluate | diagnose | compare | sample | compare-elbos | list``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from pyrovae import __version__, board, pipeline
from pyrovae.pipeline import Run


@dataclass(frozen=True)
class Fit(Run):
    """Fit a VAE to data, evaluate it on test rows, and write a run folder.

    The folder holds config.json, model.safetensors, history.csv, metrics.json, inference_data.nc and figures/.
    """

    dataset: tyro.conf.Positional[str]
    """A name from `pyrovae list`, or a .npy, .npz, .csv or .parquet file."""

    def execute(self) -> None:
        result = pipeline.run(self)
        if result is not None:
            print(result)
            print(f"{'run':<18}{result.folder}")


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the model of a run folder on its test rows again."""

    run: tyro.conf.Positional[str]
    """Folder that `pyrovae fit` made."""
    num_samples: int | None = None
    """Importance samples a row for log p(x); the run's own number by default."""
    progress: bool = True
    """Show progress bars."""

    def execute(self) -> None:
        print(pipeline.evaluate_again(self.run, self.num_samples, self.progress))


@dataclass(frozen=True)
class Diagnose:
    """Look for what goes wrong in VAEs: k-hat, collapse, variances, gaps, prior and aggregate posterior.

    Writes diagnosis.csv.
    """

    run: tyro.conf.Positional[str]
    """Folder that `pyrovae fit` made."""
    rows: int = 1000
    """Random test rows."""
    gap_rows: int = 64
    """Rows whose gap between ELBO and log p(x) is split."""

    def execute(self) -> None:
        print(pipeline.diagnose_again(self.run, self.rows, self.gap_rows))


@dataclass(frozen=True)
class Compare:
    """Compare the models of run folders by log p(x) of the test rows, which must be the same in all."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Folders that `pyrovae fit` made."""
    num_samples: int = 1000
    """Importance samples a row for log p(x)."""
    progress: bool = True
    """Show progress bars."""

    def execute(self) -> None:
        print(pipeline.compare_runs(self.runs, self.num_samples, self.progress).round(3).to_string())


@dataclass(frozen=True)
class Sample:
    """Draw rows from the model of a run folder: samples.npy and samples.png in it."""

    run: tyro.conf.Positional[str]
    """Folder that `pyrovae fit` made."""
    n: int = 64
    """Rows to draw."""
    seed: int = 0
    """Seed of the draws."""

    def execute(self) -> None:
        print("\n".join(str(path) for path in pipeline.write_samples(self.run, self.n, self.seed)))


@dataclass(frozen=True)
class CompareElbos:
    """Hold ELBO estimators against each other at the weights of a run: bounds, gradients, time and memory.

    Adds compare_elbos.csv, compare_elbos.nc and figures/compare_elbos.png to the folder; with --train also
    compare_training.csv and figures/compare_training.png.
    """

    run: tyro.conf.Positional[str]
    """Folder that `pyrovae fit` made."""
    estimators: tuple[str, ...] = ("elbo", "iwae", "dreg")
    """Names from `pyrovae list`."""
    num_particles: tuple[int, ...] = (1, 8, 64)
    """Draws to try each of them with."""
    rows: int = 100
    """Random test rows."""
    num_repeats: int = 100
    """Steps of each estimator: a multiple of 10."""
    annealed: bool = False
    """Estimate log p(x) by annealed importance sampling as well."""
    train: bool = False
    """Train the model anew by each of them, too, and compare log p(x) of the test rows."""
    epochs: int | None = None
    """Training budget, in evaluations of the decoder a row; 100 by default."""
    seconds: float | None = None
    """Training budget in seconds, instead."""
    seeds: int = 3
    """Trainings of each."""
    progress: bool = True
    """Show progress bars."""

    def execute(self) -> None:
        same = {"rows": self.rows, "progress": self.progress}
        repeats = {"num_repeats": self.num_repeats, "annealed": self.annealed}
        print(pipeline.compare(self.run, self.estimators, self.num_particles, **repeats, **same))
        if self.train:
            epochs = 100 if self.epochs is None and self.seconds is None else self.epochs
            budget = {"epochs": epochs, "seconds": self.seconds, "seeds": self.seeds}
            print(pipeline.compare_by_training(self.run, self.estimators, self.num_particles, **budget, **same))


@dataclass(frozen=True)
class List:
    """List every prior, likelihood, posterior, network, estimator and data set, with a reference each."""

    json: bool = False
    """Print JSON."""

    def execute(self) -> None:
        print(json.dumps(board.board(), indent=2) if self.json else board.table())


Command = (
    Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[CompareElbos, tyro.conf.subcommand("compare-elbos")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake of the user's is one line on stderr and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"pyrovae {__version__}")
        return
    command = tyro.cli(
        Command,
        prog="pyrovae",
        description="Variational autoencoders as Pyro programs.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    try:
        command.execute()
    except (ValueError, FileNotFoundError, ImportError, FloatingPointError) as error:
        print(f"pyrovae: {error}", file=sys.stderr)
        raise SystemExit(2) from None
