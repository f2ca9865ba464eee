"""The power spherical distribution."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from pyrovae.distributions.sphere import HypersphericalUniform, sphere


class PowerSpherical(dist.TorchDistribution):
    r"""Power spherical distribution on the unit sphere in D dimensions: :math:`p(x) \propto (1 + \mu^\top x)^\kappa`.

    .. math::
        \log p(x) = \kappa \log(1 + \mu^\top x) - (\alpha + \beta) \log 2 - \beta \log \pi
        + \log \Gamma(\alpha + \beta) - \log \Gamma(\alpha), \qquad
        \beta = \tfrac{D - 1}{2}, \; \alpha = \beta + \kappa

    In place of the von Mises-Fisher distribution: as peaked, but with an exact, reparameterised sampler without
    rejection and no Bessel functions. De Cao & Aziz (2020), https://arxiv.org/abs/2006.04437.

    Args:
        loc: the direction :math:`\mu`, unit vectors of shape ``(*batch_shape, D)`` with D of at least 2.
        concentration: :math:`\kappa \ge 0`, of shape ``batch_shape``; 0 is uniform.

    >>> PowerSpherical(torch.tensor([1.0, 0.0]), torch.tensor(0.0)).log_prob(torch.tensor([0.0, 1.0]))  # -log(2 pi)
    tensor(-1.8379)
    """

    arg_constraints = {"loc": sphere, "concentration": constraints.nonnegative}
    support = sphere
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        if loc.ndim < 1 or loc.shape[-1] < 2:
            raise ValueError(
                f"power spherical loc: expected unit vectors of 2 or more elements, got {tuple(loc.shape)}"
            )
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand(*batch_shape, -1)
        self.concentration = concentration.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: PowerSpherical | None = None) -> PowerSpherical:
        new = self._get_checked_instance(PowerSpherical, _instance)
        new.loc = self.loc.expand(*batch_shape, -1)
        new.concentration = self.concentration.expand(batch_shape)
        super(PowerSpherical, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        shape = self._extended_shape(sample_shape)
        loc = self.loc.expand(shape)
        alpha, beta = self._shapes()
        # A Dirichlet of two rather than a Beta: 1 - t keeps its digits where t is near 1.
        near, far = dist.Dirichlet(torch.stack([alpha, beta], -1), validate_args=False).rsample(sample_shape).unbind(-1)
        cosine, sine = near - far, 2 * (near * far).sqrt()
        tangent = F.normalize(torch.randn_like(loc[..., 1:]), dim=-1)
        y = torch.cat([cosine.unsqueeze(-1), sine.unsqueeze(-1) * tangent], -1)
        # The reflection of e1 into -mu, or into mu where those two are close: so its axis is never near zero.
        sign = torch.where(loc[..., :1] < 0, -torch.ones_like(loc[..., :1]), torch.ones_like(loc[..., :1]))
        axis = torch.cat([loc[..., :1] + sign, loc[..., 1:]], -1)
        reflected = y - axis * (2 * (axis * y).sum(-1, keepdim=True) / axis.square().sum(-1, keepdim=True))
        return -sign * reflected

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # |mu + x|^2 / 2 is 1 + mu.x without its cancellation where x is near -mu.
        closeness = (self.loc + value).square().sum(-1) / 2
        log_closeness = closeness.clamp_min(torch.finfo(closeness.dtype).tiny).log()
        return self.concentration * log_closeness + self._log_constant()

    def _shapes(self) -> tuple[Tensor, Tensor]:
        """The parameters of the Beta distribution of (1 + mu.x) / 2."""
        beta = torch.full_like(self.concentration, (self.event_shape[0] - 1) / 2)
        return beta + self.concentration, beta

    def _log_constant(self) -> Tensor:
        alpha, beta = self._shapes()
        total = alpha + beta
        return torch.lgamma(total) - torch.lgamma(alpha) - total * math.log(2) - beta * math.log(math.pi)

    def entropy(self) -> Tensor:
        r""":math:`-\log C - \kappa (\log 2 + \psi(\alpha) - \psi(\alpha + \beta))`."""
        alpha, beta = self._shapes()
        log_closeness = math.log(2) + torch.digamma(alpha) - torch.digamma(alpha + beta)
        return -self._log_constant() - self.concentration * log_closeness

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def mean(self) -> Tensor:
        r""":math:`\mu \, \kappa / (\kappa + D - 1)`, inside the sphere."""
        alpha, beta = self._shapes()
        return self.loc * (self.concentration / (alpha + beta)).unsqueeze(-1)

    @property
    def variance(self) -> Tensor:
        alpha, beta = (shape.unsqueeze(-1) for shape in self._shapes())
        total = alpha + beta
        along = 4 * alpha * beta / (total.square() * (total + 1))
        across = 2 * alpha / (total * (total + 1))  # E[1 - t^2] / (D - 1)
        return across + (along - across) * self.loc.square()


@register_kl(PowerSpherical, HypersphericalUniform)
def _kl(p: PowerSpherical, q: HypersphericalUniform) -> Tensor:
    return q.log_area - p.entropy()
