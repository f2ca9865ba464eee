"""Power spherical prior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae.distributions import PowerSpherical as _PowerSpherical
from pyrovae.distributions import positive, sphere
from pyrovae.priors.unconditional import Unconditional


class PowerSpherical(Unconditional):
    r"""Power spherical prior on the unit sphere: :math:`p(z) \propto (1 + \mu^\top z)^\kappa, \; |z| = 1`.

    Where codes are directions that gather around one; with the posterior ``"power_spherical"``. De Cao & Aziz (2020),
    https://arxiv.org/abs/2006.04437. A learned encoder and decoder can take up any rotation of the sphere: with
    them, the direction says nothing by itself, and the concentration does.

    Args:
        concentration: :math:`\kappa`, a positive number; towards 0 it is uniform.
        learned: train direction and concentration; otherwise the direction is that of the first axis.
        floor: the least concentration, where learned.

    Raises:
        ValueError: when built, for a latent_dim of 1.

    >>> prior = PowerSpherical()
    >>> prior.build((3,))
    0
    >>> prior(None).log_prob(torch.tensor([1.0, 0.0, 0.0]))  # -log(2 pi)
    tensor(-1.8379, grad_fn=<AddBackward0>)
    """

    support = sphere

    def __init__(self, concentration: float = 1.0, learned: bool = True, floor: float = 1e-3) -> None:
        super().__init__(learned, floor)
        self.concentration = positive(concentration, "power_spherical concentration: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        self.at_least_two(event_shape[-1])
        self.hold("direction", F.one_hot(torch.tensor(0), event_shape[-1]).to(torch.get_default_dtype()), self.learned)
        self.hold_positive("kappa", torch.tensor(self.concentration), self.learned)
        return super().build(event_shape)

    def forward(self, params: Tensor | None = None) -> dist.TorchDistribution:
        return _PowerSpherical(F.normalize(self.direction, dim=-1), self.positive_value("kappa"))
