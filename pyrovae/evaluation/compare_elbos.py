"""ELBO estimators side by side: bound, gradient, time and memory, on the same rows and parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pyro.infer import ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor
from tqdm import tqdm

from pyrovae import elbos, hierarchy
from pyrovae.checks import trusted
from pyrovae.elbos import IWAE, Bound
from pyrovae.evaluation.ais import ais
from pyrovae.evaluation.importance import checked
from pyrovae.evaluation.log_marginal import log_marginal
from pyrovae.evaluation.memory import PeakMemory
from pyrovae.evaluation.weights import LogMarginal
from pyrovae.modes import isolated, training
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

GROUPS = 10
"""Repeats are averaged in so many groups, whose spread gives the error of a bias."""
PARTS = ("encoder", "decoder")


@dataclass(frozen=True)
class ElboComparison:
    """What `compare_elbos` found. Printed, it is the table.

    Attributes:
        table: by estimator and num_particles: see `compare_elbos`.
        references: estimates of mean log p(x) of the rows and their Monte Carlo errors, by method, in nats a row.
        rows: rows of data.
        num_repeats: steps that each figure is made of.
        left_out: estimators with a num_particles that they do not take, and why.
    """

    table: pd.DataFrame
    references: dict[str, tuple[float, float]]
    rows: int
    num_repeats: int
    left_out: dict[tuple[str, int], str]

    @property
    def log_marginal(self) -> tuple[float, float]:
        """The greatest of the references, which are exact or low on average, and its error."""
        return max(self.references.values())

    def to_xarray(self) -> xr.Dataset:
        """The table as a Dataset with dims estimator and num_particles."""
        result = self.table.to_xarray()
        result.attrs.update(rows=self.rows, num_repeats=self.num_repeats)
        for name, (value, error) in self.references.items():
            result.attrs |= {f"log_marginal_{name}": value, f"log_marginal_{name}_standard_error": error}
        return result

    def __str__(self) -> str:
        columns = ["bound", "standard_error", "gap", "encoder_snr", "decoder_snr", "encoder_bias_z", "seconds", "bytes"]
        table = self.table[columns].copy()
        table["seconds"] *= 1e3
        table["bytes"] /= 1e6
        table = table.rename(columns={"seconds": "ms", "bytes": "MB"})
        lines = [table.round(3).to_string()]
        for name, (value, error) in self.references.items():
            lines.append(f"log p(x) {value:.3f} +- {error:.3f} ({name}), mean of {self.rows} rows")
        lines += [f"left out: {name} with {k} draws ({why})" for (name, k), why in self.left_out.items()]
        return "\n".join(lines)


def compare_elbos(
    vae: VAE,
    x: Tensor,
    estimators: Sequence[str | Bound] = ("elbo", "iwae", "dreg"),
    condition: Tensor | None = None,
    *,
    num_particles: Sequence[int] = (1, 8, 64),
    num_repeats: int = 100,
    exact: Tensor | None = None,
    num_samples: int = 5000,
    annealed: bool = False,
    seed: int = 0,
    chunk: int | None = None,
    progress: bool = True,
) -> ElboComparison:
    r"""Hold ELBO estimators against each other at the weights that ``vae`` has, on rows ``x``.

    Each estimator makes ``num_repeats`` steps without moving anything, turn by turn with the others. With
    :math:`g_r` the gradient of the loss, summed over rows, at repeat r, for the encoder's parameters (those of the
    posterior) and all others apart:

    - ``bound``, ``standard_error``: mean over repeats of the bound, in nats a row, and its Monte Carlo error;
    - ``gap``, ``gap_standard_error``: log p(x) less the bound (of an upper bound, below 0);
    - ``*_variance``: :math:`\operatorname{tr} \operatorname{Cov}(g)`;
    - ``*_snr``: :math:`\lVert \mathrm{E} g \rVert / \sqrt{\operatorname{tr} \operatorname{Cov} g}`, with the noise
      that R repeats leave in the mean taken off;
    - ``*_bias``, ``*_bias_z``: distance of E g from the gradient of the bound itself, relative to the norm of that,
      likewise, and its square in standard errors (above 3 or so it is there). The gradient of the bound is that of the
      formula with reparameterised draws; nan where there is none. 0 where the estimator is just that;
    - ``seconds``, ``seconds_low``, ``seconds_high``: median and quartiles of a step (loss and gradient);
    - ``bytes``: the most that tensors take in a step.

    Args:
        vae: the model.
        x: data ``(N, *event_shape)``; all of it makes one batch.
        estimators: names, or objects of `pyrovae.elbos`, whose own num_particles is not used.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        num_particles: numbers of draws K to try each of them with.
        num_repeats: R, a multiple of 10.
        exact: log p(x) of each row ``(N,)``, where it is known; else by importance sampling.
        num_samples: importance samples a row for log p(x).
        annealed: estimate it by annealed importance sampling as well (`pyrovae.ais`).
        seed: of the draws.
        chunk: draws times rows that go through the decoder at once (for estimators of ours; Pyro's own go draw by draw
            where that is not enough); a step that has to be split costs one more pass forward.
            None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
        progress: show a progress bar.

    Raises:
        ValueError: for data or settings that do not fit.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> compare_elbos(vae, torch.randn(5, 4), num_particles=[1, 2], num_repeats=20, progress=False).table.shape
    (6, 16)
    """
    import pandas as pd

    if num_repeats < 2 * GROUPS or num_repeats % GROUPS:
        raise ValueError(f"num_repeats: expected a multiple of {GROUPS} of at least {2 * GROUPS}, got {num_repeats}")
    x, condition, chunk = checked(vae, x, condition, num_samples, chunk, gradients=True)
    references = _references(vae, x, condition, exact, num_samples, annealed, seed, chunk, progress)
    truth, truth_error = max(references.values())
    runs: dict[tuple[str, int], _Run] = {}
    plain: dict[tuple[object, int], _Run] = {}
    left_out: dict[tuple[str, int], str] = {}
    with isolated(seed, validation=False), training(vae), trusted(), _untouched_gradients(vae):
        vae.eval()
        for value in estimators:
            for k in num_particles:
                key = value if isinstance(value, str) else repr(value), k
                try:
                    runs[key] = _Run(vae, _prepared(value, k, len(x), chunk), x, condition)
                except ValueError as error:
                    left_out[key] = str(error)
        if not runs:
            raise ValueError(f"estimators: none of them can be run: {'; '.join(left_out.values())}")
        for run in runs.values():
            if run.plain_key is not None and run.plain_key not in plain:
                # Where z cannot be reparameterised the formula has no such gradient.
                with suppress(ValueError):
                    plain[run.plain_key] = _Run(vae, _Plain.of(run.elbo), x, condition)
        everything = [*runs.values(), *plain.values()]
        for repeat in tqdm(range(num_repeats), disable=not progress, desc="comparing", unit="repeat", delay=2):
            for run in everything:
                run.step(repeat * GROUPS // num_repeats)
    rows = []
    for (name, k), run in runs.items():
        bound, error = run.bound(len(x))
        row = {"estimator": name, "num_particles": k, "bound": bound, "standard_error": error}
        row |= {"gap": truth - bound, "gap_standard_error": math.hypot(error, truth_error)}
        reference = run if run.plain_key is None else plain.get(run.plain_key)
        rows.append(row | run.gradient(reference) | run.cost())
    table = pd.DataFrame(rows).set_index(["estimator", "num_particles"])
    return ElboComparison(table, references, len(x), num_repeats, left_out)


def _references(
    vae: VAE,
    x: Tensor,
    condition: Tensor | None,
    exact: Tensor | None,
    num_samples: int,
    annealed: bool,
    seed: int,
    chunk: int,
    progress: bool,
) -> dict[str, tuple[float, float]]:
    """Estimates of the mean of log p(x) over rows, and their Monte Carlo errors."""
    options = {"seed": seed, "chunk": chunk, "progress": progress}
    found = {}
    if exact is not None:
        exact = torch.as_tensor(exact)
        if exact.shape != (len(x),):
            raise ValueError(f"exact: expected log p(x) of {len(x)} rows, got shape {tuple(exact.shape)}")
        found["exact"] = LogMarginal(exact, torch.zeros_like(exact))
    else:
        found["importance"] = log_marginal(vae, x, condition, num_samples=num_samples, **options)
    if annealed:
        found["annealed"] = ais(vae, x, condition, **options)
    return {
        name: (float(value.double().mean()), float(error.double().square().sum().sqrt()) / len(x))
        for name, (value, error) in found.items()
    }


def _prepared(value: str | Bound, num_particles: int, rows: int, chunk: int) -> ELBO:
    """An estimator of that many draws, in pieces where they are too many for one go."""
    split = num_particles * rows > chunk
    elbo = elbos.for_fit(elbos.with_draws(value, num_particles))
    if isinstance(elbo, Bound):
        elbo.max_plate_nesting = 1
        elbo.chunk = max(1, chunk // rows) if split else elbo.chunk
    elif split:
        elbo.vectorize_particles, elbo.max_plate_nesting = False, 1
    return elbo


class _Plain(IWAE):
    """The bound of another estimator with the gradient of the formula."""

    @classmethod
    def of(cls, elbo: Bound) -> _Plain:
        plain = cls(elbo.num_particles, chunk=elbo.chunk, max_plate_nesting=1)
        plain.bound = elbo.bound
        return plain


class _Run:
    """An estimator at work: what it found so far."""

    def __init__(self, vae: VAE, elbo: ELBO, x: Tensor, condition: Tensor | None) -> None:
        self.vae, self.elbo, self.batch = vae, elbo, (x, condition)
        guide = config_enumerate(vae.guide) if isinstance(elbo, TraceEnum_ELBO) else vae.guide
        self.programs = vae.model, guide
        self.losses: list[float] = []
        self.seconds: list[float] = []
        guides = [layer.posterior for layer in (vae, *hierarchy.above(vae))] + ([vae.y.posterior] if vae.y else [])
        encoder = {id(p) for guide in guides for p in guide.parameters()}
        everything = [p for p in vae.parameters() if p.requires_grad]
        self.parameters = {
            "encoder": [p for p in everything if id(p) in encoder],
            "decoder": [p for p in everything if id(p) not in encoder],
        }
        self.sums = {part: [_like(ps) for _ in range(GROUPS)] for part, ps in self.parameters.items()}
        self.squares = dict.fromkeys(PARTS, 0.0)
        with PeakMemory() as memory:
            self._loss()
        self.bytes = memory.peak

    @property
    def plain_key(self) -> tuple[object, int] | None:
        """Which gradient this is held against, the same for the same bound; None where it is that by its formula."""
        if not isinstance(self.elbo, Bound) or type(self.elbo).weights is Bound.weights or self.elbo.side > 0:
            return None
        same = type(self.elbo).bound is IWAE.bound
        return ("iwae" if same else repr(self.elbo)), self.elbo.num_particles

    def step(self, group: int) -> None:
        """A step that counts, of one of the groups of repeats."""
        begin = time.perf_counter()
        loss = self._loss()
        if self.batch[0].is_cuda:
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - begin)
        self.losses.append(loss)
        for part, parameters in self.parameters.items():
            gradient = torch.cat([_slope(p).flatten() for p in parameters])
            self.sums[part][group] += gradient
            self.squares[part] += float(gradient.double().square().sum())

    def _loss(self) -> float:
        self.vae.zero_grad(set_to_none=True)
        return self.elbo.loss_and_grads(*self.programs, *self.batch)

    def bound(self, rows: int) -> tuple[float, float]:
        """Mean over repeats of the bound, in nats a row, and its error."""
        upper = isinstance(self.elbo, Bound) and self.elbo.side > 0
        values = torch.tensor(self.losses, dtype=torch.float64) / (rows if upper else -rows)
        return float(values.mean()), float(values.std() / math.sqrt(len(values)))

    def gradient(self, reference: _Run | None) -> dict[str, float]:
        """Variance, signal and bias of both parts of the gradient."""
        result, repeats = {}, len(self.losses)
        for part in PARTS:
            total = _norm(sum(self.sums[part]))
            variance = (self.squares[part] - total / repeats) / (repeats - 1)
            signal = max(total / repeats**2 - variance / repeats, 0.0)
            result[f"{part}_variance"] = variance
            result[f"{part}_snr"] = math.sqrt(signal / variance) if variance > 0 else math.inf
            bias, z = (0.0, 0.0) if reference is self else self._bias(part, reference)
            result |= {f"{part}_bias": bias, f"{part}_bias_z": z}
        return result

    def _bias(self, part: str, reference: _Run | None) -> tuple[float, float]:
        if reference is None:
            return math.nan, math.nan
        size = len(self.losses) // GROUPS
        apart = [(a - b).double() / size for a, b in zip(self.sums[part], reference.sums[part], strict=True)]
        square, error = _square_of_mean(apart)
        norm, _ = _square_of_mean([b.double() / size for b in reference.sums[part]])
        relative = math.sqrt(max(square, 0.0) / norm) if norm > 0 else math.nan
        return relative, square / error if error > 0 else 0.0

    def cost(self) -> dict[str, float]:
        """Quartiles of the seconds of a step, and its bytes."""
        seconds = torch.tensor(self.seconds, dtype=torch.float64)
        low, middle, high = (float(seconds.quantile(q)) for q in (0.25, 0.5, 0.75))
        return {"seconds": middle, "seconds_low": low, "seconds_high": high, "bytes": self.bytes}


def _like(parameters: Sequence[Tensor]) -> Tensor:
    """Zeros, one for each number in the parameters."""
    return torch.cat([torch.zeros_like(p).flatten() for p in parameters])


def _slope(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _norm(values: Tensor) -> float:
    """The square of the norm."""
    return float(values.double().square().sum())


def _square_of_mean(values: list[Tensor]) -> tuple[float, float]:
    r""":math:`\lVert \mathrm{E} v \rVert^2` from independent v, without bias, and its jackknife error.

    By the products of different ones alone: :math:`\sum_{a \ne b} v_a \cdot v_b / (n (n - 1))`.
    """
    total, squares = sum(values), [_norm(v) for v in values]

    def estimate(total: Tensor, squares: list[float]) -> float:
        return (_norm(total) - sum(squares)) / (len(squares) * (len(squares) - 1))

    count = len(values)
    without = torch.tensor(
        [estimate(total - v, squares[:i] + squares[i + 1 :]) for i, v in enumerate(values)], dtype=torch.float64
    )
    error = math.sqrt((count - 1) / count * float((without - without.mean()).square().sum()))
    return estimate(total, squares), error


@contextmanager
def _untouched_gradients(vae: VAE) -> Iterator[None]:
    """Gradients of the parameters are afterwards what they were."""
    before = [(p, p.grad) for p in vae.parameters()]
    try:
        yield
    finally:
        for p, grad in before:
            p.grad = grad
