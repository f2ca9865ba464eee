"""What every loader returns: three splits of rows and what is known about their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.datasets.schema import Schema

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Dataset:
    r"""Rows in three splits.

    Real tables are standardized, :math:`x = (\text{raw} - \text{loc}) / \text{scale}`, so a density of ``x`` is in
    standardized units: :math:`\log p(\text{raw}) = \log p(x) - \sum_d \log \text{scale}_d`.

    Attributes:
        name: the name it was loaded by; of a file, its path.
        train, validation, test: float32 tensors of shape ``(N, *event_shape)``; NaN is a missing cell.
        support: the values that one element can have once ``transform`` has been applied: ``boolean``,
            ``unit_interval`` or ``real``.
        train_labels, validation_labels, test_labels: shape ``(N,)``, integers (classes) or floats (a target).
        label_names: the name of each integer label.
        columns: the names of a table's columns.
        transform: from a training batch and a generator to the batch that a model sees; None for the batch as
            it is. It is what draws dynamically binarized pixels.
        loc, scale: the standardization that was applied, shape ``event_shape``; None for none.
        schema: what the columns of a table of different types are; its categories stand as codes. None for any
            other data.
        train_factors, validation_factors, test_factors: what each row was drawn from, a column a factor; None where
            that is not known.

    >>> x = torch.zeros(8, 2)
    >>> Dataset("zeros", x, x[:1], x[:1], constraints.real)
    Dataset(name='zeros', rows=(8, 1, 1), event_shape=(2,), support=Real())
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    support: constraints.Constraint
    train_labels: Tensor | None = None
    validation_labels: Tensor | None = None
    test_labels: Tensor | None = None
    label_names: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    transform: Callable[[Tensor, torch.Generator], Tensor] | None = None
    loc: Tensor | None = None
    scale: Tensor | None = None
    schema: Schema | None = None
    train_factors: pd.DataFrame | None = None
    validation_factors: pd.DataFrame | None = None
    test_factors: pd.DataFrame | None = None

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one row."""
        return self.train.shape[1:]

    @property
    def missing(self) -> bool:
        """Whether there are missing cells (NaN) in any split."""
        return any(bool(torch.isnan(x).any()) for x in (self.train, self.validation, self.test))

    @property
    def grey(self) -> bool:
        """Whether the values are grey, from 0 to 1: pixels that can be binarized."""
        return str(self.support) == str(constraints.unit_interval)

    def __repr__(self) -> str:
        rows = tuple(len(x) for x in (self.train, self.validation, self.test))
        return (
            f"Dataset(name={self.name!r}, rows={rows}, event_shape={tuple(self.event_shape)}, support={self.support})"
        )
