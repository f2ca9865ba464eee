"""The score of FactorVAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.checks import count
from pyrovae.evaluation.disentanglement.columns import BINS, binned, checked, table

if TYPE_CHECKING:
    import pandas as pd


def factor_vae_score(
    codes: Any,  # noqa: ANN401 - whatever a user has
    factors: Any,  # noqa: ANN401
    *,
    categorical: Sequence[Any] = (),
    bins: int = BINS,
    num_rows: int = 64,
    num_votes: int = 500,
    seed: int = 0,
) -> float:
    r"""How often the unit that moves least tells which of the factors is held fixed.

    A vote: of ``num_rows`` rows that share the value of one factor k, the unit

    .. math:: j^* = \arg\min_j \operatorname{Var}_\text{these rows}(z_j) / \operatorname{Var}(z_j).

    A unit stands for the factor for which it has most of ``num_votes`` votes for each factor; the score is the share
    of as many new votes that are right so: 1 at best, 1/F by chance. Units that do not vary have no vote. Kim & Mnih
    (2018), https://arxiv.org/abs/1802.05983.

    Args:
        codes: posterior means ``(N, D)``.
        factors: ``(N, F)``, array or DataFrame, each of which varies while another is fixed.
        categorical, bins: as in `mig`; the rows of a bin count as sharing a value.
        num_rows: rows of a vote, drawn with replacement.
        num_votes: for each factor.
        seed: of the votes.

    Raises:
        ValueError: for tables that do not fit together, hold what is no number, or a factor of which no two rows share
            a value.

    >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> factor_vae_score(factors, factors)
    1.0
    """
    return accuracy(*votes(codes, factors, categorical, bins, num_rows, num_votes, seed))


def votes(
    codes: Any,  # noqa: ANN401
    factors: Any,  # noqa: ANN401
    categorical: Sequence[Any] = (),
    bins: int = BINS,
    num_rows: int = 64,
    num_votes: int = 500,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Votes for each unit and factor, two tables ``(D, F)``: those that decide, and those that are to be told."""
    for name, value, least in (("bins", bins, 2), ("num_rows", num_rows, 2), ("num_votes", num_votes, 1)):
        count(value, name, least)
    count(seed, "seed", 0)
    codes, factors = checked(codes, factors, categorical)
    rng = np.random.default_rng(seed)
    levels = {name: binned(factor, bins) for name, factor in factors.items()}
    for name, level in levels.items():
        if np.bincount(level).max() < 2:
            raise ValueError(f"factors: expected rows that share a value of {name!r}, got none. Take fewer bins.")
    found = [[_votes(codes.to_numpy(), level, num_rows, num_votes, rng) for level in levels.values()] for _ in range(2)]
    known, asked = (table(np.array(counts).T, codes, factors) for counts in found)
    return known, asked


def accuracy(known: pd.DataFrame, asked: pd.DataFrame) -> float:
    """The share of the votes ``asked`` whose factor is that of most ``known`` votes for their unit."""
    right = np.take_along_axis(asked.to_numpy(), known.to_numpy().argmax(1)[:, None], 1)
    return float(right.sum() / asked.to_numpy().sum())


def _votes(z: np.ndarray, level: np.ndarray, num_rows: int, num_votes: int, rng: np.random.Generator) -> np.ndarray:
    """How often each unit moves least where this factor is fixed, ``(D,)``."""
    spread = np.where(np.ptp(z, axis=0) > 0, z.var(0), 0.0)
    shared = np.flatnonzero(np.bincount(level)[level] > 1)
    least = []
    for value, number in zip(*np.unique(level[rng.choice(shared, num_votes)], return_counts=True), strict=True):
        rows = rng.choice(np.flatnonzero(level == value), (number, num_rows))
        relative = np.divide(z[rows].var(1), spread, out=np.full((number, z.shape[1]), np.inf), where=spread > 0)
        least.append(relative.argmin(1))
    return np.bincount(np.concatenate(least), minlength=z.shape[1])
