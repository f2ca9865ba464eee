"""Categorical prior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks import count
from pyrovae.distributions import (
    Categoricals,
    RelaxedCategoricals,
    blocks,
    one_hot_blocks,
    positive,
    simplex_blocks,
)
from pyrovae.priors.unconditional import Unconditional


class Categorical(Unconditional):
    r"""Categorical prior :math:`p(z) = \prod_{i=1}^m \operatorname{Cat}(z_i; \pi_i)` of m one-hot variables.

    For discrete codes: latent_dim = m k. With the posterior ``"categorical"``, whose values ``TraceEnum_ELBO`` sums
    over; or with a ``temperature``, the Concrete density on the simplex that goes with the posterior
    ``"relaxed_categorical"`` (Maddison, Mnih & Teh 2017, https://arxiv.org/abs/1611.00712). Weights are equal, or
    learned from there.

    Args:
        classes: k; None is one variable of latent_dim classes.
        temperature: None, or that of the Concrete density, above 0.
        learned: train the weights of each variable.

    Raises:
        ValueError: when built, unless latent_dim is a multiple of ``classes``.

    >>> prior = Categorical(classes=3)
    >>> prior.build((6,))
    0
    >>> prior(None).log_prob(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))  # -2 log 3
    tensor(-2.1972)
    """

    def __init__(self, classes: int | None = None, temperature: float | None = None, learned: bool = False) -> None:
        super().__init__(learned)
        self.classes = None if classes is None else count(classes, "categorical classes", 2)
        known = "categorical temperature: expected None, or"
        self.temperature = None if temperature is None else positive(temperature, known)

    def build(self, event_shape: Sequence[int]) -> int:
        super().build(event_shape)
        m, k = blocks(self.event_shape.numel(), self.classes, "categorical")
        self.hold("logits", torch.zeros(m, k), self.learned)
        if self.temperature is None:
            self.support = one_hot_blocks(k)
        else:
            self.support = constraints.simplex if m == 1 else simplex_blocks(k)
        return 0

    def forward(self, params: Tensor | None = None) -> dist.TorchDistribution:
        if self.temperature is None:
            return Categoricals(self.logits)
        return RelaxedCategoricals(self.temperature, self.logits)
