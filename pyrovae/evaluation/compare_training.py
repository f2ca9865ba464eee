"""ELBO estimators by what they train: the same start, the same budget, log p(x) of held-out rows at the end."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae import elbos
from pyrovae.checks import count
from pyrovae.elbos import Bound
from pyrovae.evaluation.log_marginal import log_marginal
from pyrovae.training import fit
from pyrovae.training.sweep import sweep
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd

EPOCHS = 10**6
"""More than any training by the clock takes."""


@dataclass(frozen=True)
class TrainingComparison:
    """What `compare_training` found. Printed, it is the summary.

    Attributes:
        table: by estimator, num_particles and seed: log_marginal of the held-out rows (mean, nats a row), its
            standard_error over rows and Monte Carlo error, epochs and seconds.
        budget: what each of them had, in words.
    """

    table: pd.DataFrame
    budget: str

    def summary(self) -> pd.DataFrame:
        """Mean over seeds and its standard error (nan of one seed), by estimator and num_particles."""
        groups = self.table.groupby(["estimator", "num_particles"], sort=False)["log_marginal"]
        return groups.agg(log_marginal="mean", standard_error="sem")

    def __str__(self) -> str:
        return f"{self.summary().round(3).to_string()}\n{self.budget} each"


def compare_training(
    make: Callable[[], VAE],
    x: Tensor,
    held_out: Tensor,
    runs: Sequence[tuple[str | Bound, int]] = (("elbo", 1), ("iwae", 8), ("dreg", 8)),
    condition: Tensor | None = None,
    held_out_condition: Tensor | None = None,
    *,
    epochs: int | None = None,
    seconds: float | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    num_samples: int = 5000,
    n_jobs: int = 1,
    progress: bool = True,
    **options: object,
) -> TrainingComparison:
    r"""Train the same VAE by each estimator, and hold log p(x) of held-out rows against each other.

    For each seed the model is made once, and copied: same first weights, same batches. All have the same number of
    evaluations of the decoder (K draws cost K, so that an estimator of K draws has ``epochs / K`` epochs, at least
    one), or the same time.

    Args:
        make: builds a new VAE; torch is seeded before.
        x: training rows ``(N, *event_shape)``.
        held_out: rows that log p(x) is estimated on.
        runs: estimators and their draws K.
        condition, held_out_condition: for a conditional VAE.
        epochs: budget in passes over the rows with one draw each; or
        seconds: budget in seconds of training.
        seeds: of the first weights, the batches and the draws.
        num_samples: importance samples a row for log p(x).
        n_jobs: trainings at a time, in processes (see `pyrovae.training.sweep`); with a budget in seconds they take
            cores from one another.
        progress: show a progress bar.
        options: further arguments of `pyrovae.fit`.

    Raises:
        ValueError: unless one of epochs and seconds is given.

    >>> make = lambda: VAE((4,), 2, likelihood="gaussian")
    >>> x = torch.randn(20, 4)
    >>> compare_training(make, x, x, epochs=2, seeds=[0], num_samples=10, progress=False).table.shape
    (3, 5)
    """
    import pandas as pd

    if (epochs is None) == (seconds is None):
        raise ValueError(f"expected a budget of either epochs or seconds, got epochs={epochs} and seconds={seconds}")
    if epochs is not None:
        count(epochs, "epochs", 1)

    def run(first: VAE, seed: int, value: str | Bound, k: int) -> dict[str, object]:
        vae = copy.deepcopy(first)
        history = fit(
            vae, x, condition, elbo=elbos.with_draws(value, k), seed=seed, progress=False,
            epochs=EPOCHS if epochs is None else max(1, epochs // k), seconds=seconds, **options,
        )  # fmt: skip
        estimate = log_marginal(vae, held_out, held_out_condition, num_samples=num_samples, seed=seed, progress=False)
        values = estimate.value.double()
        return {
            "estimator": value if isinstance(value, str) else repr(value), "num_particles": k, "seed": seed,
            "log_marginal": float(values.mean()),
            "standard_error": float(values.std()) / math.sqrt(len(values)),
            "monte_carlo_error": float(estimate.standard_error.double().square().sum().sqrt()) / len(values),
            "epochs": len(history), "seconds": float(history["seconds"].sum()),
        }  # fmt: skip

    settings = []
    for seed in seeds:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            first = make()
        settings += [(first, seed, value, k) for value, k in runs]
    rows = sweep(run, settings, n_jobs=n_jobs, desc="training", progress=progress)
    budget = f"{seconds:g} s" if epochs is None else f"{epochs} evaluations of the decoder a row"
    return TrainingComparison(pd.DataFrame(rows).set_index(["estimator", "num_particles", "seed"]), budget)
