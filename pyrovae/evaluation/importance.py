"""Importance sampling from the guide, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from pyrovae import elbos, hierarchy
from pyrovae.checks import count, trusted
from pyrovae.elbos import Terms
from pyrovae.elbos.draws import draw
from pyrovae.evaluation.memory import PeakMemory
from pyrovae.evaluation.shares import ALL, Share, reseed_for
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.training.traced import NotTraceable, Traced
from pyrovae.vae import VAE

CHUNK = 5000
"""The most draws times rows that go through the decoder at once, those of an L_5000."""
MEMORY = 40 * 2**20
"""Bytes that the tensors of so many draws may take on a CPU, whose caches hold about as many: 250 draws at once of a
network of convolutions (54 MB) take a sixth longer than 125, but 1,250 of 784-200-200-50 longer than 2,500 (24 MB), as
each call has its price."""
ELSEWHERE = 2**28
"""Bytes on other devices, which are slow at little at a time."""
TOGETHER = 16
"""Times ``chunk``: draws whose weights are looked at together. To look at those of a single row takes as long."""
PROBE = 16
"""Draws of which the bytes are counted."""
WORTH = 1e12
"""Draws times parameters from which their computation is compiled: half a minute or more, which ten seconds shorten."""


def point(vae: VAE) -> str | None:
    """The name of a posterior, of any layer, that is a point and has no density; None where all have one."""
    posteriors = (layer.posterior for layer in (vae, *hierarchy.above(vae)))
    return next((type(posterior.piece).__name__ for posterior in posteriors if posterior.has("point")), None)


def no_marginal(vae: VAE) -> str | None:
    """Why there is no log p(x_n) of single rows by importance sampling from the guide; None where there is."""
    if name := point(vae):
        return f"the posterior ({name}) is a point, which has no density"
    if vae.prior.has("joint"):
        return f"the prior ({type(vae.prior.piece).__name__}) makes rows depend on one another"
    return None


def check_marginal(vae: VAE, name: str) -> None:
    """Raise a ValueError, in the name of a function, where there is no log p(x_n) of single rows."""
    if reason := no_marginal(vae):
        raise ValueError(f"{name}: expected independent rows and a posterior with a density, but {reason}")


def rows_at_once(vae: VAE, rows: int, draws: int, chunk: int) -> int:
    """Rows that fit into ``chunk`` with ``draws`` each; all of them where they depend on one another."""
    return rows if vae.prior.has("joint") else max(1, chunk // draws)


def checked(
    vae: VAE, x: Tensor, condition: Tensor | None, num_samples: int, chunk: int | None, *, gradients: bool = False
) -> tuple[Tensor, Tensor | None, int]:
    """Data, condition and chunk as `importance_terms` takes them; ValueError for those or numbers that do not fit."""
    count(num_samples, "num_samples", 1)
    x = vae.check(x)
    return x, vae.check_condition(condition, len(x)), draws_at_once(vae, chunk, gradients=gradients)


def draws_at_once(vae: VAE, chunk: int | None, *, gradients: bool = False) -> int:
    """``chunk``, or, of None, how many draws of a latent and their x fit into `MEMORY`: a power of two, so that it is
    the same everywhere, but at most `CHUNK`. With gradients, what was computed on the way counts, too."""
    if chunk is not None:
        return count(chunk, "chunk", 1)
    if vae.prior.has("joint"):
        return CHUNK
    try:
        some, more = (_peak(vae, draws, gradients) for draws in (PROBE, 2 * PROBE))
    except Exception:
        # Networks that do not take a single row; what else is wrong is said where they are called.
        return CHUNK
    memory = MEMORY if vae.like.is_cpu else ELSEWHERE
    return max(1, min(CHUNK, 2 ** int(math.log2(memory * PROBE / max(1, more - some)))))


def _peak(vae: VAE, draws: int, gradients: bool) -> int:
    """Bytes that the densities of some draws for a row take, the model's own."""
    condition = torch.zeros(1, vae.condition_dim).to(vae.like) if vae.condition_dim and vae.label is None else None
    with isolated(0, validation=False), evaluating(vae), trusted():
        x = poutine.trace(vae.model).get_trace(None, condition, size=1).nodes["x"]["value"]
        with torch.set_grad_enabled(gradients), PeakMemory() as memory:
            # What nothing refers to is freed, but for what a gradient needs.
            draw(vae.model, vae.guide, (x, condition), {}, draws, nesting=1, gradient="score")
    return memory.peak


def importance_terms(
    vae: VAE,
    x: Tensor,
    condition: Tensor | None,
    num_samples: int,
    *,
    seed: int,
    chunk: int,
    share: Share = ALL,
    progress: bool = True,
) -> Iterator[tuple[slice, Terms]]:
    """Terms ``(num_samples, B)`` of ``num_samples`` draws for each row of a share, a few rows at a time.

    ``x`` and ``condition`` come from `checked`. Memory grows with ``chunk``, not with rows or draws. What takes long is
    compiled, where it can be. Raises FloatingPointError, naming the row, for a weight that is nan or +inf.
    """
    step, draws = rows_at_once(vae, len(x), num_samples, chunk), _equal_parts(num_samples, chunk)
    groups = share.groups(x, condition, step * max(1, TOGETHER * chunk // (step * num_samples)))
    total = sum(len(group) for _, group, _ in groups)
    compute = _compute(vae, min(step, total), draws, total * num_samples)
    with (
        isolated(seed, validation=False),
        evaluating(vae),
        trusted(),
        tqdm(total=total, disable=not share.shown(progress), unit="row", desc="importance sampling", delay=2) as bar,
    ):
        for rows, group, c in groups:
            reseed_for(rows, seed)
            computed = []
            for part, *given in ordered(group, c, step):
                computed.append([compute(*given, min(draws, num_samples - i)) for i in range(0, num_samples, draws)])
                bar.update(part.stop - part.start)
            result = _joined([_joined(parts) for parts in computed], 1)
            wrong = ~(result.log_weights.amax(0) < torch.inf)
            if wrong.any():
                row = rows.start + int(wrong.nonzero()[0])
                raise FloatingPointError(
                    f"expected finite log-weights, got nan or inf at row {row}: the model's densities overflow there"
                )
            yield rows, result


def _equal_parts(num_samples: int, chunk: int) -> int:
    """At most ``chunk`` draws, of which a number of times makes ``num_samples``, so that one compiled graph does; or
    what leaves a rest, where that takes more than twice as many parts."""
    least = math.ceil(num_samples / chunk)
    return math.ceil(num_samples / next((n for n in range(least, 2 * least) if num_samples % n == 0), least))


def _joined(parts: Sequence[Terms], dim: int = 0) -> Terms:
    """Those of draws after one another or, with ``dim`` 1, of rows."""
    return Terms(*(torch.cat(values, dim) for values in zip(*parts, strict=True)))


def _compute(vae: VAE, rows: int, draws: int, total: int) -> Callable[[Tensor, Tensor | None, int], Terms]:
    """Terms of a number of draws for each of some rows; compiled for the shape that most calls have."""

    def terms(x: Tensor, condition: Tensor | None, num_samples: int) -> Terms:
        return elbos.terms(vae.model, vae.guide, x, condition, num_samples)

    if total * sum(p.numel() for p in vae.parameters()) < WORTH:
        return terms
    traced, refused = Traced(lambda *args: tuple(terms(*args))), []

    def compiled(x: Tensor, condition: Tensor | None, num_samples: int) -> Terms:
        if (len(x), num_samples) == (rows, draws) and not refused:
            try:
                return Terms(*traced(x, condition, num_samples))
            except NotTraceable as reason:
                refused.append(reason)
        return terms(x, condition, num_samples)

    return compiled
