"""Latent units: where their posteriors lie, and which of them carry information."""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.checks import trusted
from pyrovae.distributions import moments
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE

ACTIVE = 0.01
"""A unit is active where the variance over rows of its posterior mean is above this (Burda et al. 2015)."""
DRAWS = 100
"""Draws of the layers that the mean of another one is averaged over."""


def posterior_moments(vae: VAE, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z | x) for checked rows, each ``(N, D)``, on the CPU."""
    with isolated(0), evaluating(vae), trusted():
        # A thousand rows at a time, so that a large network has room.
        parts = [moments(vae.encode(part, c)) for _, part, c in ordered(x, condition, 1000)]
        mean, deviation = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        return mean, deviation


def unit_variances(vae: VAE, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
    r"""Of each latent site and unit, :math:`\operatorname{Var}_x(\mathrm{E}_q[z_d])` over checked rows.

    Of several layers, where one is drawn given another, the mean of its own mean is taken over draws of the other, and
    what that leaves of their noise is taken off the variance.
    """
    if not vae.prior.has("deep"):
        (site,) = vae.sites
        return {site: posterior_moments(vae, x, condition)[0].var(0, correction=0)}
    means: dict[str, list[Tensor]] = {}
    noise: dict[str, list[Tensor]] = {}
    with isolated(0), evaluating(vae), trusted():
        for _, part, c in ordered(x, condition, 100):
            with pyro.plate("particles", DRAWS, dim=-2):
                trace = poutine.trace(vae.guide).get_trace(part, c)
            for site in vae.sites:
                mean = moments(trace.nodes[site]["fn"])[0].expand(DRAWS, len(part), -1)
                means.setdefault(site, []).append(mean.mean(0).cpu())
                noise.setdefault(site, []).append(mean.var(0).cpu() / DRAWS)
    return {
        site: (torch.cat(means[site]).var(0, correction=0) - torch.cat(noise[site]).mean(0)).clamp_min(0.0)
        for site in vae.sites
    }
