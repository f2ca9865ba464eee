"""Labels beside the data: classes or a target."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def encode(values: np.ndarray, name: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels of shape ``(N,)`` as a tensor, and the names of the classes where the labels were text.

    Integers stay as they are, floats become float32, text becomes its rank in alphabetical order.

    Raises ValueError for another type or a missing label.

    >>> encode(np.array(["dog", "cat", "dog"]), "labels")
    (tensor([1, 0, 1]), ('cat', 'dog'))
    """
    kind = values.dtype.kind
    if kind in "biu":
        return torch.from_numpy(values.astype(np.int64)), None
    if kind == "f":
        if (wrong := np.flatnonzero(~np.isfinite(values))).size:
            raise ValueError(_message(name, "a finite number", values[wrong[0]], int(wrong[0])))
        return torch.from_numpy(values.astype(np.float32)), None
    if kind in "OU":
        for row, value in enumerate(values.tolist()):
            if not isinstance(value, str):
                raise ValueError(_message(name, "text", value, row))
        classes, codes = np.unique(values.astype(str), return_inverse=True)
        return torch.from_numpy(codes.astype(np.int64)), tuple(classes.tolist())
    raise ValueError(f"{name}: expected text, integers or floats, got dtype {values.dtype}")


def _message(name: str, expected: str, value: object, row: int) -> str:
    return f"{name}: expected {expected}, got {value} at row {row}. Fill in or drop such rows first."
