"""Learning-rate schedules, as factors of the first rate, and the rise of the KL weight."""

from __future__ import annotations

import math
from collections.abc import Callable

from pyrovae.registry import Family
from pyrovae.registry import make as _make

Schedule = Callable[[int, int], float]
"""From the epoch (0, 1, ...) and the number of epochs to a factor of the learning rate."""


def constant() -> Schedule:
    """1 throughout."""
    return lambda epoch, epochs: 1.0


def linear() -> Schedule:
    """From 1 down to 1 / epochs in equal steps."""
    return lambda epoch, epochs: 1 - epoch / epochs


def cosine() -> Schedule:
    """Half a cosine wave from 1 towards 0 (Loshchilov & Hutter 2016, https://arxiv.org/abs/1608.03983)."""
    return lambda epoch, epochs: 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def exponential(rate: float = 0.98) -> Schedule:
    """``rate`` to the power of the epoch."""
    return lambda epoch, epochs: rate**epoch


SCHEDULES: Family = {"constant": constant, "linear": linear, "cosine": cosine, "exponential": exponential}


def make(value: str | Schedule) -> Schedule:
    """A schedule from its name, or a function of (epoch, epochs) as it is."""
    return _make(value, SCHEDULES, "schedule")


def kl_weight(beta: float, warmup: float, epoch: float, *, epochs: float = math.inf, cycles: int = 1) -> float:
    """beta, after a linear rise from 0 over the first ``warmup`` epochs (Bowman et al. 2015) of each of ``cycles``
    equal parts of the run (Fu et al. 2019).

    https://arxiv.org/abs/1511.06349, https://arxiv.org/abs/1903.10145

    >>> kl_weight(2.0, warmup=10, epoch=2.5)
    0.5
    >>> kl_weight(2.0, warmup=10, epoch=52.5, epochs=100, cycles=2)
    0.5
    """
    # Of epoch times cycles, which is exact at whole epochs, as epochs / cycles may not be.
    since = epoch * cycles % epochs / cycles
    return beta * min(1.0, since / warmup) if warmup else beta
