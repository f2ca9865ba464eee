"""Codes and factors, checked, and what all scores do with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

BINS = 20
"""Bins of a column with more distinct values than that (Locatello et al. 2019)."""


def checked(
    codes: Any,  # noqa: ANN401 - whatever a user has
    factors: Any,  # noqa: ANN401
    categorical: Sequence[Any] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Codes ``(N, D)`` as float64 columns, and factors ``(N, F)`` as columns of float64, or of categories.

    A factor is categorical if its column is one of ``categorical``, or of pandas' dtype category or bool.

    Raises:
        ValueError: for fewer than two rows, units or factors, another number of rows, NaN or infinity, text that is not
            called categorical, a factor that does not vary, and a ``categorical`` that is no column.
    """
    import pandas as pd

    codes, factors = _frame(codes, "codes"), _frame(factors, "factors")
    if len(codes) != len(factors):
        raise ValueError(f"factors: expected one row for each of the {len(codes)} rows of codes, got {len(factors)}")
    if len(codes) < 2:
        raise ValueError(f"codes: expected two rows or more, got {len(codes)}")
    if unknown := [name for name in categorical if name not in factors.columns]:
        raise ValueError(f"categorical: expected some of {factors.columns.tolist()}, got {unknown[0]!r}")
    codes = pd.DataFrame({name: _numbers(column, "codes") for name, column in codes.items()})
    factors = pd.DataFrame({
        name: _classes(column) if name in categorical or is_categorical(column) else _numbers(column, "factors")
        for name, column in factors.items()
    })  # fmt: skip
    for name, column in factors.items():
        if column.nunique() < 2:
            raise ValueError(f"factors: expected two values or more in each column, got one in {name!r}. Leave it out.")
    return codes.rename_axis("unit", axis="columns"), factors.rename_axis("factor", axis="columns")


def is_categorical(column: pd.Series) -> bool:
    """Whether the values have no order."""
    import pandas as pd

    return isinstance(column.dtype, pd.CategoricalDtype) or column.dtype == bool


def binned(column: pd.Series, bins: int) -> np.ndarray:
    """The number of each row's class, value or, where there are more of them than ``bins``, bin of equal width."""
    values = column.cat.codes if is_categorical(column) else column
    if not is_categorical(column) and column.nunique() > bins:
        values = np.digitize(column, np.histogram_bin_edges(column, bins)[1:-1])
    return np.unique(values, return_inverse=True)[1]


def table(values: np.ndarray, codes: pd.DataFrame, factors: pd.DataFrame) -> pd.DataFrame:
    """A matrix ``(D, F)`` with names."""
    import pandas as pd

    return pd.DataFrame(values, index=codes.columns, columns=factors.columns)


def gap(matrix: pd.DataFrame) -> pd.Series:
    """Of each factor, how far the best unit is ahead of the second best."""
    import pandas as pd

    second, best = np.sort(matrix.to_numpy(), axis=0)[-2:]
    return pd.Series(best - second, index=matrix.columns)


def _frame(values: Any, name: str) -> pd.DataFrame:  # noqa: ANN401
    """A table of two columns or more, nothing in it missing."""
    import pandas as pd

    if not isinstance(values, pd.DataFrame):
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if array.ndim != 2:
            raise ValueError(f"{name}: expected a table (N, columns), got shape {array.shape}")
        values = pd.DataFrame(array)
    if values.shape[1] < 2:
        raise ValueError(
            f"{name}: expected two columns or more, got {values.shape[1]}. Of a single one nothing is to be told apart."
        )
    if not values.columns.is_unique:
        raise ValueError(f"{name}: expected a name of its own for each column, got {values.columns.tolist()}")
    if (missing := values.isna()).any(axis=None):
        row, column = np.argwhere(missing.to_numpy())[0]
        raise ValueError(
            f"{name}: expected a value in each row, got none (NaN) at row {row}, column {values.columns[column]!r}. "
            "Leave such rows out."
        )
    return values.reset_index(drop=True)


def _classes(column: pd.Series) -> pd.Series:
    return column.astype("category").cat.remove_unused_categories()


def _numbers(column: pd.Series, name: str) -> pd.Series:
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
        advice = " For classes, name the column in categorical=." if name == "factors" else ""
        raise ValueError(f"{name}: expected numbers in column {column.name!r}, got dtype {column.dtype}.{advice}")
    column = column.astype("float64")
    if not np.isfinite(column).all():
        raise ValueError(f"{name}: expected finite numbers in column {column.name!r}, got infinity")
    return column
