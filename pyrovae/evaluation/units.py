"""Latent units: where their posteriors lie, and which of them carry information."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.checks import trusted
from pyrovae.distributions import moments
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE

ACTIVE = 0.01
"""A unit is active where the variance over rows of its posterior mean is above this (Burda et al. 2015)."""


def posterior_moments(vae: VAE, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z | x) for checked rows, each ``(N, D)``, on the CPU."""
    with isolated(0), evaluating(vae), trusted():
        # A thousand rows at a time, so that a large network has room.
        parts = [moments(vae.encode(part, c)) for _, part, c in ordered(x, condition, 1000)]
        mean, deviation = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        return mean, deviation
