"""What the experiments on priors, likelihoods and posteriors share: options, a table that grows, random rows, dots."""

from __future__ import annotations

import argparse
import math
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import pyrovae
from pyrovae.plots.style import DPI, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"


def options(doc: str, members: Iterable[str]) -> argparse.ArgumentParser:
    """A parser with what all of these experiments are asked."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw and static_mnist")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for tables and figures")
    parser.add_argument("--train-rows", type=int, help="train on the first rows only, for a quick look")
    parser.add_argument("--only", nargs="+", choices=list(members), metavar="NAME", help=f"of {', '.join(members)}")
    parser.add_argument("--restart", action="store_true", help="forget what an earlier run has finished")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    return parser


class Table:
    """A CSV with a row for each member, written after each of them, so that a run that was cut off goes on from there.

    What else a member leaves behind (log p(x) of each row, pictures) lies in a folder of the CSV's name beside it, one
    ``.npz`` a member; a member without that file is run again.

    Args:
        path: of the CSV.
        settings: what all members must have in common to compare; kept as columns.
        restart: start from nothing.

    Raises:
        ValueError: if an earlier run had other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], restart: bool = False) -> None:
        self.path, self.folder, self.settings = path, path.with_suffix(""), settings
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rows = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        """The rows on disk whose arrays are there too."""
        rows = pd.read_csv(self.path).to_dict("records") if self.path.is_file() else []
        rows = {row["name"]: row for row in rows if self._file(row["name"]).is_file()}
        for name, row in rows.items():
            for key, value in self.settings.items():
                if row.get(key) != value:
                    raise ValueError(
                        f"{self.path}: {name!r} was run with {key}={row.get(key)}, and this run has {key}={value}. "
                        "Give the same options, another --out, or --restart."
                    )
        return rows

    def __contains__(self, name: str) -> bool:
        return name in self.rows

    def add(self, name: str, row: dict[str, Any], **arrays: np.ndarray) -> None:
        """Keep a member's figures and arrays, and write the CSV."""
        np.savez_compressed(self._file(name), **arrays)
        # Another process may have added members in the meantime.
        self.rows = {**self._read(), **self.rows, name: {"name": name, **row, **self.settings}}
        self.write()

    def compare(self, reference: str, key: str = "log_p") -> None:
        """Add to each row how its array ``key`` differs from the reference's over the same rows; nan without one."""
        for name, row in self.rows.items():
            known = reference in self and name != reference and np.isfinite(self.array(name, key)).all()
            difference = self.array(name, key) - self.array(reference, key) if known else np.full(2, np.nan)
            row[f"minus_{reference}"], row[f"minus_{reference}_standard_error"] = mean_and_error(difference)
        self.write()

    def write(self) -> None:
        self.frame().to_csv(self.path, index=False)

    def array(self, name: str, key: str) -> np.ndarray:
        """An array that a member left behind."""
        with np.load(self._file(name)) as arrays:
            return arrays[key]

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(list(self.rows.values())).round(4)

    def _file(self, name: str) -> Path:
        return self.folder / (re.sub(r"\W+", "_", name).strip("_") + ".npz")


def mean_and_error(values: np.ndarray | Tensor) -> tuple[float, float]:
    """The mean of values of independent rows, and its standard error."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def random_rows(total: int, count: int, seed: int) -> Tensor:
    """``count`` of ``total`` rows, at random and in order: files of data may be sorted by class."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:count].sort().values


def scores(evaluation: pyrovae.evaluation.Evaluation) -> dict[str, float]:
    """Of an evaluation, the columns that these experiments report, in nats a row."""
    summary = evaluation.summary()
    names = {
        "log_p": "log_marginal",
        "log_p_standard_error": "log_marginal_standard_error",
        "log_p_monte_carlo_error": "log_marginal_monte_carlo_error",
        "elbo": "elbo",
        "elbo_standard_error": "elbo_standard_error",
        "reconstruction": "reconstruction",
        "kl": "kl",
        "share_k_hat_above_0.7": "share_k_hat_above_0.7",
        "active_units": "active_units",
        "test_rows": "rows",
        "num_samples": "num_samples",
    }
    result = {name: summary[key] for name, key in names.items()}
    if evaluation.undefined:
        result |= {name: math.nan for name in ("log_p_monte_carlo_error", "share_k_hat_above_0.7")}
    return result


def dots(
    ax: Axes,
    places: Sequence[float],
    values: Sequence[float],
    errors: Sequence[float] | None = None,
    *,
    color: str,
    marker: str = "o",
    label: str | None = None,
) -> None:
    """A dot for each member at its height, with a bar of two standard errors either way."""
    bars = None if errors is None else 2 * np.asarray(errors)
    style = {"color": color, "ecolor": color, "markersize": 5, "elinewidth": 1.2, "label": label}
    ax.errorbar(values, places, xerr=bars, fmt=marker, **style)


def name_rows(axes: Sequence[Axes], labels: Sequence[str]) -> None:
    """Members from top to bottom, with their names at the first of some axes that share them."""
    for ax in axes:
        ax.set_yticks(range(len(labels)), labels, fontsize=9)
        ax.set_ylim(len(labels) - 0.5, -0.5)
        ax.grid(axis="both", color=QUIET, alpha=0.2, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0, labelleft=ax is axes[0])
        ax.tick_params(axis="x", labelsize=8)
        ax.spines[["top", "right", "left"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a figure, and say where."""
    figure.savefig(path, dpi=DPI)
    print(f"wrote {path}")
