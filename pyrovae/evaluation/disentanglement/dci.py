"""Disentanglement, completeness and informativeness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrovae.checks import count
from pyrovae.evaluation.disentanglement.columns import checked, is_categorical, table

if TYPE_CHECKING:
    import pandas as pd

LEAST = 20
"""Rows, of which a quarter is held out."""


class DCI(NamedTuple):
    """What `dci` found; each is 1 at best."""

    disentanglement: float
    completeness: float
    informativeness: float


def dci(
    codes: Any,  # noqa: ANN401 - whatever a user has
    factors: Any,  # noqa: ANN401
    *,
    categorical: Sequence[Any] = (),
    seed: int = 0,
) -> DCI:
    r"""Disentanglement, completeness and informativeness, of the `importances` :math:`R_{jk}` of unit j for factor k.

    - ``disentanglement``: whether a unit matters for one factor only,
      :math:`\sum_j \rho_j (1 - H_F(R_{j \cdot}))` with :math:`\rho_j \propto \sum_k R_{jk}`;
    - ``completeness``: whether one unit only matters for a factor, :math:`\frac1F \sum_k (1 - H_D(R_{\cdot k}))`;
    - ``informativeness``: how well all units together predict a factor in held-out rows, mean over factors.

    :math:`H_n` is the entropy of the shares of a row or column, to the base n. Eastwood & Williams (2018),
    https://openreview.net/forum?id=By-7dz-AZ, who give the error in the place of the last.

    Args:
        codes: posterior means ``(N, D)``, 20 rows or more.
        factors: ``(N, F)``, array or DataFrame.
        categorical: the names of factors whose values are classes, as in `mig`; each class in 4 rows or more.
        seed: of the forests, and of the rows that are held out.

    Raises:
        ValueError: for tables that do not fit together, hold what is no number, or have too few rows.

    >>> factors = np.random.default_rng(0).integers(3, size=(100, 2))
    >>> [round(score, 2) for score in dci(factors, factors)]
    [1.0, 1.0, 1.0]
    """
    found, predicted = importances(codes, factors, categorical=categorical, seed=seed)
    return DCI(unit_disentanglement(found), float(factor_completeness(found).mean()), float(predicted.mean()))


def importances(
    codes: Any,  # noqa: ANN401
    factors: Any,  # noqa: ANN401
    *,
    categorical: Sequence[Any] = (),
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.Series]:
    """How much each unit lowers the impurity of a random forest for each factor, ``(D, F)``, columns of sum 1 (0 where
    no unit varies); and how well the forest predicts a held-out quarter of the rows, ``(F,)``.

    That is R^2 of a number, and of classes the balanced accuracy, scaled so that a guess has 0; nothing is below 0.
    Arguments and errors as in `dci`.

    >>> factors = np.random.default_rng(0).integers(3, size=(100, 2))
    >>> importances(factors * 2, factors)[0].round(2).to_numpy().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    import pandas as pd

    count(seed, "seed", 0)
    codes, factors = checked(codes, factors, categorical)
    if len(codes) < LEAST:
        raise ValueError(f"codes: expected {LEAST} rows or more, got {len(codes)}")
    fits = {name: _forest(codes.to_numpy(), factor, seed) for name, factor in factors.items()}
    found = table(np.array([shares for shares, _ in fits.values()]).T, codes, factors)
    return found, pd.Series([score for _, score in fits.values()], index=factors.columns)


def factor_completeness(importance: pd.DataFrame) -> pd.Series:
    """Of each factor, ``(F,)``."""
    import pandas as pd

    return pd.Series(_concentration(importance.to_numpy().T), index=importance.columns)


def unit_disentanglement(importance: pd.DataFrame) -> float:
    """Mean over units, by weight."""
    weights = importance.to_numpy().sum(1)
    return float(weights @ _concentration(importance.to_numpy()) / max(weights.sum(), 1.0))


def _concentration(rows: np.ndarray) -> np.ndarray:
    """1 - entropy of the shares of each row, to the base of their number; 0 for a row of zeros."""
    total = rows.sum(1, keepdims=True)
    shares = np.where(total > 0, rows / np.where(total > 0, total, 1.0), 1 / rows.shape[1])
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return 1 + (shares * logs).sum(1) / np.log(rows.shape[1])


def _forest(z: np.ndarray, factor: pd.Series, seed: int) -> tuple[np.ndarray, float]:
    """The importance of each unit, ``(D,)``, and the score of held-out rows."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.metrics import balanced_accuracy_score, r2_score
    from sklearn.model_selection import train_test_split

    classes = is_categorical(factor)
    v = factor.cat.codes if classes else factor
    if classes and (counts := factor.value_counts()).min() < 4:
        raise ValueError(
            f"factors: expected 4 rows or more of each class of {factor.name!r}, got {counts.min()} of "
            f"{counts.idxmin()!r}. Leave them out, or join it with another class."
        )
    train, test, known, held_out = train_test_split(z, v, random_state=seed, stratify=v if classes else None)
    forest = (RandomForestClassifier if classes else RandomForestRegressor)(
        # Every unit is at hand at every split: otherwise some splits have none but those that tell nothing.
        n_estimators=50, max_features=None, min_samples_leaf=5, random_state=seed,
    )  # fmt: skip
    predicted = forest.fit(train, known).predict(test)
    score = balanced_accuracy_score(held_out, predicted, adjusted=True) if classes else r2_score(held_out, predicted)
    return forest.feature_importances_, max(score, 0.0)
