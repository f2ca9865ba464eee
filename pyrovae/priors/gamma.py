"""Gamma prior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions import positive
from pyrovae.priors.unconditional import Unconditional


class Gamma(Unconditional):
    r"""Gamma prior of positive latents: :math:`p(z) = \prod_d \frac{b^a}{\Gamma(a)} z_d^{a - 1} e^{-b z_d}`.

    For parts that can be present in some amount or absent, as in non-negative factorisations: deep exponential
    families (Ranganath et al. 2015, https://arxiv.org/abs/1411.2581). A concentration below 1 is sparse, and its
    density has a pole at 0; 1 is the exponential distribution. The mean is a / b.

    Args:
        concentration: a, a positive number.
        rate: b, a positive number, in units of 1 / z.
        learned: train a and b of each latent, from these values.
        floor: the least a and b, where learned.

    >>> prior = Gamma(rate=2.0)
    >>> prior.build((2,))
    0
    >>> prior(None).log_prob(torch.zeros(2))  # 2 log 2
    tensor(1.3863)
    """

    support = constraints.positive

    def __init__(
        self, concentration: float = 1.0, rate: float = 1.0, learned: bool = False, floor: float = 1e-3
    ) -> None:
        super().__init__(learned, floor)
        self.concentration = positive(concentration, "gamma concentration: expected")
        self.rate = positive(rate, "gamma rate: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        self.hold_positive("a", torch.full(tuple(event_shape), self.concentration), self.learned)
        self.hold_positive("b", torch.full(tuple(event_shape), self.rate), self.learned)
        return super().build(event_shape)

    def forward(self, params: Tensor | None = None) -> dist.TorchDistribution:
        return dist.Gamma(self.positive_value("a"), self.positive_value("b")).to_event(len(self.event_shape))
