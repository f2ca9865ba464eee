"""Mixture of normals posterior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae.checks import count
from pyrovae.distributions import NormalMixture, positive, to_scale
from pyrovae.piece import Piece


class Mixture(Piece):
    r"""Mixture of normals posterior.

    .. math::
        q(z \mid x) = \sum_k \pi_k(x) \, \mathcal{N}(z; \mu_k(x), \operatorname{diag} \sigma_k(x)^2)

    Where p(z | x) may have several modes. Draws are reparameterised, weights included (see
    `pyrovae.distributions.NormalMixture`). The ELBO rewards q for settling in one mode; the importance-weighted bounds
    do so less. Morningstar et al. (2021), https://arxiv.org/abs/2003.01687.

    Args:
        components: the number K of normals.
        floor: the least scale.

    >>> import torch
    >>> posterior = Mixture(components=3)
    >>> posterior.build((2,))
    15
    >>> posterior(torch.zeros(5, 15)).rsample().shape
    torch.Size([5, 2])
    """

    def __init__(self, components: int = 3, floor: float = 1e-4) -> None:
        super().__init__()
        self.components = count(components, "mixture components", 1)
        self.floor = positive(floor, "mixture floor: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        return self.components * (2 * super().build(event_shape) + 1)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        size = self.components * self.event_shape.numel()
        logits, loc, raw_scale = params.split([self.components, size, size], -1)
        shape = (self.components, -1)
        return NormalMixture(logits, loc.unflatten(-1, shape), to_scale(raw_scale.unflatten(-1, shape), self.floor))
