"""Uniform prior."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions import Uniform as _Uniform
from pyrovae.priors.unconditional import Unconditional


class Uniform(Unconditional):
    r"""Uniform prior on a box: :math:`p(z) = (b - a)^{-D}, \; a \le z_d \le b`.

    For latents with known ends, such as a time or a fraction. A normal posterior is carried into the box by a
    sigmoid. See the hypercube prior of adversarial autoencoders (Makhzani et al. 2015,
    https://arxiv.org/abs/1511.05644).

    Args:
        low: a, a finite number.
        high: b, a finite number above a.

    >>> prior = Uniform(low=-1.0)
    >>> prior.build((2,))
    0
    >>> prior(None).log_prob(torch.zeros(2))  # -2 log 2
    tensor(-1.3863)
    """

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"uniform: expected finite numbers low < high, got low={low!r} and high={high!r}")
        self.low, self.high = float(low), float(high)
        self.support = constraints.interval(self.low, self.high)

    def build(self, event_shape: Sequence[int]) -> int:
        self.hold("start", torch.full(tuple(event_shape), self.low), False)
        self.hold("end", torch.full(tuple(event_shape), self.high), False)
        return super().build(event_shape)

    def forward(self, params: Tensor | None = None) -> dist.TorchDistribution:
        return _Uniform(self.start, self.end).to_event(len(self.event_shape))
