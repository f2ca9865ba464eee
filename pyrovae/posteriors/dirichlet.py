"""Dirichlet posterior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions import positive, to_scale
from pyrovae.piece import Piece


class Dirichlet(Piece):
    r"""Dirichlet posterior on the simplex :math:`q(z \mid x) = \operatorname{Dir}(z; \alpha(x))`.

    For proportions, such as topics of a document. Draws are reparameterised implicitly, Figurnov, Mohamed & Mnih
    (2018), https://arxiv.org/abs/1805.08498.

    Args:
        floor: the least concentration; below about 0.2, draws underflow in float32.

    Raises:
        ValueError: when the VAE is built, if latent_dim is below 2.

    >>> import torch
    >>> posterior = Dirichlet()
    >>> posterior.build((3,))
    3
    >>> posterior(torch.zeros(5, 3)).mean[0]
    tensor([0.3333, 0.3333, 0.3333])
    """

    support = constraints.simplex

    def __init__(self, floor: float = 0.2) -> None:
        super().__init__()
        self.floor = positive(floor, "dirichlet floor: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        size = super().build(event_shape)
        if size < 2:
            raise ValueError(f"dirichlet: expected latent_dim of at least 2, got {size}")
        return size

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        (raw,) = self.split(params)
        return dist.Dirichlet(to_scale(raw, self.floor))
