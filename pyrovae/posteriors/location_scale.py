"""What the normal, Laplace and Student t posteriors share."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.distributions import positive, to_scale
from pyrovae.piece import Piece


class LocationScale(Piece):
    """A posterior of independent elements with a location and a scale each, both from the network.

    Args:
        floor: the least scale.
    """

    numbers = 2

    def __init__(self, floor: float = 1e-4) -> None:
        super().__init__()
        self.floor = positive(floor, f"{type(self).__name__} floor: expected")

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, raw_scale = self.split(params)
        return self.element(loc, to_scale(raw_scale, self.floor)).to_event(len(self.event_shape))

    def element(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """The distribution of each element."""
        raise NotImplementedError
