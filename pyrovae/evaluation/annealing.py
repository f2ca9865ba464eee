"""Chains between a density that can be sampled and log p(x, z)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae.checks import count
from pyrovae.evaluation.chains import FIRST, TARGET, State, move
from pyrovae.evaluation.coordinates import Coordinates
from pyrovae.evaluation.states import States
from pyrovae.registry import choose
from pyrovae.vae import VAE

STARTS = ("posterior", "prior")
CHANGE = 1.2
"""The factor by which a step size may change from move to move."""
PILOT = 8
"""Chains that find the step sizes."""


def check_annealing(num_chains: int, num_steps: int, leapfrog: int, start: str) -> None:
    """Raise a ValueError for numbers below 1 and an unknown start."""
    choose(start, STARTS, "start")
    for name, value in (("num_chains", num_chains), ("num_steps", num_steps), ("leapfrog", leapfrog)):
        count(value, name, 1)


@dataclass(frozen=True)
class Path:
    r"""Densities :math:`f_t(u) = f_0(u)^{1 - \beta_t} \, p(x, u)^{\beta_t}` of B rows, with betas that follow a
    sigmoid.

    Attributes:
        space: the coordinates u.
        states: those of chains under :math:`f_t`.
        start: :math:`f_0`: "posterior", the guide, or "prior".
        leapfrog: steps of the integrator in a move.
        betas: from 0 to 1, ``(T + 1,)``.
    """

    space: Coordinates
    states: States
    start: str
    leapfrog: int
    betas: Tensor

    def sample(self, chains: int) -> Tensor:
        """Draws ``(chains, B, D)`` of u from :math:`f_0`."""
        return self.space.from_guide(chains) if self.start == "posterior" else self.space.from_prior(chains)

    def difference(self, u: Tensor) -> Tensor:
        """log p(x, u) - log f_0(u)."""
        with torch.no_grad():
            return self.space.joint(u) - _first(self.space, self.start, u)

    def move(self, u: Tensor, t: int, size: Tensor) -> tuple[Tensor, Tensor]:
        """One move under :math:`f_t` with step sizes ``(B,)``, and the probability that it was accepted."""

        def field(u: Tensor) -> State:
            return self.states(self.space, u, self.betas[t])

        here, probability, _ = move(field, field(u), size[:, None] * self.space.scale, self.leapfrog)
        return here.u, probability


def tempered(vae: VAE, start: str, num_steps: int, leapfrog: int, rows: int, at_once: int) -> States:
    """The states of chains under densities between :math:`f_0` and log p(x, z), for the paths of all rows."""

    def density(space: Coordinates, u: Tensor, beta: Tensor) -> Tensor:
        return _first(space, start, u).lerp(space.joint(u), beta)

    return States(vae, density, rows, at_once, num_steps * (leapfrog + 1))


def _first(space: Coordinates, start: str, u: Tensor) -> Tensor:
    return space.guide(u) if start == "posterior" else space.prior(u)


def path(space: Coordinates, states: States, start: str, num_steps: int, leapfrog: int) -> Path:
    """A path of T steps."""
    ends = torch.linspace(-4, 4, num_steps + 1, dtype=space.scale.dtype, device=space.scale.device).sigmoid()
    return Path(space, states, start, leapfrog, (ends - ends[0]) / (ends[-1] - ends[0]))


def pilot(path: Path, bar: tqdm) -> Tensor:
    """Step sizes ``(T, B)`` for each step and row, found by a few chains that are then thrown away, so that they depend
    on none of the chains that count."""
    rows, steps = len(path.space.scale), len(path.betas) - 1
    sizes = path.space.scale.new_full((steps, rows), FIRST)
    u = path.sample(PILOT)
    for t in range(steps):
        u, accepted = path.move(u, t + 1, sizes[t])
        sizes[t + 1 :] = sizes[t] * torch.where(accepted.mean(0) > TARGET, CHANGE, 1 / CHANGE)
        bar.update(rows)
    return sizes


def forward(path: Path, sizes: Tensor, chains: int, bar: tqdm) -> Tensor:
    r"""Log-weights ``(chains, B)`` of chains from :math:`f_0` to log p(x, z), with :math:`\mathrm{E}[w] = p(x)`."""
    return _weights(path, path.sample(chains), sizes, bar, reverse=False)


def backward(path: Path, u: Tensor, sizes: Tensor, bar: tqdm) -> Tensor:
    r"""Log-weights ``(chains, B)`` of the same chains in reverse, from u ``(chains, B, D)`` of the exact posterior,
    with :math:`\mathrm{E}[w] = 1 / p(x)`."""
    return _weights(path, u, sizes, bar, reverse=True)


def _weights(path: Path, u: Tensor, sizes: Tensor, bar: tqdm, *, reverse: bool) -> Tensor:
    """The weight of a step comes before its move, and in reverse, after it."""
    total = torch.zeros(u.shape[:2], dtype=u.dtype, device=u.device)
    steps = range(1, len(path.betas))
    for t in reversed(steps) if reverse else steps:
        rise = path.betas[t] - path.betas[t - 1]
        if reverse:
            u, _ = path.move(u, t, sizes[t - 1])
            total = total - rise * path.difference(u)
        else:
            total = total + rise * path.difference(u)
            u, _ = path.move(u, t, sizes[t - 1])
        bar.update(u.shape[1])
    return total
