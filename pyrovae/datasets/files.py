"""A user's own file: ``.npy``, ``.npz``, ``.csv`` or ``.parquet``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pyrovae.datasets.arrays import read_arrays
from pyrovae.datasets.assemble import assemble
from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.schema import Kinds, Schema, encode, frame_of
from pyrovae.datasets.tables import numbers, read_table

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")


def is_path(name: str | os.PathLike[str]) -> bool:
    """Whether ``name`` means a file: a path object, a name with a folder or one of `SUFFIXES`, or an existing file.

    >>> is_path("table.csv"), is_path("digits")
    (True, False)
    """
    if not isinstance(name, str):
        return True
    path = Path(name).expanduser()
    return path.name != name or path.suffix.lower() in SUFFIXES or path.is_file()


def read(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    seed: int = 0,
    standardize: bool = True,
    schema: Schema | Kinds | None = None,
) -> Dataset:
    """The rows in a file, with a seeded 80/10/10 split where the file has none of its own.

    See `read_table` and `read_arrays` for what a file may hold, `assemble` for how values become a `Dataset`. With a
    ``schema``, or the kinds of some columns where the rest is to be inferred, columns may hold text and missing values
    (see `Schema`).

    Raises FileNotFoundError for no such file, ValueError for a file of another kind, for content that cannot
    be read, and, without a schema, for values that are not finite numbers.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}, got {path.suffix or 'no ending'!r}")
    if path.is_dir():
        raise ValueError(f"{path}: expected a file, got a folder")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix.lower() in (".npy", ".npz"):
        parts, labels = read_arrays(path, label)
        columns = None
    else:
        frame, y = read_table(path, label)
        parts, labels = {"train": frame}, None if y is None else {"train": y}
        columns = tuple(frame.columns)
    found = None
    if schema is not None:
        parts, found = encode({part: frame_of(rows, str(path)) for part, rows in parts.items()}, schema, str(path))
        columns = found.names
    arrays = {part: rows if isinstance(rows, np.ndarray) else numbers(rows, path) for part, rows in parts.items()}
    return assemble(str(path), arrays, labels, seed=seed, standardize=standardize, columns=columns, schema=found)
