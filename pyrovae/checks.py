"""Checks of the data a user hands in. Each failure says what was expected, what came, where, and what to do.

They are plain ``if`` and ``raise``, so ``python -O`` does not switch them off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import constraints

_trusted: ContextVar[bool] = ContextVar("pyrovae_trusted", default=False)

_WORDS = (
    (constraints.boolean, "0 or 1"),
    (constraints.unit_interval, "a number from 0 to 1"),
    (constraints.nonnegative_integer, "a whole number 0, 1, 2, ..."),
    (constraints.positive, "a number above 0"),
    (constraints.nonnegative, "a number of at least 0"),
    (constraints.real, "a finite number"),
)


def words(support: constraints.Constraint) -> str:
    """A constraint in words, for messages.

    >>> words(constraints.boolean)
    '0 or 1'
    """
    for constraint, text in _WORDS:
        if str(constraint) == str(support):
            return text
    if isinstance(support, type(constraints.integer_interval(0, 1))):
        return f"a whole number from {support.lower_bound} to {support.upper_bound}"
    return f"a value in {support}"


@contextmanager
def trusted(trust: bool = True) -> Iterator[None]:
    """Inside: values are not looked at again, because the caller has checked them all. Shapes still are.

    ``trusted(False)`` looks at them again, for code of the user's that is called from inside.
    """
    token = _trusted.set(trust)
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted() -> bool:
    """Whether this is inside `trusted`."""
    return _trusted.get()


def count(value: object, name: str, least: int) -> int:
    """``value`` as an int, if it is a whole number of at least ``least``; otherwise a ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return int(value)


def choose_all(values: Sequence[str], names: Sequence[str], kind: str) -> tuple[str, ...]:
    """``values`` as a tuple, if each of them is one of ``names``; otherwise a ValueError that lists them."""
    chosen = (values,) if isinstance(values, str) else tuple(values)
    if unknown := [value for value in chosen if value not in names]:
        raise ValueError(f"{kind}: expected some of {', '.join(names)}, got {unknown[0]!r}")
    return chosen


def as_rows(values: Any, event_shape: Sequence[int], name: str = "x", like: Tensor | None = None) -> Tensor:  # noqa: ANN401
    """``values`` (tensor, array, data frame, nested list) as a tensor of shape ``(N, *event_shape)``.

    ``like`` gives the dtype and device of the result. Raises ValueError for no rows, another shape, or values
    that are not real numbers.
    """
    if not isinstance(values, Tensor):
        try:
            if hasattr(values, "to_numpy"):
                values = values.to_numpy(dtype="float64", na_value=np.nan, copy=True)
            # A copy where strides are negative or memory is read-only, neither of which torch takes.
            values = torch.as_tensor(values.copy() if isinstance(values, np.ndarray) else values)
        except (TypeError, ValueError, RuntimeError) as error:
            remedy = "Encode text and categories as numbers first."
            if hasattr(values, "train") and hasattr(values, "test"):
                remedy = "Pass one of its splits, such as data.train."
            raise ValueError(
                f"{name}: expected numbers of shape (N, {_inside(event_shape)}), got {type(values).__name__} "
                f"that does not convert to a tensor ({error}). {remedy}"
            ) from error
    if values.is_complex() or values.is_quantized:
        raise ValueError(f"{name}: expected real numbers (float, integer or bool), got dtype {values.dtype}")
    if tuple(values.shape[1:]) != tuple(event_shape) or values.ndim == 0:
        raise ValueError(
            f"{name}: expected shape (N, {_inside(event_shape)}), got {tuple(values.shape)}. "
            f"{_reshape_advice(values, event_shape)}"
        )
    if len(values) == 0:
        raise ValueError(f"{name}: expected at least one row, got none (shape {tuple(values.shape)})")
    return values if like is None else values.to(dtype=like.dtype, device=like.device)


def check_values(
    values: Tensor,
    support: constraints.Constraint,
    *,
    name: str = "x",
    owner: str = "",
    remedy: str = "",
    columns: Sequence[str] | None = None,
    missing: bool = False,
    numbers: Sequence[int] | None = None,
) -> None:
    """Raise a ValueError that names row, column and value unless all of ``values`` are finite and in ``support``.

    ``owner`` is who expects it (a likelihood's name), ``remedy`` what the user can do; ``missing`` lets NaN pass, but
    not in all of a row. ``numbers`` are those of the rows where these are some of many; by default 0, 1, 2, ...
    """
    if _trusted.get() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return
    wrong = ~(support.check(values) & torch.isfinite(values))
    if missing:
        gone = torch.isnan(values)
        wrong &= ~gone
        if (empty := gone.flatten(1).all(1)).any():
            row = int(empty.nonzero()[0])
            raise ValueError(
                f"{name}: expected an observed cell in every row, got row {row if numbers is None else numbers[row]} "
                "with none "
                f"({int(empty.sum())} of {len(values)} rows). Drop such rows."
            )
    if not wrong.any():
        return
    row, *cell = wrong.nonzero()[0].tolist()
    column = repr(columns[cell[0]]) if columns and len(cell) == 1 else cell[0] if len(cell) == 1 else tuple(cell)
    expected = f"expected {words(support)}" + (f" ({owner})" if owner else "")
    value = values[(row, *cell)].item()
    if value != value:
        remedy = "Fill in or drop missing values first, or integrate them out: VAE(..., missing='mask')."
    raise ValueError(
        f"{name}: {expected}, got {value:g} at row {row if numbers is None else numbers[row]}, column {column} "
        f"({int(wrong.sum())} of {values.numel()} values are outside). {remedy}".rstrip()
    )


def check_labels(
    labels: Any,  # noqa: ANN401
    names: Sequence[str] | None,
    rows: int,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Labels as an array ``(rows,)`` and, where there are names, the name of each row's label.

    Raises ValueError for another length, and for names of labels that are not integers 0, 1, 2, ... with a name each.
    """
    if labels is not None:
        labels = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
        if labels.shape != (rows,):
            raise ValueError(f"labels: expected one for each row of x, shape ({rows},), got shape {labels.shape}")
    if names is None:
        return labels, None
    if labels is None or labels.dtype.kind not in "iub":
        raise ValueError("label_names: expected integer labels that they name, got labels of another kind or none")
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(
            f"label_names: expected a name for each label from {labels.min()} to {labels.max()}, counted from 0, "
            f"got {len(names)} names"
        )
    return labels, np.asarray([str(name) for name in names])[labels.astype(int)]


def check_one_kind(module: nn.Module) -> None:
    """Raise a ValueError unless all parameters of a module have one dtype and one device."""
    kinds = {(str(p.dtype), str(p.device)) for p in module.parameters() if p.is_floating_point()}
    if len(kinds) > 1:
        raise ValueError(
            f"expected networks and pieces of one dtype and device, got {', '.join(map(' on '.join, sorted(kinds)))}. "
            "Build the VAE from float32 parts on the CPU, then call vae.double() or vae.to(device)."
        )


def shape(value: Sequence[int]) -> torch.Size:
    """``value`` as a shape, if it is one or more sizes of at least 1; otherwise a ValueError."""
    try:
        sizes = torch.Size(value)
    except TypeError:
        sizes = torch.Size()
    if not sizes or any(size < 1 for size in sizes):
        raise ValueError(f"event_shape: expected one or more sizes of at least 1, such as (1, 28, 28), got {value!r}")
    return sizes


def _inside(event_shape: Sequence[int]) -> str:
    return ", ".join(str(size) for size in event_shape)


def _reshape_advice(values: Tensor, event_shape: Sequence[int]) -> str:
    size = torch.Size(event_shape).numel()
    if values.ndim and tuple(values.shape) == tuple(event_shape):
        return "For a single row, add the row dimension: x[None]."
    if values.ndim and len(values) and values[0].numel() == size:
        return f"Each row has the right number of values: x.reshape(-1, {_inside(event_shape)})."
    return "Each row must have one value for each element of event_shape."
