"""Mixture-of-normals prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae import distributions
from pyrovae.checks import count
from pyrovae.distributions import cholesky
from pyrovae.priors.unconditional import Unconditional
from pyrovae.registry import choose

COVARIANCES = ("diagonal", "full", "tied")
SPREAD = 0.5


class Mixture(Unconditional):
    r"""Learned mixture of normals, for clusters: :math:`p(z) = \sum_{k=1}^K \pi_k \mathcal{N}(z; \mu_k, \Sigma_k)`.

    For data that fall into clusters, and for a prior that can take the shape of the aggregate posterior: variational
    deep embedding (Jiang et al. 2017, https://arxiv.org/abs/1611.05148) and GMVAE (Dilokthanakul et al. 2016,
    https://arxiv.org/abs/1611.02648), with the component summed out. Weights, means and covariances are all trained.
    It starts with means drawn from N(0, 0.25 I) and covariances 0.75 I, so that the whole is near N(0, I) and no two
    components are the same.

    Args:
        components: K.
        covariance: of each component ``"diagonal"`` or ``"full"``; or ``"tied"``, one full matrix for all.
        floor: the least scale, on the diagonal of each covariance's Cholesky factor.

    >>> prior = Mixture(components=3)
    >>> prior.build((2,))
    0
    >>> prior(None).log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        components: int = 10,
        covariance: Literal["diagonal", "full", "tied"] = "diagonal",
        floor: float = 1e-3,
    ) -> None:
        super().__init__(True, floor)
        self.components = count(components, "mixture components", 1)
        self.covariance = choose(covariance, COVARIANCES, "mixture covariance")

    def build(self, event_shape: Sequence[int]) -> int:
        (size,) = event_shape
        scale = torch.full((size,), math.sqrt(1 - SPREAD**2))
        self.hold("logits", torch.zeros(self.components), True)
        self.hold("loc", SPREAD * torch.randn(self.components, size), True)
        self.hold_positive("scale", scale if self.covariance == "tied" else scale.repeat(self.components, 1), True)
        if self.covariance != "diagonal":
            self.hold("raw_lower", torch.zeros(*self.raw_scale.shape[:-1], size * (size - 1) // 2), True)
        return super().build(event_shape)

    def forward(self, params: Tensor | None = None) -> dist.TorchDistribution:
        scale = self.positive_value("scale")
        if self.covariance == "diagonal":
            component = dist.Normal(self.loc, scale).to_event(1)
        else:
            component = dist.MultivariateNormal(self.loc, scale_tril=cholesky(scale, self.raw_lower))
        return distributions.Mixture(dist.Categorical(logits=self.logits), component)
