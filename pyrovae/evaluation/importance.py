"""Importance sampling from the guide, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from pyrovae import elbos, hierarchy
from pyrovae.checks import count, trusted
from pyrovae.elbos import Terms
from pyrovae.elbos.draws import draw
from pyrovae.evaluation.memory import PeakMemory
from pyrovae.evaluation.shares import ALL, Group, Share, reseed_for, seed_of
from pyrovae.evaluation.threads import by_threads
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.training.traced import Apart, NotTraceable, Traced
from pyrovae.vae import VAE

CHUNK = 5000
"""The most draws times rows that go through the decoder at once, those of an L_5000."""
MEMORY = 40 * 2**20
"""Bytes that the tensors of so many draws may take on a CPU, in each thread that shares the work. Its caches hold about
as many: 250 draws at once of a network of convolutions (54 MB) take a sixth longer than 125, but 1,250 of
784-200-200-50 longer than 2,500 (24 MB), as each call has its price."""
ELSEWHERE = 2**28
"""Bytes on other devices, which are slow at little at a time."""
TOGETHER = 16
"""Times ``chunk``: draws whose weights are looked at together. To look at those of a single row takes as long."""
ENOUGH = 4
"""Groups of rows for each core from which threads share them: fewer would leave some without work in the end."""
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
    with (
        isolated(seed, validation=False),
        evaluating(vae),
        trusted(),
        tqdm(total=total, disable=not share.shown(progress), unit="row", desc="importance sampling", delay=2) as bar,
    ):
        task = _Task(vae, groups, min(step, total), draws, num_samples, total, seed, bar)
        # Not when an error and its frames are forgotten: threads would stay until then.
        with closing(task.results()) as results:
            for (rows, _, _), result in zip(groups, results, strict=True):
                wrong = ~(result.log_weights.amax(0) < torch.inf)
                if wrong.any():
                    row = rows.start + int(wrong.nonzero()[0])
                    raise FloatingPointError(
                        f"expected finite log-weights, got nan or inf at row {row}: the model's densities overflow "
                        "there"
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


@dataclass
class _Task:
    """Terms of ``num_samples`` draws for each row of some groups, ``draws`` of them for ``rows`` rows at a time; by a
    compiled graph, for that shape, where all rows take long."""

    vae: VAE
    groups: list[Group]
    rows: int
    draws: int
    num_samples: int
    total: int
    seed: int
    bar: tqdm

    def __post_init__(self) -> None:
        cores, self.traced = torch.get_num_threads(), None
        if self.total * self.num_samples * sum(p.numel() for p in self.vae.parameters()) >= WORTH:
            apart = 1 < cores <= len(self.groups) / ENOUGH and self.num_samples % self.draws == 0
            self.traced = Traced(lambda *part: tuple(self._eager(*part)), apart=apart)

    def results(self) -> Iterator[Terms]:
        """Those of each group, in order: by a thread on each core, where a graph can be run by several."""
        shared = []
        if graph := self._graph_for_threads():
            # Of the last group there may be fewer rows.
            shared = [group for group in self.groups if len(group[1]) % self.rows == 0]
            yield from by_threads(partial(self._in_a_thread, graph), shared)
        yield from map(self._of_group, self.groups[len(shared) :])

    def _graph_for_threads(self) -> Apart | None:
        if self.traced is None or not self.traced.apart:
            return None
        _, x, condition = self.groups[0]
        try:
            graph = self.traced.ready(x[: self.rows], None if condition is None else condition[: self.rows], self.draws)
        except NotTraceable:
            self.traced = None
            return None
        return graph if isinstance(graph, Apart) else None

    def _in_a_thread(self, graph: Apart, group: Group) -> Terms:
        generator = torch.Generator().manual_seed(seed_of(group[0], self.seed))

        def compute(x: Tensor, condition: Tensor | None, _: int) -> Terms:
            return Terms(*graph([x] if condition is None else [x, condition], generator))

        return self._parts(compute, group)

    def _of_group(self, group: Group) -> Terms:
        reseed_for(group[0], self.seed)
        return self._parts(self._compute, group)

    def _parts(self, compute: Callable[[Tensor, Tensor | None, int], Terms], group: Group) -> Terms:
        found = []
        for part, *given in ordered(*group[1:], self.rows):
            sizes = [min(self.draws, self.num_samples - i) for i in range(0, self.num_samples, self.draws)]
            found.append(_joined([compute(*given, size) for size in sizes]))
            with self.bar.get_lock():
                self.bar.update(part.stop - part.start)
        return _joined(found, 1)

    def _compute(self, x: Tensor, condition: Tensor | None, num_samples: int) -> Terms:
        if self.traced is not None and (len(x), num_samples) == (self.rows, self.draws):
            try:
                return Terms(*self.traced(x, condition, num_samples))
            except NotTraceable:
                self.traced = None
        return self._eager(x, condition, num_samples)

    def _eager(self, x: Tensor, condition: Tensor | None, num_samples: int) -> Terms:
        return elbos.terms(self.vae.model, self.vae.guide, x, condition, num_samples)
