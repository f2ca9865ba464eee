"""Rows of a Gaussian process."""

from __future__ import annotations

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Independent, Normal, constraints
from torch.distributions.kl import register_kl


class GaussianProcess(TorchDistribution):
    r"""D independent Gaussian processes at B rows: :math:`z_{\cdot d} \sim \mathcal{N}(0, K)`, :math:`K = L L^\top`.

    The rows are a batch, so that they can stand in a plate, and yet depend on one another: the log-density of a row is
    that given the rows before it,

    .. math:: \log p(z_n \mid z_{<n}) = \sum_d \log \mathcal{N}\big((L^{-1} z)_{nd}; 0, 1\big) - D \log L_{nn}

    so that their sum is the joint log-density (Rasmussen & Williams 2006, https://gaussianprocess.org/gpml/). A single
    row's has a meaning only in that order. More dimensions in front, by `expand`, are independent copies.

    Args:
        scale_tril: L, of shape ``(..., B, B)``. It may have more digits than ``dtype``.
        columns: D.
        dtype: of the values; None for that of L.

    >>> GaussianProcess(torch.eye(3), columns=2).log_prob(torch.zeros(3, 2))  # -log(2 pi) each
    tensor([-1.8379, -1.8379, -1.8379])
    """

    arg_constraints = {"scale_tril": constraints.lower_cholesky}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, scale_tril: Tensor, columns: int, dtype: torch.dtype | None = None, validate_args: bool | None = None
    ) -> None:
        self.scale_tril, self.dtype = scale_tril, dtype or scale_tril.dtype
        super().__init__(scale_tril.shape[:-1], Size([columns]), validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: GaussianProcess | None = None) -> GaussianProcess:
        batch_shape = Size(batch_shape)
        if batch_shape[-1:] != self.batch_shape[-1:]:
            raise ValueError(
                f"a Gaussian process at {self.batch_shape[-1]} rows: expected a batch shape that ends in "
                f"{self.batch_shape[-1]}, got {tuple(batch_shape)}. Its rows depend on one another, so that neither "
                "some of them nor repetitions can be had: make it at other rows."
            )
        new = self._get_checked_instance(GaussianProcess, _instance)
        new.scale_tril, new.dtype = self.scale_tril, self.dtype
        super(GaussianProcess, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Size | tuple[int, ...] = ()) -> Tensor:
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.dtype, device=self.scale_tril.device)
        return (self.scale_tril @ noise.to(self.scale_tril)).to(self.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        white = torch.linalg.solve_triangular(self.scale_tril, value.to(self.scale_tril), upper=False)
        return self._density(white.square())

    def expected_log_prob(self, loc: Tensor, scale: Tensor) -> Tensor:
        """E[log_prob(z)] where z has independent elements of mean ``loc`` and standard deviation ``scale``."""
        loc, variance = loc.to(self.scale_tril), scale.to(self.scale_tril).square()
        white = torch.linalg.solve_triangular(self.scale_tril, loc, upper=False)
        eye = torch.eye(self.batch_shape[-1]).to(self.scale_tril)
        inverse = torch.linalg.solve_triangular(self.scale_tril, eye, upper=False)
        return self._density(white.square() + inverse.square() @ variance)

    def _density(self, squares: Tensor) -> Tensor:
        diagonal = self.scale_tril.diagonal(dim1=-2, dim2=-1)
        (columns,) = self.event_shape
        result = -0.5 * squares.sum(-1) - columns * (diagonal.log() + 0.5 * math.log(2 * math.pi))
        return result.to(self.dtype).expand(torch.broadcast_shapes(result.shape, self.batch_shape))

    @property
    def mean(self) -> Tensor:
        return self.scale_tril.new_zeros((), dtype=self.dtype).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        variance = self.scale_tril.square().sum(-1, keepdim=True).to(self.dtype)
        return variance.expand(self._extended_shape())


class InducedGaussianProcess(TorchDistribution):
    r"""The same rows as an inducing-point approximation sees them in training: a bound in place of the log-density.

    With row n's mean :math:`m_n` and variance :math:`v_n` from q(u), its variance :math:`\tilde k_n` given u, and
    noise :math:`\sigma^2`,

    .. math::
        \mathrm{log\_prob}(z_n) = \log \mathcal{N}(z_n; m_n, \sigma^2) - \frac{D}{2} \log(1 + \tilde k_n / \sigma^2)
        - \frac{1}{2 \sigma^2} \sum_d v_{nd} - \frac1N \mathrm{KL}(q(u) \,\|\, p(u))

    The sum over all N rows is at most their joint log-density, so that a sum over a batch, times N/B, is an unbiased
    estimate of a bound: the stochastic bound of Hensman, Fusi & Lawrence (2013), https://arxiv.org/abs/1309.6835, with
    Titsias's (2025), https://arxiv.org/abs/2502.08730, tighter second term. A single row's may exceed its log-density.
    Draws, mean and variance are those of the row by itself, N(m, v + k~ + s^2).

    Args:
        loc: m, ``(..., B, D)``.
        explained: v, ``(..., B, D)``.
        residual: k~, ``(..., B)``.
        noise: s^2, a number above 0.
        penalty: KL / N, a number.
    """

    arg_constraints = {"loc": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        explained: Tensor,
        residual: Tensor,
        noise: Tensor,
        penalty: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.explained, self.residual, self.noise, self.penalty = loc, explained, residual, noise, penalty
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: InducedGaussianProcess | None = None) -> InducedGaussianProcess:
        batch_shape = Size(batch_shape)
        new = self._get_checked_instance(InducedGaussianProcess, _instance)
        new.loc, new.explained = (t.expand(batch_shape + self.event_shape) for t in (self.loc, self.explained))
        new.residual, new.noise, new.penalty = self.residual.expand(batch_shape), self.noise, self.penalty
        super(InducedGaussianProcess, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Size | tuple[int, ...] = ()) -> Tensor:
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.variance.sqrt() * noise

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.expected_log_prob(value, torch.zeros_like(self.loc))

    def expected_log_prob(self, loc: Tensor, scale: Tensor) -> Tensor:
        """E[log_prob(z)] where z has independent elements of mean ``loc`` and standard deviation ``scale``."""
        squares = (loc - self.loc).square() + scale.square() + self.explained
        logs = torch.log(2 * math.pi * self.noise) + torch.log1p(self.residual / self.noise)
        return -0.5 * (squares / self.noise + logs[..., None]).sum(-1) - self.penalty

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.explained + self.residual[..., None] + self.noise


@register_kl(Independent, GaussianProcess)
@register_kl(Independent, InducedGaussianProcess)
def _kl(q: Independent, p: GaussianProcess | InducedGaussianProcess) -> Tensor:
    """Row by row; of the second, an upper bound in sum."""
    if not isinstance(q.base_dist, Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    return -q.entropy() - p.expected_log_prob(q.base_dist.loc, q.base_dist.scale)
