"""Bidirectional Monte Carlo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from pyrovae.checks import count, trusted
from pyrovae.evaluation.annealing import backward, check_annealing, forward, path, pilot, tempered
from pyrovae.evaluation.coordinates import check_chains, coordinates, joined
from pyrovae.evaluation.importance import draws_at_once
from pyrovae.evaluation.weights import log_mean_weight
from pyrovae.modes import evaluating, frozen, isolated
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE


@dataclass(frozen=True)
class Sandwich:
    """Rows drawn from a model, and log p(x) of each between two bounds, in nats. ``x, lower, upper = sandwich`` works.

    Attributes:
        x: rows ``(N, *event_shape)``.
        lower: below log p(x) on average, ``(N,)``.
        upper: above log p(x) on average, ``(N,)``.
        lower_standard_error: Monte Carlo standard errors of ``lower``, ``(N,)``.
        upper_standard_error: those of ``upper`` ``(N,)`` over chains that share their first point, so that they say
            nothing of how another point would have changed it; the spread of ``upper`` over rows does.
    """

    x: Tensor
    lower: Tensor
    upper: Tensor
    lower_standard_error: Tensor
    upper_standard_error: Tensor

    @property
    def gap(self) -> Tensor:
        """upper - lower of each row, ``(N,)``; of a single row it can be below 0 by chance."""
        return self.upper - self.lower

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.x, self.lower, self.upper))

    def __str__(self) -> str:
        parts = [("lower", self.lower), ("upper", self.upper), ("gap", self.gap)]
        lines = []
        for name, values in parts:
            error = values.double().std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
            lines.append(f"{name:<6}{values.mean():>10.3f}  +- {error:.3f} over rows")
        return "\n".join(["log p(x) of rows drawn from the model, nats", *lines])


def bdmc(
    vae: VAE,
    num_rows: int = 64,
    condition: Any = None,  # noqa: ANN401 - whatever a user has
    *,
    num_chains: int = 16,
    num_steps: int = 500,
    leapfrog: int = 10,
    start: str = "posterior",
    seed: int = 0,
    chunk: int | None = None,
    progress: bool = True,
) -> Sandwich:
    r"""How far annealed importance sampling is from log p(x): rows drawn from the model, and two bounds of each.

    Of a row that the model itself has drawn, :math:`z \sim p(z), \; x \sim p(x \mid z)`, z is an exact draw of the
    posterior. Chains run from :math:`f_0` to :math:`p(x, z)` (see `pyrovae.ais`) have weights with
    :math:`\mathrm{E}[w] = p(x)`; the same chains in reverse, from that z, have weights with
    :math:`\mathrm{E}[w] = 1 / p(x)`, so that

    .. math:: \mathrm{E} \log \frac1K \sum_k w_k^\text{forward} \le \log p(x)
        \le -\mathrm{E} \log \frac1K \sum_k w_k^\text{reverse}.

    The gap bounds the error of both. It is of rows of the model, not of data: what it says of `pyrovae.ais` with the
    same settings on data holds as far as the model's rows are like them. After Grosse, Ghahramani & Adams (2015),
    https://arxiv.org/abs/1511.02543, and for decoders Wu et al. (2017), https://arxiv.org/abs/1611.04273.

    Args:
        vae: the model, with a continuous z, of one layer or several.
        num_rows: N, the rows to draw.
        condition: ``(N, condition_dim)``, or one row for all, for a conditional VAE.
        num_chains: K, chains in each direction for each row.
        num_steps: T.
        leapfrog: steps of the integrator in a move, each with a gradient of log p(x, z).
        start: :math:`f_0`: "posterior", the guide q(z | x), or "prior", which knows nothing of the guide.
        seed: of the draws; the random state of the user is left alone.
        chunk: chains times rows that go through the decoder at once; memory grows with it.
            None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        ``(x, lower, upper)``, with standard errors and the gap: see `Sandwich`.

    Raises:
        ValueError: for numbers below 1, or a model whose z is discrete, on a sphere, or not of single rows.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> x, lower, upper = bdmc(vae, num_rows=3, num_steps=10)
    >>> lower.shape
    torch.Size([3])
    """
    check_annealing(num_chains, num_steps, leapfrog, start)
    count(num_rows, "num_rows", 1)
    check_chains(vae, "bdmc", "Use pyrovae.log_marginal.")
    condition = vae.check_condition(condition, num_rows)
    parts, at_once = [], max(1, draws_at_once(vae, chunk, gradients=True) // num_chains)
    states = tempered(vae, start, num_steps, leapfrog, num_rows, at_once)
    with (
        isolated(seed, validation=False),
        evaluating(vae),
        frozen(vae),
        tqdm(total=3 * num_steps * num_rows, disable=not progress, unit="step", desc="annealing", delay=2) as bar,
    ):
        sites = poutine.trace(vae.model).get_trace(None, condition, size=num_rows).nodes
        z, x = joined(sites, vae.sites), vae.check(sites["x"]["value"])
        with trusted():
            for chosen, rows, c in ordered(x, condition, at_once):
                space = coordinates(vae, rows, c, "bdmc")
                steps = path(space, states, start, num_steps, leapfrog)
                sizes = pilot(steps, bar)
                lower = log_mean_weight(forward(steps, sizes, num_chains, bar))
                exact = space.onto.inv(z[chosen]).expand(num_chains, -1, -1)
                upper = log_mean_weight(backward(steps, exact, sizes, bar))
                parts.append((lower.value, -upper.value, lower.standard_error, upper.standard_error))
    return Sandwich(x, *(torch.cat(part) for part in zip(*parts, strict=True)))
