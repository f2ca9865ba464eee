"""An AnnData file, by blocks of its rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from pyrovae.datasets.streams.grouped import BUFFER, Grouped, Rows

Node = Any
"""A dataset or a group of h5py's, which is imported where it is used."""


class H5ad(Grouped):
    """Batches of the cells of an AnnData file, whose matrix stays on disk, as in AnnData's backed mode.

    The file is read by its published format
    (https://anndata.readthedocs.io/en/stable/fileformat-prose.html); anndata itself is not needed. The matrix is dense,
    or sparse by rows (CSR).

    Args:
        path: the file.
        layer: the name of a layer, such as "counts"; None: X.
        condition: a column of obs: categories as whole numbers 0, 1, ..., numbers as they are; or several, as an array
            of indicators and numbers side by side.
        batch_size, shuffle, buffer, seed: see `Grouped`.

    Raises:
        FileNotFoundError: where there is no such file.
        ImportError: without h5py.
        ValueError: for a file that cannot be read, an unknown layer or column, or a matrix that is sparse by columns.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        layer: str | None = None,
        condition: str | Sequence[str] | None = None,
        batch_size: int = 64,
        shuffle: bool = True,
        buffer: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.path, self.place = os.fspath(path), "X" if layer is None else f"layers/{layer}"
        with _opened(self.path) as file:
            if self.place not in file:
                layers = ", ".join(file["layers"]) if "layers" in file else ""
                raise ValueError(f"{self}: expected {self.place}, and there is none (layers: {layers or 'none'})")
            rows, width = _shape(file[self.place], str(self))
            self.condition = None if condition is None else self._condition(file, condition, rows)
        block = max(1, min(rows, BUFFER // 16 // width))
        self.starts = range(0, rows, block)
        sizes = [min(block, rows - start) for start in self.starts]
        super().__init__(sizes, width, batch_size, shuffle, buffer, seed)

    def __repr__(self) -> str:
        return f"H5ad({self.path!r})"

    def read(self, groups: Iterable[int]) -> Iterator[Rows]:
        with _opened(self.path) as file:
            matrix = file[self.place]
            starts = np.asarray(matrix["indptr"]) if hasattr(matrix, "keys") else None
            for group in groups:
                rows = slice(self.starts[group], self.starts[group] + self.sizes[group])
                x = matrix[rows] if starts is None else _dense(matrix, starts[rows.start : rows.stop + 1], self.width)
                yield x, None if self.condition is None else self.condition[rows]

    def _condition(self, file: Node, condition: str | Sequence[str], rows: int) -> np.ndarray:
        """Of all rows: a number or a few for each are little beside its x."""
        names = [condition] if isinstance(condition, str) else list(condition)
        columns = [_column(file["obs"], name, str(self)) for name in names]
        if isinstance(condition, str):
            return columns[0][0]
        parts = [values[:, None] if size is None else np.eye(size)[values] for values, size in columns]
        return np.concatenate(parts, 1).astype(np.float32)


def _opened(path: str) -> Node:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path}: reading .h5ad needs h5py: pip install h5py") from error
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as .h5ad ({error})") from error


def _shape(matrix: Node, name: str) -> tuple[int, int]:
    """(N, D) of a dense or a sparse matrix."""
    if not hasattr(matrix, "keys"):
        shape = tuple(matrix.shape)
    elif matrix.attrs.get("encoding-type") == "csr_matrix":
        shape = tuple(int(size) for size in matrix.attrs["shape"])
    else:
        raise ValueError(
            f"{name}: expected a matrix that is dense or sparse by rows (csr_matrix), got "
            f"{matrix.attrs.get('encoding-type', 'one of an unknown encoding')}. Write it with X = X.tocsr()."
        )
    if len(shape) != 2:
        raise ValueError(f"{name}: expected a matrix (N, D), got shape {shape}")
    return shape


def _dense(matrix: Node, starts: np.ndarray, width: int) -> np.ndarray:
    """Rows of a sparse matrix, given where each begins."""
    from scipy.sparse import csr_matrix

    cells = slice(starts[0], starts[-1])
    parts = matrix["data"][cells], matrix["indices"][cells], starts - starts[0]
    return csr_matrix(parts, (len(starts) - 1, width)).toarray()


def _column(obs: Node, name: str, owner: str) -> tuple[np.ndarray, int | None]:
    """A column of obs: numbers and None, or codes of categories and how many there are."""
    if name not in obs:
        raise ValueError(f"{owner}: expected as condition a column of obs ({', '.join(obs)}), got {name!r}")
    column = obs[name]
    if hasattr(column, "keys") and {"codes", "categories"} <= set(column.keys()):
        codes = np.asarray(column["codes"]).astype(np.int64)
        if (codes < 0).any():
            raise ValueError(f"{owner}: expected a category in every row of {name!r}, got none at row {codes.argmin()}")
        return codes, len(column["categories"])
    if hasattr(column, "keys") or column.dtype.kind not in "iufb":
        raise ValueError(f"{owner}: expected categories or numbers in {name!r} of obs, got another kind")
    return np.asarray(column), None
