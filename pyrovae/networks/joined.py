"""How a condition enters a network of dense layers."""

from __future__ import annotations

import torch
from torch import Tensor


def joined(x: Tensor, condition: Tensor | None) -> Tensor:
    """Rows of x, flattened, beside the rows of the condition where there is one: ``(B, F)`` or ``(B, F + C)``."""
    x = x.flatten(1)
    return x if condition is None else torch.cat([x, condition], -1)
