"""What the columns of a table are: numbers of several kinds, categories, categories in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyrovae.checks import as_rows
from pyrovae.registry import choose

if TYPE_CHECKING:
    from pandas import DataFrame, Series

KINDS = ("real", "positive", "count", "categorical", "ordinal")
CODED = ("categorical", "ordinal")
"""The kinds whose values are categories, which stand as their codes 0, 1, 2, ... in a tensor."""
MAX_CATEGORIES = 256
"""A text column with more different texts is taken for a name or a number of each row."""

Category = str | int | float | bool
Kinds = Mapping[str, "str | Column"]
"""The kind of some columns, by name."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: its name.
        kind: "real", "positive" (numbers above 0), "count" (0, 1, 2, ...), "categorical" or "ordinal" (categories in
            order).
        categories: of the last two kinds, two or more different labels (text, numbers or booleans); those of an
            ordinal column from the lowest to the highest.

    Raises:
        ValueError: for an unknown kind, or categories that are none.

    >>> Column("size", "ordinal", ("S", "M", "L")).to_dict()
    {'name': 'size', 'kind': 'ordinal', 'categories': ['S', 'M', 'L']}
    """

    name: str
    kind: str = "real"
    categories: tuple[Category, ...] = ()

    def __post_init__(self) -> None:
        choose(self.kind, KINDS, f"kind of column {self.name!r}")
        labels = tuple(label.item() if isinstance(label, np.generic) else label for label in self.categories)
        object.__setattr__(self, "categories", labels)
        if self.kind not in CODED and labels:
            raise ValueError(f"column {self.name!r}: expected no categories, because it is {self.kind}, got {labels}")
        if self.kind in CODED and (len(set(labels)) < 2 or len(set(labels)) < len(labels)):
            raise ValueError(f"column {self.name!r}: expected two or more different categories, got {labels}")
        for label in labels:
            if not isinstance(label, Category):
                raise ValueError(
                    f"column {self.name!r}: expected text, numbers or booleans for categories, got {label!r}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The column as JSON."""
        described: dict[str, Any] = {"name": self.name, "kind": self.kind}
        return described | ({"categories": list(self.categories)} if self.categories else {})

    def encode(self, column: Series) -> np.ndarray:
        """The values as float64: numbers as they are, categories as codes, what is missing as NaN.

        Raises ValueError, naming row, column and value, for a category that is not known or text among numbers.
        """
        import pandas as pd

        codes, found = pd.factorize(column)
        found = found.tolist()
        numbers = [self._number(value) for value in found]
        for i, number in enumerate(numbers):
            if number is None:
                known = f"one of {', '.join(map(str, self.categories))}" if self.categories else "a number"
                row = int((codes == i).argmax())
                raise ValueError(f"column {self.name!r}: expected {known}, got {found[i]!r} at row {row}")
        # The last one is for code -1, which is a missing value.
        return np.array([*numbers, np.nan], dtype=np.float64)[codes]

    def decode(self, values: np.ndarray) -> Series:
        """The reverse of `encode`: labels for codes, in a pandas categorical; counts as integers if all are whole."""
        import pandas as pd

        missing = np.isnan(values)
        if self.kind == "count" and (np.floor(values) == values)[~missing].all():
            return pd.Series(values, name=self.name).astype("Int64")
        if self.kind not in CODED:
            return pd.Series(values, name=self.name)
        codes = np.where(missing, -1, values).astype(np.int64)
        wrong = ~missing & ((codes != values) | (codes < 0) | (codes >= len(self.categories)))
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"column {self.name!r}: expected a code from 0 to {len(self.categories) - 1}, got {values[row]:g} at "
                f"row {row}"
            )
        labels = pd.Categorical.from_codes(codes, list(self.categories), ordered=self.kind == "ordinal")
        return pd.Series(labels, name=self.name)

    def _number(self, value: object) -> float | None:
        """A value that is there as a number; None for one that cannot be."""
        if self.categories:
            if value in self.categories:
                return float(self.categories.index(value))
            return np.nan if isinstance(value, str) and not value.strip() else None
        try:
            return float(value)
        except (TypeError, ValueError):
            return np.nan if isinstance(value, str) and not value.strip() else None


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in order.

    Args:
        columns: `Column` objects, or their JSON form.

    Raises:
        ValueError: for two columns of one name, or a column that is none.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"age": [39, 50, 38], "job": ["clerk", None, "nurse"]})
    >>> schema = Schema.infer(frame)
    >>> [column.kind for column in schema]
    ['count', 'categorical']
    >>> schema.encode(frame)[:, 1]
    array([ 0., nan,  1.])
    """

    columns: tuple[Column, ...]

    def __init__(self, columns: Iterable[Column | Mapping[str, Any]]) -> None:
        object.__setattr__(self, "columns", tuple(_column(column) for column in columns))
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError(f"columns: expected different names, got {', '.join(names)}")

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each column."""
        return tuple(column.name for column in self.columns)

    def to_list(self) -> list[dict[str, Any]]:
        """The schema as JSON, of which ``Schema(...)`` makes its like."""
        return [column.to_dict() for column in self.columns]

    @classmethod
    def infer(cls, frame: DataFrame, kinds: Kinds | None = None) -> Schema:
        """The schema that a data frame suggests, by its values:

        - text, booleans, numbers that are all 0 or 1, unordered pandas categories: categorical;
        - ordered pandas categories: ordinal;
        - other whole numbers, none below 0: count;
        - other numbers, all above 0: positive;
        - other numbers: real.

        Missing values (None, NaN, NA, empty text) say nothing. Categories are in alphabetical or numerical order, or
        in that of the pandas categories.

        Args:
            frame: the table.
            kinds: the kind of a column, or a `Column`, where the rules above do not suit: ``{"year": "real"}``.

        Raises:
            ValueError: for a column without values, one of dates or of mixed types, a text column with more than 256
                different texts (unless ``kinds`` says it is categorical), or ``kinds`` of a column that is not there.
        """
        kinds = {} if kinds is None else kinds
        for name in kinds:
            choose(name, map(str, frame.columns), "column")
        return cls(_inferred(str(name), frame[name], kinds.get(str(name))) for name in frame.columns)

    def encode(self, frame: DataFrame) -> np.ndarray:
        """The table as float64 ``(N, D)``: categories as codes 0, 1, ..., what is missing as NaN.

        Columns of the frame that the schema does not have are left out. Raises ValueError for a column that is not
        there, and, naming row, column and value, for a category that is not known or text among numbers.
        """
        places = {str(name): name for name in frame.columns}
        if missing := [name for name in self.names if name not in places]:
            raise ValueError(f"expected columns {', '.join(self.names)}, got none called {missing[0]!r}")
        return np.column_stack([column.encode(frame[places[column.name]]) for column in self.columns])

    def decode(self, x: Tensor | np.ndarray) -> DataFrame:
        """The reverse of `encode`: a data frame with the labels of the categories; NaN is a missing value.

        Raises ValueError for another number of columns, and for a code that is none.
        """
        import pandas as pd

        values = as_rows(x, (len(self),)).double().numpy(force=True)
        return pd.concat([column.decode(values[:, i]) for i, column in enumerate(self.columns)], axis=1)


def frame_of(rows: np.ndarray | DataFrame, name: str, columns: Sequence[str] | None = None) -> DataFrame:
    """An array of rows ``(N, D)`` as a data frame, whose columns are called 0, 1, ... unless they have names."""
    import pandas as pd

    if isinstance(rows, pd.DataFrame):
        return rows
    if rows.ndim != 2:
        raise ValueError(f"{name}: a schema is for a table (N, D), got rows of shape {tuple(rows.shape[1:])}")
    return pd.DataFrame(rows, columns=columns or [str(i) for i in range(rows.shape[1])])


def encode(frames: Mapping[str, DataFrame], schema: Schema | Kinds, name: str) -> tuple[dict[str, np.ndarray], Schema]:
    """The parts of a table, each as `Schema.encode` gives it, and the schema, inferred from all of them if need be."""
    import pandas as pd

    try:
        if not isinstance(schema, Schema):
            schema = Schema.infer(pd.concat(frames.values(), ignore_index=True), schema)
        return {part: schema.encode(frame) for part, frame in frames.items()}, schema
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _column(value: Column | Mapping[str, Any]) -> Column:
    if isinstance(value, Column):
        return value
    if not isinstance(value, Mapping) or "name" not in value or not set(value) <= {"name", "kind", "categories"}:
        raise ValueError(f"columns: expected a Column, or a mapping with name, kind and categories, got {value!r}")
    return Column(**value)


def _inferred(name: str, column: Series, kind: str | Column | None) -> Column:
    from pandas import CategoricalDtype
    from pandas.api.types import infer_dtype

    if isinstance(kind, Column):
        return kind
    if isinstance(column.dtype, CategoricalDtype):
        ordered = "ordinal" if column.dtype.ordered else "categorical"
        return Column(name, kind or ordered, tuple(column.cat.categories) if kind in (None, *CODED) else ())
    content = infer_dtype(column, skipna=True)
    observed = column.dropna()
    if content in ("string", "empty"):
        observed = observed[observed.astype(str).str.strip() != ""]
    if observed.empty:
        raise ValueError(f"column {name!r}: expected values, got none in any row. Drop it.")
    if content == "string":
        return _text(name, observed, kind)
    if content == "boolean":
        return Column(name, kind or "categorical", (False, True) if kind in (None, *CODED) else ())
    if content not in ("integer", "floating", "mixed-integer-float", "decimal"):
        raise ValueError(
            f"column {name!r}: expected numbers, text, booleans or categories, got values of type {content}. Turn it "
            "into one of these, or drop it."
        )
    return _numeric(name, observed.to_numpy(dtype=np.float64), kind)


def _text(name: str, observed: Series, kind: str | None) -> Column:
    if kind not in (None, "categorical"):
        remedy = " Pass Column(name, 'ordinal', categories), in order." if kind == "ordinal" else ""
        raise ValueError(f"column {name!r}: cannot be {kind}, because it holds text ({observed.iloc[0]!r}).{remedy}")
    labels = sorted(observed.unique())
    if kind is None and len(labels) > MAX_CATEGORIES:
        raise ValueError(
            f"column {name!r}: expected at most {MAX_CATEGORIES} different texts, got {len(labels)} in "
            f"{len(observed)} rows. Drop it, or say that it is categorical."
        )
    return Column(name, "categorical", tuple(labels))


def _numeric(name: str, observed: np.ndarray, kind: str | None) -> Column:
    whole = bool((np.isfinite(observed) & (np.floor(observed) == observed)).all())
    labels = np.unique(observed)
    if kind is None and set(labels) == {0, 1}:
        kind = "categorical"
    if kind in CODED:
        return Column(name, kind, tuple(labels.astype(np.int64) if whole else labels))
    if kind is None and whole and labels[0] >= 0:
        kind = "count"
    return Column(name, kind or ("positive" if labels[0] > 0 else "real"))
