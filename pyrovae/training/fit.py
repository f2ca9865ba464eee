"""Fit a VAE to rows that lie in memory."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from pyrovae import elbos
from pyrovae.checks import as_rows, trusted
from pyrovae.config import Training
from pyrovae.elbos import KLWeight, Split
from pyrovae.modes import evaluating, isolated, training
from pyrovae.serialization import save
from pyrovae.training import history, optimizers, schedules
from pyrovae.training.batches import Transform, bounds, check_batch_norm, ordered, shuffled
from pyrovae.training.best import Best
from pyrovae.training.history import EpochMean, Row
from pyrovae.training.svi import CompiledSVI
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd

Callback = Callable[[VAE, Row], bool | None]
WORTH = 5000
"""Steps of one shape for which ``compile="auto"`` compiles: it takes some ten seconds, which they gain."""
BRIEF = 60.0
"""Seconds of training below which it does not."""
VALIDATION_ROWS = 1024
"""Rows that are validated at once: more than a training batch, because no gradient is kept."""


def fit(
    vae: VAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    validation: Tensor | None = None,
    validation_condition: Tensor | None = None,
    transform: Transform | None = None,
    elbo: str | ELBO = Training.elbo,
    num_particles: int = Training.num_particles,
    epochs: int = Training.epochs,
    batch_size: int = Training.batch_size,
    lr: float = Training.lr,
    optimizer: str | Callable[..., Optimizer] = Training.optimizer,
    schedule: str | schedules.Schedule = Training.schedule,
    clip_norm: float | None = Training.clip_norm,
    beta: float = Training.beta,
    warmup: float = Training.warmup,
    cycles: int = Training.cycles,
    patience: int | None = Training.patience,
    seconds: float | None = Training.seconds,
    seed: int = Training.seed,
    device: str = Training.device,
    compile: bool | str = Training.compile,  # noqa: A002 - torch's word
    precision: str = Training.precision,
    checkpoint: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> pd.DataFrame:
    r"""Train ``vae`` on rows ``x`` with Pyro's SVI; returns the history, one row an epoch.

    Each step maximises a bound on :math:`\sum_n \log p(x_n)` over a batch. All of it happens in the model's own
    parameter scope: the param store, the random state and the validation setting of the user are as before
    afterwards. The model stays on the device that it was trained on.

    Args:
        vae: the model; its parameters are updated in place.
        x: data ``(N, *event_shape)``: tensor, array or data frame.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        validation: rows on which each epoch is judged, always by the ELBO with one draw a row, the same draws at each
            epoch. With them the best epoch's weights are those that the model has at the end.
        validation_condition: the condition of the validation rows.
        transform: makes a batch of ``x`` into data, with a generator, at each step: such as dynamic binarization.
        elbo: a name from `pyrovae.elbos`, or any Pyro ELBO object.
        num_particles: draws for each row and step.
        epochs, batch_size, lr: as usual. A last batch of a single row joins the one before it.
        optimizer: a name, or a constructor ``(params, lr=...)``.
        schedule: a name, or a function from (epoch, epochs) to a factor of lr.
        clip_norm: the greatest norm of the gradient of the loss, which is summed over the batch.
        beta: weight of the KL term of a plain ELBO, or of the whole penalty of a regularised one; 0 leaves
            reconstruction alone. Refused for other bounds.
        warmup: epochs over which that weight rises from 0.
        cycles: equal parts of the run; the weight rises at the beginning of each (Fu et al. 2019,
            https://arxiv.org/abs/1903.10145).
        patience: epochs without a better validation figure (reconstruction - beta kl) after which to stop; those in
            which the weight of the KL rises do not count.
        seconds: time after which to stop, in the middle of an epoch too.
        seed: of the batches and the draws. Parameters are initialised when the VAE is made, by ``torch.manual_seed``.
        device: "auto" takes a GPU where there is one.
        compile: whether steps are compiled (see `pyrovae.CompiledSVI`); "auto": where there are so many of them, of one
            shape, and so much time, that it pays. Either way the draws are the same.
        precision: "bfloat16" runs the matrix products of training in it (by ``torch.autocast``).
        checkpoint: a folder; ``last.safetensors`` is written there after each epoch and ``best.safetensors`` at each
            best one.
        callbacks: called as ``callback(vae, row)`` after each epoch; True from any of them ends training.
        progress: show a progress bar.

    Returns:
        A DataFrame indexed by epoch (1, 2, ...): elbo, reconstruction and kl at the draws that training used, in nats
        a row; objective, what the estimator reports (for an importance-weighted bound, a regularised one or beta other
        than 1 it is not the elbo); beta, lr, validation_elbo, validation_reconstruction, validation_kl and seconds.
        ``attrs`` holds best_epoch, seed, device, elbo and stopped ("epochs", "patience", "seconds" or "callback").

    Raises:
        ValueError: before the first step, for data outside the support, wrong shapes, or settings that do not fit.
        FloatingPointError: when the loss is not finite any more.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> fit(vae, torch.randn(50, 4), epochs=2, progress=False).index.tolist()
    [1, 2]
    """
    settings = Training(
        elbo=elbo if isinstance(elbo, str) else type(elbo).__name__, num_particles=num_particles, epochs=epochs,
        batch_size=batch_size, lr=lr, clip_norm=clip_norm, beta=beta, warmup=warmup, cycles=cycles,
        patience=patience, seconds=seconds, seed=seed, device=device, compile=compile, precision=precision,
    )  # fmt: skip
    estimator = elbos.for_fit(elbos.make(elbo, num_particles))
    weighted = beta != 1 or warmup > 0
    if weighted and not elbos.is_regularizable(estimator):
        raise ValueError(
            f"beta and warmup weigh the KL term of the plain ELBO and the penalty of a regularised one; "
            f"{settings.elbo} has no such term. Expected beta=1 and warmup=0, got beta={beta} and warmup={warmup}. Or "
            "choose elbo='elbo'."
        )
    if patience is not None and validation is None:
        raise ValueError("patience: expected validation rows to judge by, got none: pass validation=")
    factor = schedules.make(schedule)
    vae.to(find_device(device))
    # With a transform, one draw of it stands for the data here, and every later one is checked at its step.
    x = as_rows(x, vae.event_shape, like=vae.like)
    if getattr(estimator, "num_rows", len(x)) is None:
        # A step does not tell the plate of how many rows its batch is, which would scale the loss.
        estimator.num_rows = len(x)
    seen = vae.check(x if transform is None else transform(x, torch.Generator().manual_seed(seed)))
    condition = vae.check_condition(condition, len(x))
    if validation is not None:
        validation = vae.check(validation)
        validation_condition = vae.check_condition(validation_condition, len(validation))
    check_batch_norm(vae, len(x), batch_size)
    if vae.prior.has("joint") and batch_size < len(x):
        raise ValueError(
            f"batch_size: the prior ({type(vae.prior.piece).__name__}) makes rows depend on one another: expected all "
            f"{len(x)} rows in one batch, got {batch_size}. Pass batch_size={len(x)}, or a prior with inducing points."
        )
    vae.initialize(seen, condition)
    _look(vae, seen[:batch_size], None if condition is None else condition[:batch_size], seed)

    split = Split(vae.model, config_enumerate(vae.guide) if isinstance(estimator, TraceEnum_ELBO) else vae.guide)
    weight = KLWeight(torch.tensor(float(beta), dtype=vae.like.dtype))
    model, guide = (weight(split.model), weight(split.guide)) if weighted else (split.model, split.guide)
    vae.zero_grad()
    moves = optimizers.make(optimizer, vae.parameters(), lr)
    times = Counter(last - first for first, last in bounds(len(x), batch_size))
    brief = seconds is not None and seconds < BRIEF
    svi = CompiledSVI(
        model, guide, moves, estimator, clip_norm=clip_norm, precision=precision, extra=split.take,
        worth=lambda batch, c: (
            compile is True or (compile == "auto" and not brief and times[len(batch)] * epochs >= WORTH)
        ),
    )  # fmt: skip
    best = Best(vae, beta, patience)
    steps = len(bounds(len(x), batch_size))
    rows: list[Row] = []
    stopped = "epochs"
    deadline = time.perf_counter() + (math.inf if seconds is None else seconds)
    with ExitStack() as stack:
        stack.enter_context(isolated(seed, validation=False))
        stack.enter_context(training(vae))
        stack.callback(best.restore)
        stack.enter_context(trusted())
        bar = stack.enter_context(tqdm(total=epochs * steps, disable=not progress, unit="step", mininterval=0.5))
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        for epoch in range(epochs):
            begin = time.perf_counter()
            rate = lr * factor(epoch, epochs)
            for group in moves.param_groups:
                group["lr"] = rate
            mean = EpochMean()
            for i, (batch, c) in enumerate(shuffled(x, condition, batch_size, generator, transform)):
                if transform is not None:
                    with trusted(False):
                        vae.check(batch)
                kl_weight = schedules.kl_weight(beta, warmup, epoch + i / steps, epochs=epochs, cycles=cycles)
                weight.weight.fill_(kl_weight)
                loss = svi.step(batch, c)
                if not math.isfinite(loss):
                    best.reject()
                    raise FloatingPointError(
                        f"expected a finite loss, got {loss} at epoch {epoch + 1}, step {i + 1}. The model has the "
                        f"weights of epoch {best.epoch} back. Try a lower lr (now {rate:g}) or clip_norm."
                    )
                best.confirm()
                mean.add(len(batch), -loss, svi.last)
                bar.update()
                if time.perf_counter() >= deadline:
                    stopped = "seconds"
                    break
            row: Row = {"epoch": epoch + 1, **mean.row(), "beta": kl_weight, "lr": rate}
            if validation is not None:
                row |= _validate(vae, validation, validation_condition, batch_size, seed)
            row["seconds"] = time.perf_counter() - begin
            rows.append(row)
            bar.set_postfix_str(_postfix(row, epochs), refresh=False)
            improved = best.see(row)
            if checkpoint is not None:
                save(vae, Path(checkpoint) / "last.safetensors")
                if improved:
                    save(vae, Path(checkpoint) / "best.safetensors")
            with trusted(False), torch.random.fork_rng():
                enough = any([callback(vae, row) for callback in callbacks])
            if enough:
                stopped = "callback"
                break
            if best.exhausted:
                stopped = "patience"
            if stopped != "epochs":
                break
    return history.frame(
        rows, best_epoch=best.epoch, seed=seed, device=str(x.device), elbo=settings.elbo, stopped=stopped
    )


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU where there is one. ValueError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: expected auto, cpu, or a GPU that torch finds, got {name!r} ({error})") from error


def _look(vae: VAE, x: Tensor, condition: Tensor | None, seed: int) -> None:
    """The ELBO of a batch with all of Pyro's checks on, because training runs without them."""
    with isolated(seed, validation=True), evaluating(vae):
        Trace_ELBO().loss(vae.model, vae.guide, x, condition)


def _validate(vae: VAE, x: Tensor, condition: Tensor | None, batch_size: int, seed: int) -> Row:
    """Mean ELBO and its split on the validation rows, with the same draws at each call."""
    mean = EpochMean()
    step = len(x) if vae.prior.has("joint") else max(batch_size, VALIDATION_ROWS)
    with isolated(seed), evaluating(vae), trusted():
        for _, part, c in ordered(x, condition, step):
            terms = elbos.terms(vae.model, vae.guide, part, c)
            mean.add(len(part), float(terms.log_weights.sum()), terms)
    row = mean.row()
    return {f"validation_{key}": row[key] for key in ("elbo", "reconstruction", "kl")}


def _postfix(row: Row, epochs: int) -> str:
    text = f"epoch {row['epoch']}/{epochs}, ELBO {row['elbo']:.2f}"
    return text + (f", validation {row['validation_elbo']:.2f}" if "validation_elbo" in row else "")
