"""Tables on disk, read by pandas: ``.csv`` and ``.parquet``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.registry import choose

if TYPE_CHECKING:
    from pandas import DataFrame, Series


def read_table(path: Path, label: str | None) -> tuple[DataFrame, np.ndarray | None]:
    """The data of a table, every column but ``label``, and the labels from that one.

    Raises ValueError for a file that pandas cannot read, a .csv without column names, and an unknown ``label``.
    """
    import pandas as pd

    try:
        frame = _read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except _HeaderError as error:
        raise ValueError(f"{path}: {error}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as {path.suffix} ({str(error).partition(chr(10))[0]})") from error
    frame.columns = [str(column) for column in frame.columns]
    labels = None
    if label is not None:
        try:
            labels = frame.pop(choose(label, frame.columns, "label column")).to_numpy()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if frame.empty:
        raise ValueError(f"{path}: expected rows and columns of data, got {len(frame)} x {frame.shape[1]}")
    return frame, labels


def numbers(frame: DataFrame, path: Path) -> np.ndarray:
    """Rows of shape ``(N, D)`` as float64 from columns of numbers, or of true and false; a missing value is NaN.

    Raises ValueError for text among the numbers.
    """
    return np.column_stack([_numbers(frame[name], path) for name in frame])


class _HeaderError(ValueError):
    pass


def _read_csv(path: Path) -> DataFrame:
    """The table, unless its first line is not one of names: pandas would take a row or a row number for it."""
    import pandas as pd

    names = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0].str.strip()
    if (names == "").any():
        column = int((names == "").argmax())
        raise _HeaderError(
            f"expected a name for each column, got none for column {column}. "
            "Name it, or leave it out if it is a row number (to_csv(index=False))."
        )
    numbers = pd.to_numeric(names, errors="coerce").tolist()
    # Counted columns (0, 1, 2, ...) are names that tools do write.
    if all(n == n for n in numbers) and not any(numbers == [i + k for i in range(len(names))] for k in (0, 1)):
        raise _HeaderError(f"expected column names on the first line, got numbers ({names.iloc[0]}, ...). Add a line.")
    with warnings.catch_warnings():
        # Rows longer than the line of names: pandas would drop the last value, or take the first for a row's name.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, low_memory=False, skipinitialspace=True, index_col=False)
        except pd.errors.ParserWarning:
            raise _HeaderError(f"expected one name for each column, got {len(names)} names and longer rows") from None


def _numbers(column: Series, path: Path) -> np.ndarray:
    from pandas.api.types import is_numeric_dtype

    if not is_numeric_dtype(column):
        for row, value in enumerate(column):
            try:
                float(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{path}: column {column.name!r} must hold numbers, got {value!r} at row {row}. Encode it as "
                    f"numbers, drop it, or use it as labels with label={column.name!r}."
                ) from None
    return column.to_numpy(dtype=np.float64, na_value=np.nan)
