"""Power spherical posterior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae import distributions
from pyrovae.distributions import positive, sphere, to_scale
from pyrovae.piece import Piece


class PowerSpherical(Piece):
    r"""Power spherical posterior on the unit sphere :math:`q(z \mid x) \propto (1 + \mu(x)^\top z)^{\kappa(x)}`.

    For directions: codes without a centre, with the prior ``"hyperspherical"`` or ``"power_spherical"``. De Cao & Aziz
    (2020), https://arxiv.org/abs/2006.04437.

    Args:
        floor: the least concentration; at 0 the distribution is uniform.

    Raises:
        ValueError: when the VAE is built, if latent_dim is below 2.

    >>> posterior = PowerSpherical()
    >>> posterior.build((3,))
    4
    >>> posterior(torch.zeros(5, 4)).mode[0]
    tensor([1., 0., 0.])
    """

    support = sphere

    def __init__(self, floor: float = 1e-3) -> None:
        super().__init__()
        self.floor = positive(floor, "power_spherical floor: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        size = super().build(event_shape)
        if size < 2:
            raise ValueError(f"power_spherical: expected latent_dim of at least 2, got {size}")
        return size + 1

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        raw_loc, raw_concentration = params[..., :-1], params[..., -1]
        # Zeros have no direction: they get one, without a gradient.
        first = torch.zeros_like(raw_loc)
        first[..., 0] = 1
        loc = torch.where(raw_loc.abs().amax(-1, keepdim=True) > 1e-6, raw_loc, first)
        return distributions.PowerSpherical(F.normalize(loc, dim=-1), to_scale(raw_concentration, self.floor))
