"""A user's own file: ``.npy``, ``.npz``, ``.csv`` or ``.parquet``."""

from __future__ import annotations

import os
from pathlib import Path

from pyrovae.datasets.arrays import read_arrays
from pyrovae.datasets.assemble import assemble
from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.tables import read_table

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


def read(path: str | os.PathLike[str], *, label: str | None = None, seed: int = 0, standardize: bool = True) -> Dataset:
    """The rows in a file, with a seeded 80/10/10 split where the file has none of its own.

    See `read_table` and `read_arrays` for what a file may hold, `assemble` for how values become a `Dataset`.

    Raises FileNotFoundError for no such file, ValueError for a file of another kind, for content that cannot
    be read and for values that are not finite numbers.
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
        return assemble(str(path), parts, labels, seed=seed, standardize=standardize)
    x, y, columns = read_table(path, label)
    labels = None if y is None else {"train": y}
    return assemble(str(path), {"train": x}, labels, seed=seed, standardize=standardize, columns=columns)
