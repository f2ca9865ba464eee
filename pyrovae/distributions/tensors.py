"""The tensors inside a distribution."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint


def map_tensors(fn: Callable[[Tensor], Tensor], value: Any, seen: dict[int, Any] | None = None) -> Any:  # noqa: ANN401 - any attribute
    """A copy of a distribution or transform in which each tensor, however deep, has gone through ``fn``.

    ``seen`` holds what is copied already: a transform and its inverse know each other.
    """
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, Tensor):
        return fn(value.detach())
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return type(value)(map_tensors(fn, item, seen) for item in value)
    if isinstance(value, weakref.ref):
        return None  # a transform's memory of its inverse, which it makes anew
    if isinstance(value, nn.Module):
        new = seen[id(value)] = copy.deepcopy(value)
        return new._apply(fn)
    if isinstance(value, Distribution | Transform | Constraint):
        new = seen[id(value)] = copy.copy(value)
        for key, item in vars(value).items():
            new.__dict__[key] = map_tensors(fn, item, seen)
        return new
    return value
