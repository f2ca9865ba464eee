"""Mutual information gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.checks import count
from pyrovae.evaluation.disentanglement.columns import BINS, binned, checked, gap, table

if TYPE_CHECKING:
    import pandas as pd


def mig(
    codes: Any,  # noqa: ANN401 - whatever a user has
    factors: Any,  # noqa: ANN401
    *,
    categorical: Sequence[Any] = (),
    bins: int = BINS,
) -> float:
    r"""Mutual information gap: how much more the best unit tells of a factor than the second best, mean over factors.

    .. math:: \frac1F \sum_k \frac{I(z_{(1)}; v_k) - I(z_{(2)}; v_k)}{H(v_k)}

    From 0 to 1. Chen, Li, Grosse & Duvenaud (2018), https://arxiv.org/abs/1802.04942, estimate I from draws of
    q(z | x); here it is that of binned codes (`mutual_information`), as in Locatello et al. (2019),
    https://arxiv.org/abs/1811.12359.

    Args:
        codes: posterior means ``(N, D)``.
        factors: ``(N, F)``, array or DataFrame.
        categorical: the names of factors (columns of an array: their numbers) whose values are classes. Those of
            pandas' dtype category or bool are anyway.
        bins: of equal width, for a column with more distinct values.

    Raises:
        ValueError: for tables that do not fit together, or hold what is no number.

    >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> mig(factors, factors), mig(factors @ [[1, 1], [1, -1]], factors)
    (1.0, 0.0)
    """
    return float(gap(mutual_information(codes, factors, categorical=categorical, bins=bins)).mean())


def mutual_information(
    codes: Any,  # noqa: ANN401
    factors: Any,  # noqa: ANN401
    *,
    categorical: Sequence[Any] = (),
    bins: int = BINS,
) -> pd.DataFrame:
    r"""Of each unit and factor, :math:`I(z_j; v_k) / H(v_k)`, ``(D, F)``: the share of a factor that one unit tells.

    That of the table of counts of the values, binned where there are many: too high by about
    :math:`(\text{bins} - 1)(\text{values} - 1) / 2N` nats, for all units alike. Arguments and errors as in `mig`.

    >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> mutual_information(-factors, factors).to_numpy().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    from sklearn.metrics import mutual_info_score

    count(bins, "bins", 2)
    codes, factors = checked(codes, factors, categorical)
    units = [binned(column, bins) for _, column in codes.items()]
    values = [binned(column, bins) for _, column in factors.items()]
    information = [[mutual_info_score(z, v) / mutual_info_score(v, v) for v in values] for z in units]
    return table(np.array(information), codes, factors)
