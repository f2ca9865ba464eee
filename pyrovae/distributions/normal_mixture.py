"""A mixture of diagonal normals whose draws have gradients."""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints


class NormalMixture(dist.MixtureSameFamily):
    r"""Mixture of K diagonal normals in D dimensions, reparameterised.

    .. math::
        p(z) = \sum_{k=1}^K \pi_k \, \mathcal{N}(z; \mu_k, \operatorname{diag} \sigma_k^2)

    Draws have gradients for locations, scales and weights alike, by the conditional distribution functions
    :math:`u_d = F_d(z_d \mid z_{<d})`: with u held, :math:`\nabla_\theta z = -(\partial F / \partial z)^{-1}
    \nabla_\theta F`. Graves (2016), https://arxiv.org/abs/1607.05690; Figurnov, Mohamed & Mnih (2018),
    https://arxiv.org/abs/1805.08498. ``pyro.distributions.MixtureOfDiagNormals`` gives NaN for the weights where two
    locations are equal, is biased for them where scales differ, and does not draw from a batch.

    Args:
        logits: unnormalised log-weights, of shape ``(*batch_shape, K)``.
        loc: locations, of shape ``(*batch_shape, K, D)``.
        scale: scales, of shape ``(*batch_shape, K, D)``.

    >>> p = NormalMixture(torch.zeros(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1))
    >>> p.mean, p.variance
    (tensor([0.]), tensor([2.]))
    """

    has_rsample = True
    support = constraints.real_vector

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        weights = dist.Categorical(logits=logits, validate_args=validate_args)
        components = dist.Independent(dist.Normal(loc, scale, validate_args=validate_args), 1)
        super().__init__(weights, components, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: NormalMixture | None = None) -> NormalMixture:
        new = self._get_checked_instance(NormalMixture, _instance)
        return super().expand(batch_shape, _instance=new)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        z = self.sample(sample_shape)
        if not torch.is_grad_enabled():
            return z
        normal = self.component_distribution.base_dist
        standard = (z.unsqueeze(-2) - normal.loc) / normal.scale  # (..., K, D)
        log_density = -0.5 * standard.square() - normal.scale.log()
        # The weights of the components given z_1 .. z_{d-1}: (..., K, D).
        earlier = F.pad(log_density[..., :-1].cumsum(-1), (1, 0))
        weights = torch.softmax(self.mixture_distribution.logits.unsqueeze(-1) + earlier, -2)
        # Above the median, F - 1 in the place of F: the same derivatives, without loss of digits in the upper tail.
        above = (weights * _cdf(standard)).sum(-2, keepdim=True) > 0.5
        sign = torch.where(above, -torch.ones_like(standard), torch.ones_like(standard))
        each = sign * _cdf(sign * standard)
        cdf = (weights * each).sum(-2)  # (..., D)
        with torch.no_grad():
            density = torch.exp(log_density) * (0.5 / torch.pi) ** 0.5
            score = -standard / normal.scale
            jacobian = torch.einsum("...kd,...kj->...dj", weights * (each - cdf.unsqueeze(-2)), score).tril(-1)
            jacobian = jacobian + torch.diag_embed((weights * density).sum(-2))
        # Zero in value: it carries the gradient alone.
        change = torch.linalg.solve_triangular(jacobian, (cdf - cdf.detach()).unsqueeze(-1), upper=False)
        return z - change.squeeze(-1)


def _cdf(standard: Tensor) -> Tensor:
    # torch.special.ndtr is 0 in float32 from -5.5 down.
    return 0.5 * torch.erfc(-standard * 0.5**0.5)
