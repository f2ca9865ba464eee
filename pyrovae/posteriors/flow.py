"""What flow posteriors share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Transform

from pyrovae.checks import count
from pyrovae.distributions import Flow, positive, to_scale
from pyrovae.distributions.zuko import ComposedTransform, flow_network
from pyrovae.piece import Piece

GAIN = 0.1
"""What the numbers that bend a normal are multiplied by, so that training begins near the normal posterior."""


class FlowPosterior(Piece):
    r"""A posterior that bends a normal.

    .. math:: z = g_T \circ \dots \circ g_1(z_0), \quad z_0 \sim \mathcal{N}(\mu(x), \operatorname{diag} \sigma(x)^2)

    The network's numbers are location, raw scale, then those of the flow: `extra` says how many, and `bend` what
    becomes of them.
    """

    numbers = 2

    def __init__(self, transforms: int = 8, floor: float = 1e-4) -> None:
        super().__init__()
        name = type(self).__name__.lower()
        self.transforms = count(transforms, f"{name} transforms", 1)
        self.floor = positive(floor, f"{name} floor: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        return super().build(event_shape) + self.extra(self.event_shape.numel())

    def extra(self, size: int) -> int:
        """How many numbers the flow needs for vectors of length ``size``."""
        raise NotImplementedError

    def bend(self, numbers: Tensor) -> Sequence[Transform]:
        """The flow's transforms, in the order in which they are applied, of numbers ``(..., extra)``."""
        raise NotImplementedError

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        start, numbers = self.start(params)
        return Flow(start, ComposedTransform(*self.bend(numbers)))

    def start(self, params: Tensor) -> tuple[dist.TorchDistribution, Tensor]:
        """The normal that is bent, and the flow's own numbers."""
        size = self.event_shape.numel()
        loc, raw_scale = self.split(params[..., : 2 * size])
        return dist.Normal(loc, to_scale(raw_scale, self.floor)).to_event(1), params[..., 2 * size :]


class NetworkFlowPosterior(FlowPosterior):
    r"""A flow by networks that see a context of x: :math:`z = \mu(x) + \sigma(x) \, g(\epsilon; c(x))`.

    The networks work in units of the normal, so that they see numbers near 1 however narrow the posterior is.
    """

    kind: ClassVar[str]
    inverted: ClassVar[bool] = False  # whether a draw goes through the inverse of zuko's transform
    bins: int = 8

    def __init__(
        self, transforms: int = 3, hidden: Sequence[int] = (64, 64), context: int = 32, floor: float = 1e-4
    ) -> None:
        super().__init__(transforms, floor)
        self.hidden = tuple(hidden)
        self.context = count(context, f"{self.kind} context", 1)

    def extra(self, size: int) -> int:
        self.network = flow_network(
            self.kind, size, self.context, transforms=self.transforms, hidden=self.hidden, bins=self.bins
        )
        return self.context

    def bend(self, numbers: Tensor) -> Sequence[Transform]:
        transform = self.network(numbers)
        return [transform.inv if self.inverted else transform]

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        start, numbers = self.start(params)
        normal = start.base_dist
        unit = dist.Normal(torch.zeros_like(normal.loc), torch.ones_like(normal.scale)).to_event(1)
        back = AffineTransform(normal.loc, normal.scale, event_dim=1)
        return Flow(unit, ComposedTransform(*self.bend(numbers), back))
