"""Normal posterior with a covariance matrix of low rank plus diagonal."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.checks import count
from pyrovae.distributions import positive, to_scale
from pyrovae.piece import Piece


class LowRank(Piece):
    r"""Low-rank normal posterior, of r directions and a diagonal: :math:`\mathcal{N}(z; \mu, S (I + W W^\top) S)`.

    :math:`S = \operatorname{diag} \sigma` and :math:`W_{ij} = \operatorname{arcsinh}(r_{ij})`, which tames large
    outputs of the network. Between the mean field and full rank: the r main directions in which latent
    dimensions depend on one another, for D (2 + r) numbers. Ong, Nott & Smith (2018), https://arxiv.org/abs/1701.03208.

    Args:
        rank: r, at least 1.
        floor: the least element of S.

    >>> posterior = LowRank(rank=2)
    >>> posterior.build((10,))
    40
    >>> posterior(torch.zeros(5, 40)).covariance_matrix.shape
    torch.Size([5, 10, 10])
    """

    def __init__(self, rank: int = 2, floor: float = 1e-4) -> None:
        super().__init__()
        self.rank = count(rank, "low_rank rank", 1)
        self.floor = positive(floor, "low_rank floor: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        return super().build(event_shape) * (2 + self.rank)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, raw_scale, *raw_factors = params.unflatten(-1, (2 + self.rank, -1)).unbind(-2)
        scale = to_scale(raw_scale, self.floor)
        factors = scale.unsqueeze(-1) * torch.asinh(torch.stack(raw_factors, -1))
        return dist.LowRankMultivariateNormal(loc, factors, scale.square())
