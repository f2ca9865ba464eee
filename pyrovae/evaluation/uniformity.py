"""Whether ranks are uniform: a test with an exact p-value, and the band that their distribution function stays in."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

CLEAR = 1e-9
"""Below this the sum over points of p-values, which is an upper bound, stands for the p-value."""


def cumulative(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """How many of N ranks are at most 0, 1, ..., L - 1, of ``(N, D)``: ``(L, D)``; at most L are all of them."""
    counts = [np.bincount(column, minlength=num_draws + 1)[:num_draws] for column in ranks.T]
    return np.cumsum(np.stack(counts, 1), 0)


def two_sided(counts: np.ndarray, total: int, share: np.ndarray) -> np.ndarray:
    """The p-values of binomial counts of ``total``, each the smaller of its two tails, doubled."""
    from scipy.stats import binom

    tails = np.minimum(binom.cdf(counts, total, share), binom.sf(counts - 1, total, share))
    return np.minimum(1.0, 2 * tails)


def p_values(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    r"""Of each column of ranks ``(N, D)`` from 0 to L, the p-value ``(D,)`` of its being uniform.

    The number of ranks of at most r is binomial. The statistic is the least of its two-sided p-values over r, as the
    bands of Säilynoja, Bürkner & Vehtari (2022), https://arxiv.org/abs/2103.10522, have it, and its own p-value is the
    probability that uniform ranks leave the band that it draws.
    """
    total = len(ranks)
    points = two_sided(cumulative(ranks, num_draws), total, _shares(num_draws)[:, None])
    return np.array([_p_value(total, num_draws, float(least)) for least in points.min(0)])


@lru_cache(maxsize=64)
def band(total: int, num_draws: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest numbers of ``total`` uniform ranks of at most 0, ..., L - 1, ``(L,)`` each, that all
    are kept by with a probability of ``1 - alpha`` (ranks are whole, so a little more).

    Narrowest where the binomial p-value is the same at each r.
    """
    # All of them at once leave the band more often than one of them and less often than their sum.
    low, high = alpha / num_draws, alpha
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _p_value(total, num_draws, middle) > alpha else (middle, high)
    return _limits(total, num_draws, low)


def _shares(num_draws: int) -> np.ndarray:
    """Probabilities of a uniform rank of at most 0, ..., L - 1."""
    return np.arange(1, num_draws + 1) / (num_draws + 1)


@lru_cache(maxsize=4096)
def _p_value(total: int, num_draws: int, least: float) -> float:
    """The probability of a binomial p-value of at most ``least`` at some r."""
    if least >= 1:
        return 1.0
    if least * num_draws < CLEAR:
        return least * num_draws
    return min(1.0, max(0.0, 1 - _stays(total, *_limits(total, num_draws, least))))


def _limits(total: int, num_draws: int, least: float) -> tuple[np.ndarray, np.ndarray]:
    """The counts whose binomial p-values are above ``least``, from the lower to the upper one."""
    from scipy.stats import binom

    # A count whose p-value is ``least`` itself is outside, whichever way its last digit was rounded.
    lower = binom.ppf(min(1.0, least / 2 * (1 + 1e-6)), total, _shares(num_draws)).clip(0).astype(int)
    return lower, total - lower[::-1]


def _stays(total: int, lower: np.ndarray, upper: np.ndarray) -> float:
    r"""The probability that the counts of uniform ranks stay between limits at each r.

    Numbers of equal ranks are independent Poisson numbers given their sum, so that the counts are a Poisson process
    given where it ends (Moscovich & Nadler 2017, https://arxiv.org/abs/1503.04363), followed here step by step.
    """
    from scipy.stats import poisson

    if (lower > upper).any():
        return 0.0
    rate = total / (len(lower) + 1)
    # More than this has a probability below 1e-16 at any rate.
    steps = poisson.pmf(np.arange(int(rate + 12 * math.sqrt(rate) + 30)), rate)
    here, first = np.ones(1), 0
    for low, high in zip(lower, upper, strict=True):
        here, first = np.convolve(here, steps)[low - first : high - first + 1], low
    last = poisson.pmf(total - first - np.arange(len(here)), rate)
    return float(here @ last / poisson.pmf(total, total))
