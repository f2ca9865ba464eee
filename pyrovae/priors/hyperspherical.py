"""Uniform prior on the sphere."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.distributions import HypersphericalUniform, sphere
from pyrovae.priors.unconditional import Unconditional


class Hyperspherical(Unconditional):
    r"""Uniform prior on the unit sphere: :math:`p(z) = \Gamma(D/2) / (2 \pi^{D/2}), \; |z| = 1`.

    For data with directions and no centre, such as cyclic data; unlike N(0, I) it draws no code towards an origin.
    With the posterior ``"power_spherical"``. The hyperspherical VAE (Davidson et al. 2018,
    https://arxiv.org/abs/1804.00891). The sphere has D - 1 dimensions: one fewer than the latent vector has elements.

    Raises:
        ValueError: when built, for a latent_dim of 1.

    >>> prior = Hyperspherical()
    >>> prior.build((2,))
    0
    >>> prior(None).log_prob(torch.tensor([0.0, 1.0]))  # -log(2 pi)
    tensor(-1.8379)
    """

    support = sphere

    def __init__(self) -> None:
        super().__init__()

    def build(self, event_shape: Sequence[int]) -> int:
        self.at_least_two(event_shape[-1])
        # It holds no number: it knows dtype and device.
        self.hold("origin", torch.zeros(()), False)
        return super().build(event_shape)

    def forward(self, params: Tensor | None = None) -> dist.TorchDistribution:
        return HypersphericalUniform(self.event_shape[-1], like=self.origin)
