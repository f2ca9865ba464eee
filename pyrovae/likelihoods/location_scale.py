"""What likelihoods of a location and a scale share: where the scale comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.distributions import inverse_scale, positive, to_scale
from pyrovae.piece import Piece

MODES = ("shared", "per_dimension", "network")
Mode = Literal["shared", "per_dimension", "network"]


class LocationScale(Piece):
    r"""A likelihood whose location comes from the decoder, and whose scale is

    - a number: fixed;
    - ``"shared"``: one learned scale for all elements;
    - ``"per_dimension"``: one learned scale for each element;
    - ``"network"``: a scale for each row and element from the decoder.

    A likelihood of this kind says in `element` what distribution they make, and in ``deviation`` what standard
    deviation a scale of 1 has, so that the model starts at that of the data.

    Args:
        scale: a positive number, or one of the names above.
        floor: the least learned scale.
    """

    modes: ClassVar[tuple[str, ...]] = MODES
    deviation: float = 1.0

    def __init__(self, scale: float | Mode = "shared", floor: float = 1e-3) -> None:
        super().__init__()
        kind = type(self).__name__
        try:
            known = f"{kind} scale: expected {', '.join(MODES)}, or"
            self.scale = scale if scale in self.modes else positive(scale, known)
        except ValueError as error:
            more = "".join(f"; or {mode}" for mode in self.modes if mode not in MODES)
            raise ValueError(f"{error}{more}") from None
        self.floor = positive(floor, f"{kind} floor: expected")
        self.numbers = 2 if scale == "network" else 1

    def build(self, event_shape: Sequence[int]) -> int:
        count = super().build(event_shape)
        if self.scale in ("shared", "per_dimension"):
            start = torch.ones(self.event_shape if self.scale == "per_dimension" else ())
            self.raw_scale = nn.Parameter(inverse_scale(start, self.floor))
        return count

    def element(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of each element, of batch shape ``(..., *event_shape)``."""
        raise NotImplementedError(f"{type(self).__name__} must define element(loc, scale) -> a Pyro distribution")

    def forward(self, params: Tensor) -> TorchDistribution:
        return self.element(*self.location_scale(params)).to_event(len(self.event_shape))

    def location_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Location ``(..., *event_shape)`` and a scale that broadcasts with it."""
        loc, *free = self.split(params)
        if not isinstance(self.scale, str):
            return loc, loc.new_tensor(self.scale)
        return loc, to_scale(free[0] if free else self.raw_scale, self.floor)

    def initial(self, x: Tensor) -> Tensor:
        loc, scale = x.mean(0), x.std(0, correction=0) / self.deviation
        if self.scale == "network":
            return torch.cat([loc.flatten(), inverse_scale(scale, self.floor).flatten()])
        if self.scale in ("shared", "per_dimension"):
            rms = scale if self.scale == "per_dimension" else scale.square().mean().sqrt()
            with torch.no_grad():
                self.raw_scale.copy_(inverse_scale(rms, self.floor))
        return loc.flatten()
