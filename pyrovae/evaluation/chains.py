"""Hamiltonian Monte Carlo of many chains and rows at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.evaluation.coordinates import Density

TARGET = 0.65
"""Rate of acceptance that step sizes are brought to (Beskos et al. 2013, https://doi.org/10.3150/12-BEJ414)."""
FIRST = 0.3
"""The first step size, in standard deviations of the guide."""


class State(NamedTuple):
    """Where chains are: u ``(..., D)``, log f there ``(...)`` and its gradient ``(..., D)``."""

    u: Tensor
    value: Tensor
    slope: Tensor


Field = Callable[[Tensor], State]
"""The states of chains at u under a log-density, such as `state` finds them."""


def state(density: Density, u: Tensor) -> State:
    """The state of chains at u under a log-density."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = density(u)
        return State(u.detach(), value.detach(), torch.autograd.grad(value.sum(), u)[0])


class Move(NamedTuple):
    """The states after a move, the probability with which each was accepted, and log f(there) - log f(here) of u and
    momentum together, which the integrator would keep at 0 were it exact; ``(...)`` each."""

    state: State
    probability: Tensor
    error: Tensor


def move(field: Field, here: State, size: Tensor, leapfrog: int) -> Move:
    """One move of Hamiltonian Monte Carlo, which leaves a log-density as it is and is its own reverse (Neal 2011,
    https://arxiv.org/abs/1206.1901); with a single leapfrog step, of the Metropolis-adjusted Langevin algorithm.

    Args:
        field: the states of chains at u ``(..., D)`` under the log-density.
        here: the states of chains under it.
        size: the step size in each coordinate, ``(..., D)``.
        leapfrog: steps of the integrator.
    """
    momentum = torch.randn_like(here.u)
    before = here.value - 0.5 * momentum.square().sum(-1)
    there, momentum = here, momentum + 0.5 * size * here.slope
    for step in range(leapfrog):
        there = field(there.u + size * momentum)
        momentum = momentum + (1.0 if step < leapfrog - 1 else 0.5) * size * there.slope
    error = there.value - 0.5 * momentum.square().sum(-1) - before
    probability = error.exp().clamp(max=1).nan_to_num(0.0)
    moved = torch.rand_like(probability) < probability
    parts = (
        torch.where(moved.reshape(moved.shape + (1,) * (new.ndim - moved.ndim)), new, old)
        for new, old in zip(there, here, strict=True)
    )
    return Move(State(*parts), probability, error)
