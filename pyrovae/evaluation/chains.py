"""Hamiltonian Monte Carlo of many chains and rows at once, in coordinates without bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Transform, constraints, identity_transform

from pyrovae.distributions import base, bijection
from pyrovae.evaluation.importance import check_marginal
from pyrovae.vae import VAE

TARGET = 0.65
"""Rate of acceptance that step sizes are brought to (Beskos et al. 2013, https://doi.org/10.3150/12-BEJ414)."""
FIRST = 0.3
"""The first step size, in standard deviations of the guide."""
Density = Callable[[Tensor], Tensor]


def check_chains(vae: VAE, name: str, remedy: str) -> None:
    """Raise a ValueError, in the name of a function, unless z is one vector for each row, independent of other rows',
    and the only latent site; whether it is continuous `coordinates` finds out."""
    check_marginal(vae, name)
    if vae.prior.has("deep"):
        raise ValueError(f"{name}: expected one layer of latents, got {', '.join(vae.sites)}. {remedy}")
    if vae.label is not None:
        raise ValueError(f"{name}: expected no label, which is a site of its own. {remedy}")
    if vae.mechanism is not None:
        raise ValueError(f"{name}: expected no mechanism, whose missing cells are a site of their own. {remedy}")


@dataclass(frozen=True)
class Coordinates:
    r"""The densities of z of B rows as densities of :math:`u`, a real vector, with :math:`z = t(u)`:

    .. math:: \log f(u) = \log f(z) + \log \left| \partial t / \partial u \right|

    Attributes:
        onto: t, from real vectors to where z lives.
        prior, guide, joint: u ``(K, B, D)`` to log p(z), log q(z | x) and log p(x, z), ``(K, B)``, each with the
            Jacobian, in nats.
        from_prior, from_guide: K to draws of u, ``(K, B, D)``.
        scale: standard deviations of u under the guide, ``(B, D)``, from 64 draws.
    """

    onto: Transform
    prior: Density
    guide: Density
    joint: Density
    from_prior: Callable[[int], Tensor]
    from_guide: Callable[[int], Tensor]
    scale: Tensor


def coordinates(vae: VAE, x: Tensor, condition: Tensor | None, name: str) -> Coordinates:
    """The densities of rows x; a ValueError, in the name of a function, for a z that is discrete or on a sphere."""
    prior, guide = vae.prior(condition, condition), vae.encode(x, condition)
    support = base(prior.support)
    onto = bijection(support)
    if onto is None and support is not constraints.real:
        raise ValueError(f"{name}: expected a z that is continuous and without curvature, got one on {support}")
    if onto is None:
        onto = identity_transform

    def density(log_prob: Density) -> Density:
        def of(u: Tensor) -> Tensor:
            z = onto(u)
            slope = onto.log_abs_det_jacobian(u, z)
            # Of an elementwise transform one for each element, of stick-breaking one for each vector.
            return log_prob(z) + (slope.sum(-1) if slope.ndim == u.ndim else slope)

        return of

    draws = onto.inv(guide.sample((64,)))
    rows = prior.expand((len(x),))
    return Coordinates(
        onto=onto,
        prior=density(rows.log_prob),
        guide=density(guide.log_prob),
        joint=density(lambda z: prior.log_prob(z) + vae.decode(z, condition).log_prob(x)),
        from_prior=lambda count: onto.inv(rows.sample((count,))),
        from_guide=lambda count: onto.inv(guide.sample((count,))),
        scale=draws.std(0),
    )


class State(NamedTuple):
    """Where chains are: u ``(..., D)``, log f there ``(...)`` and its gradient ``(..., D)``."""

    u: Tensor
    value: Tensor
    slope: Tensor


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


def move(density: Density, here: State, size: Tensor, leapfrog: int) -> Move:
    """One move of Hamiltonian Monte Carlo, which leaves a log-density as it is and is its own reverse (Neal 2011,
    https://arxiv.org/abs/1206.1901); with a single leapfrog step, of the Metropolis-adjusted Langevin algorithm.

    Args:
        density: the log-density, u ``(..., D)`` to ``(...)``.
        here: the states of chains under it.
        size: the step size in each coordinate, ``(..., D)``.
        leapfrog: steps of the integrator.
    """
    momentum = torch.randn_like(here.u)
    before = here.value - 0.5 * momentum.square().sum(-1)
    there, momentum = here, momentum + 0.5 * size * here.slope
    for step in range(leapfrog):
        there = state(density, there.u + size * momentum)
        momentum = momentum + (1.0 if step < leapfrog - 1 else 0.5) * size * there.slope
    error = there.value - 0.5 * momentum.square().sum(-1) - before
    probability = error.exp().clamp(max=1).nan_to_num(0.0)
    moved = torch.rand_like(probability) < probability
    parts = (
        torch.where(moved.reshape(moved.shape + (1,) * (new.ndim - moved.ndim)), new, old)
        for new, old in zip(there, here, strict=True)
    )
    return Move(State(*parts), probability, error)
