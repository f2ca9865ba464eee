"""A value of a distribution as a function of the distribution's parameters, at the noise that it would be made of."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor
from torch.distributions import (
    Cauchy,
    Distribution,
    Gamma,
    Gumbel,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
)


@singledispatch
def pathwise(p: Distribution, z: Tensor) -> Tensor:
    r"""z again, with the gradient :math:`\partial_\lambda T(\epsilon; \lambda)` by the parameters of ``p``, where
    :math:`T(\epsilon; \lambda) = z` makes a draw of ``p`` from noise.

    For location-scale families that is :math:`\partial\mu + \epsilon \, \partial\sigma`; for another distribution of
    one dimension, by its distribution function F, :math:`-\partial_\lambda F(z; \lambda) / p(z)` (implicit
    reparameterisation: Figurnov, Mohamed and Mnih 2018, https://arxiv.org/abs/1805.08498); products and transforms are
    taken apart.

    Raises:
        ValueError: for a distribution of which none of that is known, such as a mixture of vectors.

    >>> scale = torch.tensor(2.0, requires_grad=True)
    >>> torch.autograd.grad(pathwise(Normal(0.0, scale), torch.tensor(3.0)), scale)
    (tensor(1.5000),)
    """
    try:
        if p.event_shape:
            raise NotImplementedError
        cdf = p.cdf(z.detach())
    except NotImplementedError:
        raise ValueError(
            f"expected a distribution that says how it makes its draws of noise (a location-scale family, one with a "
            f"distribution function, a product or a transform of them), got {type(p).__name__}"
        ) from None
    return z.detach() - (cdf - cdf.detach()) / p.log_prob(z.detach()).exp().detach()


@pathwise.register(Normal)
@pathwise.register(Laplace)
@pathwise.register(Cauchy)
@pathwise.register(Gumbel)
def _location_scale(p: Distribution, z: Tensor) -> Tensor:
    return p.loc + p.scale * ((z - p.loc) / p.scale).detach()


@pathwise.register
def _student_t(p: StudentT, z: Tensor) -> Tensor:
    if p.df.requires_grad:
        raise ValueError("expected a Student t with fixed degrees of freedom: its distribution function is not known")
    return _location_scale(p, z)


@pathwise.register
def _gamma(p: Gamma, z: Tensor) -> Tensor:
    standard = (z * p.rate).detach()
    slope = torch._standard_gamma_grad(p.concentration.detach().expand_as(standard), standard)
    return (standard + slope * (p.concentration - p.concentration.detach())) / p.rate


@pathwise.register
def _multivariate_normal(p: MultivariateNormal, z: Tensor) -> Tensor:
    noise = torch.linalg.solve_triangular(p.scale_tril, (z - p.loc).unsqueeze(-1), upper=False).detach()
    return p.loc + (p.scale_tril @ noise).squeeze(-1)


@pathwise.register
def _independent(p: Independent, z: Tensor) -> Tensor:
    return pathwise(p.base_dist, z)


@pathwise.register
def _transformed(p: TransformedDistribution, z: Tensor) -> Tensor:
    z = z.detach()
    for transform in reversed(p.transforms):
        z = transform.inv(z)
    z = pathwise(p.base_dist, z.detach())
    for transform in p.transforms:
        z = transform(z)
    return z
