"""Fit a VAE to rows."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import torch
from pyro.infer import ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from pyrovae import elbos
from pyrovae.checks import trusted
from pyrovae.config import Training
from pyrovae.elbos import KLWeight, Split
from pyrovae.modes import isolated, training
from pyrovae.training import distributed, history, optimizers, schedules, sources
from pyrovae.training.batches import Transform
from pyrovae.training.best import Best
from pyrovae.training.checkpoint import Checkpoint
from pyrovae.training.history import EpochMean, Row
from pyrovae.training.svi import CompiledSVI
from pyrovae.training.validation import look, validate
from pyrovae.training.watch import Watch
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd

Callback = Callable[[VAE, Row], bool | None]
WORTH = 5000
"""Steps of one shape for which ``compile="auto"`` compiles: it takes up to ten seconds, which they gain."""
BRIEF = 60.0
"""Seconds of training below which it does not."""


def fit(
    vae: VAE,
    x: Tensor | Iterable[Any],
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
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> pd.DataFrame:
    r"""Train ``vae`` on rows ``x`` with Pyro's SVI; returns the history, one row an epoch.

    Each step maximises a bound on :math:`\sum_n \log p(x_n)` over a batch. All of it happens in the model's own
    parameter scope: the param store, the random state and the validation setting of the user are as before
    afterwards. The model stays on the device that it was trained on.

    Args:
        vae: the model; its parameters are updated in place.
        x: data ``(N, *event_shape)``: tensor, array or data frame. Where they do not fit into memory: an array that is
            mapped from a file (``np.load(path, mmap_mode="r")``), a torch ``Dataset`` whose items are rows, or a stream
            of batches, which is a ``DataLoader``, one of `pyrovae.datasets.stream`, or anything that can be iterated
            over once an epoch. Items of these are x, or pairs (x, condition); they are read in a thread, one batch
            ahead, and checked at their step. Random numbers of theirs should come from a generator of their own, or
            the fit is not the same a second time.
        condition: ``(N, condition_dim)``, for a conditional VAE whose x is an array.
        validation: rows, in memory, on which each epoch is judged, always by the ELBO with one draw a row, the same
            draws at each epoch. With them the best epoch's weights are those that the model has at the end.
        validation_condition: the condition of the validation rows.
        transform: makes a batch of ``x`` into data, with a generator, at each step: such as dynamic binarization.
        elbo: a name from `pyrovae.elbos`, or any Pyro ELBO object.
        num_particles: draws for each row and step.
        epochs, batch_size, lr: as usual. A last batch of a single row joins the one before it. A stream of batches has
            a size of its own.
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
        device: "auto" takes a GPU where there is one. Losses stay there and are looked at a hundred at a time;
            ``torch.set_float32_matmul_precision("high")`` beforehand lets its matrix products run in TF32.
        compile: whether steps are compiled (see `pyrovae.CompiledSVI`); "auto": where there are so many of them, of one
            shape, and so much time, that it pays. Either way the draws are the same.
        precision: "bfloat16" runs the matrix products of training in it (by ``torch.autocast``).
        checkpoint: a folder; ``last.safetensors`` is written there after each epoch and ``best.safetensors`` at each
            best one.
        resume: write ``resume.safetensors`` there too, and go on from it if it is there.
        callbacks: called as ``callback(vae, row)`` after each epoch; True from any of them ends training.
        progress: show a progress bar.

    Started by ``torchrun``, the processes share the rows of each batch and take the same steps, of the batch's whole
    gradient (see `pyrovae.training.distributed`). Files, progress and callbacks, which should take seconds, are those
    of the first process. With a checkpoint folder, a fit that ``torchrun`` starts anew goes on from the last epoch.

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
    world = distributed.join(device, find_device(device))
    vae.to(world.device)
    distributed.check(vae, estimator, world)
    if resume and (checkpoint is None or getattr(estimator, "stateful", False)):
        raise ValueError(
            "resume: expected checkpoint=, a folder to go on from, and an estimator without a state of its own, got "
            f"checkpoint={checkpoint!r} and {settings.elbo}"
        )
    source = sources.make(
        vae, x, condition, batch_size=batch_size, transform=transform, world=world, seed=seed, epochs=epochs
    )
    if getattr(estimator, "num_rows", 0) is None:
        # A step does not tell the plate of how many rows its batch is, which would scale the loss.
        if source.rows is None:
            raise ValueError(f"{settings.elbo}: this stream does not say how many rows it has: pass num_rows=")
        estimator.num_rows = source.rows
    if validation is not None:
        if sources.is_stream(validation):
            raise ValueError(f"validation: expected rows in memory, got a stream ({type(validation).__name__})")
        validation = vae.check(validation)
        validation_condition = vae.check_condition(validation_condition, len(validation))
    vae.initialize(*source.head, size=source.rows)
    world.copy_first(vae)
    look(vae, *(None if rows is None else rows[:batch_size] for rows in source.head), seed)

    split = Split(vae.model, config_enumerate(vae.guide) if isinstance(estimator, TraceEnum_ELBO) else vae.guide)
    weight = KLWeight(vae.like.new_tensor(float(beta)))
    model, guide = (weight(split.model), weight(split.guide)) if weighted else (split.model, split.guide)
    vae.zero_grad()
    moves = optimizers.make(optimizer, vae.parameters(), lr)
    brief = seconds is not None and seconds < BRIEF
    exchange = distributed.Exchange(world, time.perf_counter() + (math.inf if seconds is None else seconds))
    svi = CompiledSVI(
        model, guide, moves, estimator, clip_norm=clip_norm, precision=precision, extra=split.take,
        worth=lambda batch, c: (
            compile is True or (compile == "auto" and not brief and source.times[len(batch)] * epochs >= WORTH)
        ),
        reduce=exchange if world.size > 1 else None,
    )  # fmt: skip
    best = Best(vae, beta, patience)
    stopped = "epochs"
    with ExitStack() as stack:
        stack.enter_context(isolated(seed, validation=False))
        stack.enter_context(training(vae))
        stack.callback(best.restore)
        stack.enter_context(trusted())
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        saved = Checkpoint(checkpoint, vae, moves, best, generator, settings, world, resume or world.size > 1)
        rows = saved.resume() if resume or distributed.restarted() else []
        draws = world.draws(generator, seed + world.size * len(rows))
        steps = source.times.total()
        bar = stack.enter_context(
            tqdm(
                initial=len(rows) * steps, total=epochs * steps or None, disable=not (progress and world.first),
                unit="step", mininterval=0.5,
            )
        )  # fmt: skip
        for epoch in range(len(rows), 0 if best.exhausted else epochs):
            begin = time.perf_counter()
            rate = lr * factor(epoch, epochs)
            for group in moves.param_groups:
                group["lr"] = rate
            mean, steps = EpochMean(), source.times.total()
            watch = Watch(best, epoch + 1, rate, vae.like.device)
            for i, (batch, c) in enumerate(stack.enter_context(closing(source.epoch(generator, draws)))):
                # Of a stream of unknown length it stays as it is at the beginning of the first epoch.
                now = epoch + (min(i / steps, 1.0) if steps else 0.0)
                kl_weight = schedules.kl_weight(beta, warmup, now, epochs=epochs, cycles=cycles)
                weight.weight.fill_(kl_weight)
                own = svi.advance(batch, c) if len(batch) else svi.idle()
                loss, late = exchange.outcome(own)
                watch.add(loss)
                if len(batch):
                    mean.add(len(batch), -own, svi.last)
                bar.update()
                if late:
                    stopped = "seconds"
                    break
            watch.look()
            row: Row = {"epoch": epoch + 1, **mean.row(world), "beta": kl_weight, "lr": rate}
            if validation is not None:
                row |= validate(vae, validation, validation_condition, batch_size, seed, world)
            row["seconds"] = time.perf_counter() - begin
            rows.append(row)
            bar.set_postfix_str(_postfix(row, epochs), refresh=False)
            saved.write(rows, best.see(row))
            with trusted(False), torch.random.fork_rng():
                enough = any([callback(vae, row) for callback in callbacks if world.first])
            if world.any(enough):
                stopped = "callback"
                break
            if best.exhausted:
                stopped = "patience"
            if stopped != "epochs":
                break
    return history.frame(
        rows, best_epoch=best.epoch, seed=seed, device=str(vae.like.device), elbo=settings.elbo, stopped=stopped
    )


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU where there is one. ValueError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: expected auto, cpu, or a GPU that torch finds, got {name!r} ({error})") from error


def _postfix(row: Row, epochs: int) -> str:
    text = f"epoch {row['epoch']}/{epochs}, ELBO {row['elbo']:.2f}"
    return text + (f", validation {row['validation_elbo']:.2f}" if "validation_elbo" in row else "")
