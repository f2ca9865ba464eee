"""Separated attribute predictability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.evaluation.disentanglement.columns import checked, gap, is_categorical, table

if TYPE_CHECKING:
    import pandas as pd


def sap(
    codes: Any,  # noqa: ANN401 - whatever a user has
    factors: Any,  # noqa: ANN401
    *,
    categorical: Sequence[Any] = (),
) -> float:
    r"""Separated attribute predictability: how much better the best unit predicts a factor than the second best.

    .. math:: \frac1F \sum_k S_{(1)k} - S_{(2)k}

    with the `predictability` S: the mean over factors, from 0 to 1; of C classes it is at most 1 - 1/C, as any guess is
    right so often. Kumar, Sattigeri & Balakrishnan (2018), https://arxiv.org/abs/1711.00848. Arguments and errors as in
    `mig`.

    >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> sap(factors, factors), sap(factors, factors, categorical=[1])
    (1.0, 0.75)
    """
    return float(gap(predictability(codes, factors, categorical=categorical)).mean())


def predictability(
    codes: Any,  # noqa: ANN401
    factors: Any,  # noqa: ANN401
    *,
    categorical: Sequence[Any] = (),
) -> pd.DataFrame:
    r"""Of each unit and factor, how well the unit alone predicts the factor, ``(D, F)``.

    Of a number, the R^2 of a linear regression, :math:`\operatorname{Cov}(z_j, v_k)^2 / \operatorname{Var}(z_j)
    \operatorname{Var}(v_k)`; of one of C classes, the balanced accuracy of at most C - 1 thresholds, those of a tree
    of C leaves. Arguments and errors as in `mig`.

    >>> predictability([[1, 5], [2, 4], [3, 5], [4, 4]], [[0, 0], [0, 1], [1, 0], [1, 1]]).round(2).to_numpy().tolist()
    [[0.8, 0.2], [0.0, 1.0]]
    """
    codes, factors = checked(codes, factors, categorical)
    z = codes.to_numpy()
    scores = [
        [_accuracy(unit, v.cat.codes) for unit in z.T] if is_categorical(v) else _r_squared(z, v.to_numpy())
        for _, v in factors.items()
    ]
    return table(np.array(scores).T, codes, factors)


def _r_squared(z: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Of each unit, ``(D,)``; 0 of one that does not vary."""
    z, v = z - z.mean(0), v - v.mean()
    spread = np.where(np.ptp(z, axis=0) > 0, (z**2).sum(0), np.inf)
    return (v @ z) ** 2 / (spread * (v @ v))


def _accuracy(unit: np.ndarray, classes: pd.Series) -> float:
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=classes.nunique(), class_weight="balanced", random_state=0)
    return balanced_accuracy_score(classes, tree.fit(unit[:, None], classes).predict(unit[:, None]))
