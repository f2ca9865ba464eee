"""How a fit looks at the model: once before the first step, and at the end of each epoch."""

from __future__ import annotations

from pyro.infer import Trace_ELBO
from torch import Tensor

from pyrovae import elbos
from pyrovae.checks import trusted
from pyrovae.modes import evaluating, isolated, reseed
from pyrovae.training.batches import ordered
from pyrovae.training.distributed import World
from pyrovae.training.history import EpochMean, Row
from pyrovae.vae import VAE

ROWS = 1024
"""Rows that are validated at once: more than a training batch, because no gradient is kept."""


def look(vae: VAE, x: Tensor, condition: Tensor | None, seed: int) -> None:
    """The ELBO of a batch with all of Pyro's checks on, because training runs without them."""
    with isolated(seed, validation=True), evaluating(vae):
        Trace_ELBO().loss(vae.model, vae.guide, x, condition)


def validate(vae: VAE, x: Tensor, condition: Tensor | None, batch_size: int, seed: int, world: World) -> Row:
    """Mean ELBO and its split on the validation rows, with the same draws at each call.

    Of several processes, each takes every so many-th chunk of rows. A chunk's draws follow from its number alone, so
    the figures are those of one process.
    """
    mean = EpochMean()
    step = len(x) if vae.prior.has("joint") else max(batch_size, ROWS)
    with isolated(seed), evaluating(vae), trusted():
        for i, (_, part, c) in enumerate(ordered(x, condition, step)):
            if i % world.size != world.rank:
                continue
            reseed(seed + i)
            terms = elbos.terms(vae.model, vae.guide, part, c)
            mean.add(len(part), float(terms.log_weights.sum()), terms)
    row = mean.row(world)
    return {f"validation_{key}": row[key] for key in ("elbo", "reconstruction", "kl")}
