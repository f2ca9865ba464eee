"""Normal posterior with a full covariance matrix."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae.distributions import cholesky, positive, to_scale
from pyrovae.piece import Piece


class FullRank(Piece):
    r"""Full-rank normal posterior, of any covariance: :math:`q(z \mid x) = \mathcal{N}(z; \mu(x), L(x) L(x)^\top)`.

    Where the latent dimensions depend on one another given x, as with a linear decoder, for D up to some dozens: it
    needs D (D + 3) / 2 numbers. Kingma & Welling (2019), section 2.5.1, https://arxiv.org/abs/1906.02691.

    The diagonal is :math:`L_{ii} = \sigma_i`, and :math:`L_{ij} = \sigma_i \operatorname{arcsinh}(r_{ij}) / \sqrt D`
    below it, for numbers r of the network: any covariance matrix, and no overflow where r is large.

    Args:
        floor: the least element of the diagonal of L.

    >>> import torch
    >>> posterior = FullRank()
    >>> posterior.build((3,))
    9
    >>> posterior(torch.zeros(5, 9)).covariance_matrix.shape
    torch.Size([5, 3, 3])
    """

    def __init__(self, floor: float = 1e-4) -> None:
        super().__init__()
        self.floor = positive(floor, "full_rank floor: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        size = super().build(event_shape)
        return size * (size + 3) // 2

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        size = self.event_shape.numel()
        loc, raw_scale, raw_lower = params.split([size, size, size * (size - 1) // 2], -1)
        return dist.MultivariateNormal(loc, scale_tril=cholesky(to_scale(raw_scale, self.floor), raw_lower))
