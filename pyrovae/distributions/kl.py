"""Closed-form KL divergences that torch and Pyro lack, between posteriors and priors of this library.

``TraceMeanField_ELBO`` finds them by ``torch.distributions.kl_divergence``, and takes draws where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    Dirichlet,
    Distribution,
    ExpTransform,
    Gamma,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    StickBreakingTransform,
    StudentT,
    Transform,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions.kl import register_kl

from pyrovae.distributions.logistic_normal import LogisticNormal


@register_kl(StudentT, Normal)
def _student_t_normal(p: StudentT, q: Normal) -> Tensor:
    # Infinite where p has no variance, which torch gives as inf or NaN.
    square = torch.where(p.df > 2, p.variance, torch.inf) + (p.loc - q.loc).square()
    return _cross_entropy(square, q) - p.entropy()


@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
def _correlated_independent(p: MultivariateNormal | LowRankMultivariateNormal, q: Independent) -> Tensor:
    """With q independent, the sum of the KLs of the elements and the total correlation of p."""
    if q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    return kl_divergence(_marginals(p), q.base_dist).sum(-1) + _total_correlation(p)


@register_kl(TransformedDistribution, Independent)
def _exp_normal_gamma(p: TransformedDistribution, q: Independent) -> Tensor:
    """Normals through exp, as a posterior over real vectors is carried to positive numbers, to a gamma prior."""
    base, gamma = p.base_dist, q.base_dist
    vectors = q.reinterpreted_batch_ndims == 1 == len(p.event_shape)
    if not (_is(p, ExpTransform) and isinstance(gamma, Gamma) and vectors):
        raise NotImplementedError
    normal, a, b = _marginals(base), gamma.concentration, gamma.rate
    log_gamma = a * b.log() - torch.lgamma(a) + (a - 1) * normal.loc - b * (normal.loc + normal.variance / 2).exp()
    return (-normal.entropy() - normal.loc - log_gamma).sum(-1) + _total_correlation(base)


@register_kl(TransformedDistribution, LogisticNormal)
def _stick_breaking_logistic_normal(p: TransformedDistribution, q: LogisticNormal) -> Tensor:
    """The same bijection on both sides leaves the KL of what went in."""
    if not _is(p, StickBreakingTransform):
        raise NotImplementedError
    return kl_divergence(p.base_dist, q.base_dist)


@register_kl(Dirichlet, LogisticNormal)
def _dirichlet_logistic_normal(p: Dirichlet, q: LogisticNormal) -> Tensor:
    """Both break a stick at independent fractions v: those of a Dirichlet are beta variables."""
    alpha = p.concentration
    a, b = alpha[..., :-1], alpha.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    left = torch.arange(b.shape[-1], 0, -1, dtype=b.dtype, device=b.device)
    loc = torch.digamma(a) - torch.digamma(b) + left.log()
    variance = torch.polygamma(1, a) + torch.polygamma(1, b)
    total = torch.digamma(a + b)
    log_jacobian = torch.digamma(a) - total + left * (torch.digamma(b) - total)
    normal = q.base_dist.base_dist
    cross_entropy = _cross_entropy(variance + (loc - normal.loc).square(), normal) + log_jacobian
    return cross_entropy.sum(-1) - p.entropy()


def _cross_entropy(square: Tensor, q: Normal) -> Tensor:
    """-E[log q] where E[(x - q.loc)^2] is ``square``."""
    return q.entropy() + (square / q.variance - 1) / 2


def _marginals(p: Distribution) -> Normal:
    """The distributions of the elements of a normal vector."""
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        return p.base_dist
    if isinstance(p, MultivariateNormal | LowRankMultivariateNormal):
        return Normal(p.mean, p.stddev)
    raise NotImplementedError


def _total_correlation(p: Distribution) -> Tensor:
    """The KL of a normal vector from the product of its marginals."""
    return _marginals(p).entropy().sum(-1) - p.entropy()


def _is(p: TransformedDistribution, kind: type[Transform]) -> bool:
    """Whether p's only transform, but for those that change nothing, is of a kind."""
    steps = [step for step in _steps(p.transforms) if not _is_identity(step)]
    return len(steps) == 1 and isinstance(steps[0], kind)


def _steps(transforms: Sequence[Transform]) -> Iterator[Transform]:
    for transform in transforms:
        yield from _steps(transform.parts) if isinstance(transform, ComposeTransform) else [transform]


def _is_identity(transform: Transform) -> bool:
    # torch adds a lower bound of 0 to exp.
    if not isinstance(transform, AffineTransform):
        return False
    loc, scale = torch.as_tensor(transform.loc), torch.as_tensor(transform.scale)
    return bool((loc == 0).all() and (scale == 1).all())
