"""A Parquet file, by its row groups."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.checks import choose_all
from pyrovae.datasets.streams.grouped import Grouped, Rows

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile


class Parquet(Grouped):
    """Batches of the columns of numbers of a Parquet file (https://parquet.apache.org), missing values as NaN.

    Args:
        path: the file.
        columns: of x; None: all but those of the condition.
        condition: the column of the condition, as it is, or several, as an array of numbers.
        batch_size, shuffle, buffer, seed: see `Grouped`.

    Raises:
        FileNotFoundError: where there is no such file.
        ImportError: without pyarrow.
        ValueError: for a file that cannot be read, an unknown column, or one that holds no numbers.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Sequence[str] | None = None,
        condition: str | Sequence[str] | None = None,
        batch_size: int = 64,
        shuffle: bool = True,
        buffer: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.path = os.fspath(path)
        with _opened(self.path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self.single = isinstance(condition, str)
        self.condition = () if condition is None else choose_all(condition, schema.names, f"{self}: condition")
        if columns is None:
            columns = [name for name in schema.names if name not in self.condition]
        self.columns = choose_all(columns, schema.names, f"{self}: columns")
        if not self.columns:
            raise ValueError(f"{self}: expected columns of x, got none besides the condition")
        for name in (*self.columns, *self.condition):
            if not _holds_numbers(schema.field(name).type):
                raise ValueError(
                    f"{self}: expected columns of numbers, got {name!r} of {schema.field(name).type}. Encode it as "
                    "numbers, or leave it out with columns="
                )
        super().__init__(sizes, len(self.columns), batch_size, shuffle, buffer, seed)

    def __repr__(self) -> str:
        return f"Parquet({self.path!r})"

    def read(self, groups: Iterable[int]) -> Iterator[Rows]:
        with _opened(self.path) as file:
            for group in groups:
                # Reading in threads of its own gains nothing beside the one that reads ahead.
                frame = file.read_row_group(group, [*self.columns, *self.condition], use_threads=False)
                arrays = {name: frame[name].to_numpy() for name in frame.column_names}
                x = np.stack([arrays[name].astype(np.float32) for name in self.columns], 1)
                if not self.condition:
                    yield x, None
                elif self.single:
                    yield x, arrays[self.condition[0]]
                else:
                    yield x, np.stack([arrays[name].astype(np.float32) for name in self.condition], 1)


def _opened(path: str) -> ParquetFile:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(f"{path}: reading .parquet needs pyarrow: pip install pyarrow") from error
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: cannot be read as .parquet ({str(error).partition(chr(10))[0]})") from error


def _holds_numbers(kind: Any) -> bool:  # noqa: ANN401 - a DataType of pyarrow's
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
