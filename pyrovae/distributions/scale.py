"""The one parameterisation of scales."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def positive(value: object, expected: str) -> float:
    """``value`` as a float, if it is a finite number above 0; otherwise a ValueError that begins with ``expected``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{expected} a finite number above 0, got {value!r}")
    return number


def to_scale(raw: Tensor, floor: float) -> Tensor:
    r"""A scale from any real number: :math:`\sigma = \text{floor} + \log(1 + e^{r})`.

    It is bounded below by ``floor``, so that no density grows without limit, and grows only linearly in ``raw``, so
    that no step of training overflows.

    >>> to_scale(torch.tensor([-1e3, 0.0, 1e3]), floor=0.5)
    tensor([5.0000e-01, 1.1931e+00, 1.0005e+03])
    """
    return floor + F.softplus(raw)


def inverse_scale(scale: Tensor, floor: float) -> Tensor:
    """The number that `to_scale` turns into ``scale``; scales at or below the floor are put just above it.

    >>> to_scale(inverse_scale(torch.tensor(2.0), 0.1), 0.1)
    tensor(2.)
    """
    above = (scale - floor).clamp_min(1e-3 * floor + torch.finfo(scale.dtype).tiny)
    return above + torch.log(-torch.expm1(-above))
