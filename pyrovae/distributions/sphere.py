"""The unit sphere and the uniform distribution on it."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks import count

TOLERANCE = 1e-4
"""How far from 1 a norm may be: ten roundings of a vector of a million elements in float32."""


class _Sphere(constraints.Constraint):
    """Vectors of norm 1."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (torch.linalg.vector_norm(value, dim=-1) - 1).abs() < TOLERANCE


sphere = _Sphere()


class HypersphericalUniform(dist.TorchDistribution):
    r"""Uniform distribution on the unit sphere in D dimensions: :math:`p(x) = \Gamma(D/2) / (2 \pi^{D/2})`.

    The prior of a hyperspherical VAE, Davidson, Falorsi, De Cao, Kipf & Tomczak (2018), https://arxiv.org/abs/1804.00891.

    Args:
        dim: D, at least 2.
        like: a tensor whose dtype and device draws shall have.

    >>> HypersphericalUniform(2).log_prob(torch.tensor([1.0, 0.0]))  # -log(2 pi)
    tensor(-1.8379)
    """

    arg_constraints = {}
    support = sphere
    has_rsample = True

    def __init__(self, dim: int, like: Tensor | None = None, validate_args: bool | None = None) -> None:
        dim = count(dim, "hyperspherical uniform dim", 2)
        # The mean, and what knows dtype and device.
        self.origin = (torch.empty(()) if like is None else like).new_zeros(dim)
        super().__init__(torch.Size(), torch.Size([dim]), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: HypersphericalUniform | None = None) -> HypersphericalUniform:
        new = self._get_checked_instance(HypersphericalUniform, _instance)
        new.origin = self.origin
        super(HypersphericalUniform, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        return F.normalize(torch.randn_like(self.origin.expand(self._extended_shape(sample_shape))), dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return value.new_full(shape, -self.log_area)

    @property
    def log_area(self) -> float:
        r""":math:`\log (2 \pi^{D/2} / \Gamma(D/2))`."""
        half = self.event_shape[0] / 2
        return math.log(2) + half * math.log(math.pi) - math.lgamma(half)

    def entropy(self) -> Tensor:
        return self.origin.new_full(self.batch_shape, self.log_area)

    @property
    def mean(self) -> Tensor:
        return self.origin.expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.mean, 1 / self.event_shape[0])
