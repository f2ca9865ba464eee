"""What the normal, Laplace and Student t priors share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.priors.unconditional import Unconditional


class LocationScale(Unconditional):
    """A prior of independent elements with a location and a scale each: fixed, learned, or a learned scale alone.

    Args:
        learned: False for locations 0 and scales 1; True to train both, from there; ``"ard"`` to train the scales
            alone, around 0.
        floor: the least scale, where learned.
    """

    def __init__(self, learned: bool | Literal["ard"] = False, floor: float = 1e-3) -> None:
        if learned not in (False, True, "ard"):
            raise ValueError(f"learned: expected False, True or 'ard', got {learned!r}")
        super().__init__(learned, floor)

    def build(self, event_shape: Sequence[int]) -> int:
        self.hold("loc", torch.zeros(event_shape), self.learned is True)
        self.hold_positive("scale", torch.ones(event_shape), bool(self.learned))
        return super().build(event_shape)

    def forward(self, params: Tensor | None = None) -> dist.TorchDistribution:
        return self.element(self.loc, self.positive_value("scale")).to_event(len(self.event_shape))

    def element(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """The distribution of each element."""
        raise NotImplementedError
