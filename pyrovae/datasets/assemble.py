"""Arrays of any kind to a `Dataset`: what the values are, which rows go where, standardized or not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks import check_values
from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.labels import encode
from pyrovae.datasets.schema import Schema
from pyrovae.datasets.splits import PARTS, split
from pyrovae.datasets.standardize import standardization


def assemble(
    name: str,
    parts: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray] | None = None,
    *,
    seed: int,
    standardize: bool,
    columns: tuple[str, ...] | None = None,
    label_names: tuple[str, ...] | None = None,
    schema: Schema | None = None,
) -> Dataset:
    """A `Dataset` of arrays ``train`` and, if there are such, ``validation`` and ``test``.

    A 2-D array is a table. A 3-D array is rows of one-channel images, ``(N, H, W)``, a 4-D array is
    ``(N, C, H, W)``. The values decide the support:

    - all 0 or 1: ``boolean``;
    - images of bytes (divided by 255) or of numbers from 0 to 1: ``unit_interval``, grey;
    - anything else: ``real``; a real table is standardized where ``standardize`` asks for it.

    NaN is a missing cell. With a ``schema`` the arrays are tables that it has encoded, and stay as they are.

    Raises ValueError for values that are not finite real numbers, rows without any, shapes that do not fit
    together, too few rows, and labels that do not match the rows.
    """
    tensors = {part: _numbers(array, _called(name, part, parts), columns) for part, array in parts.items()}
    shapes = {tuple(x.shape[1:]) for x in tensors.values()}
    if len(shapes) > 1:
        found = ", ".join(f"{part} {tuple(x.shape)}" for part, x in tensors.items())
        raise ValueError(f"{name}: expected rows of one shape in every part, got {found}")
    # The parts decide together: a black image in one of them does not make its bytes another unit.
    images = [part for part, array in parts.items() if array.dtype == np.uint8 and array.ndim > 2]
    if any(parts[part].max(initial=0) > 1 for part in images):
        tensors.update({part: tensors[part] / 255 for part in images})
    support = _support(list(tensors.values())) if schema is None else constraints.real

    rows = split({part: len(x) for part, x in tensors.items()}, seed, name)
    x = {part: tensors[source][index] for part, (source, index) in rows.items()}
    loc = scale = None
    if standardize and schema is None and support is constraints.real and x["train"].ndim == 2:
        loc, scale = standardization(x["train"])
        x = {part: (value - loc) / scale for part, value in x.items()}
    x = {part: value.float() for part, value in x.items()}
    for part in PARTS:
        called = f"{name} ({part}, as float32)"
        check_values(x[part], constraints.real, name=called, columns=columns, missing=True)

    y: dict[str, Tensor] = {}
    if labels:
        encoded, names = _encode(labels, tensors, name)
        label_names = label_names or names
        y = {part: encoded[source][index] for part, (source, index) in rows.items()}
    return Dataset(
        name,
        **x,
        support=support,
        **{f"{part}_labels": value for part, value in y.items()},
        label_names=label_names,
        columns=columns,
        loc=None if loc is None else loc.float(),
        scale=None if scale is None else scale.float(),
        schema=schema,
    )


def _called(name: str, part: str, parts: Mapping[str, np.ndarray]) -> str:
    return name if len(parts) == 1 else f"{name} ({part})"


def _numbers(array: np.ndarray, name: str, columns: tuple[str, ...] | None) -> Tensor:
    """``array`` as float64 of shape ``(N, *event_shape)``."""
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name}: expected an array of numbers, got dtype {array.dtype}. Encode text as numbers first."
        )
    if array.ndim not in (2, 3, 4) or 0 in array.shape[1:]:
        advice = " For a single column: x[:, None]." if array.ndim == 1 else ""
        raise ValueError(
            f"{name}: expected a table (N, D) or images (N, H, W) or (N, C, H, W), got shape {array.shape}.{advice}"
        )
    x = torch.from_numpy(array.astype(np.float64))
    check_values(x, constraints.real, name=name, columns=columns, missing=True)
    return x[:, None] if x.ndim == 3 else x


def _support(parts: list[Tensor]) -> constraints.Constraint:
    present = [x[~torch.isnan(x)] for x in parts]
    if all(bool(((x == 0) | (x == 1)).all()) for x in present):
        return constraints.boolean
    if parts[0].ndim == 4 and all(bool(((x >= 0) & (x <= 1)).all()) for x in present):
        return constraints.unit_interval
    return constraints.real


def _encode(
    labels: Mapping[str, np.ndarray], tensors: Mapping[str, Tensor], name: str
) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    if missing := [part for part in tensors if part not in labels]:
        raise ValueError(f"{name}: expected labels for each part or for none, and {missing[0]!r} has none")
    for part, x in tensors.items():
        if labels[part].ndim != 1 or len(labels[part]) != len(x):
            raise ValueError(
                f"{name}: expected one label for each of the {len(x)} rows of {part}, shape ({len(x)},), "
                f"got shape {labels[part].shape}"
            )
    # All parts are encoded together, so that one class has one number.
    sizes = [len(labels[part]) for part in tensors]
    values, names = encode(np.concatenate([labels[part] for part in tensors]), f"{name} labels")
    return dict(zip(tensors, values.split(sizes), strict=True)), names
