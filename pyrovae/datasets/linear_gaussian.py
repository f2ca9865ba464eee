"""A model with exact answers, for tests: every bound and every gradient can be held against it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.seeds import generator
from pyrovae.datasets.splits import split


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    r"""Probabilistic PCA, :math:`z \sim N(0, I_k)`, :math:`x \mid z \sim N(W z + b, s^2 I_d)`.

    Marginally :math:`x \sim N(b, W W^\top + s^2 I)`. Every answer costs one :math:`k \times k` Cholesky
    factor, never a :math:`d \times d` one. All densities are in nats; N is the number of rows.

    Reference: Tipping and Bishop, 1999, https://doi.org/10.1111/1467-9868.00196

    Attributes:
        weight: :math:`W`, shape ``(d, k)``.
        bias: :math:`b`, shape ``(d,)``.
        scale: :math:`s > 0`, shape ``()``.

    >>> model = LinearGaussian.random(10, 3, seed=0)
    >>> x = model.sample(5, seed=0)
    >>> bool((model.elbo(x, *model.posterior(x)) - model.log_prob(x)).abs().max() < 1e-10)
    True
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1] or self.scale.ndim != 0:
            raise ValueError(
                "expected weight (d, k), bias (d,) and scale (), got "
                f"{tuple(self.weight.shape)}, {tuple(self.bias.shape)} and {tuple(self.scale.shape)}"
            )
        if not self.scale > 0:
            raise ValueError(f"scale: expected a number above 0, got {self.scale.item():g}")

    @classmethod
    def random(
        cls,
        d: int,
        k: int,
        *,
        scale: float = 0.5,
        seed: int = 0,
        orthogonal: bool = True,
        dtype: torch.dtype = torch.float64,
    ) -> LinearGaussian:
        """A model with random weight and bias.

        ``orthogonal`` columns (of lengths from 3 down to 1) give an exact posterior with diagonal covariance,
        which a mean-field Normal can match exactly; otherwise the elements of the weight are standard normal.

        Raises ValueError for k > d with ``orthogonal``.
        """
        if k < 1 or d < 1 or (orthogonal and k > d):
            raise ValueError(f"expected 1 <= k <= d for orthogonal columns (k >= 1 otherwise), got d={d}, k={k}")
        rng = generator(seed, "linear-Gaussian model")
        weight = torch.randn(d, k, generator=rng, dtype=torch.float64, device="cpu")
        bias = torch.randn(d, generator=rng, dtype=torch.float64, device="cpu")
        if orthogonal:
            weight = torch.linalg.qr(weight).Q * torch.linspace(3, 1, k, dtype=torch.float64, device="cpu")
        return cls(weight.to(dtype), bias.to(dtype), torch.tensor(scale, dtype=dtype, device="cpu"))

    @classmethod
    def maximum_likelihood(cls, x: Tensor, k: int) -> LinearGaussian:
        r"""The maximum-likelihood model of rows ``x``, shape ``(N, d)``, in float64.

        With eigenvalues :math:`l_1 \ge l_2 \ge \dots` and eigenvectors :math:`u_j` of the covariance
        (dividing by N): :math:`b = \bar x`, :math:`s^2 = \frac{1}{d-k} \sum_{j>k} l_j`,
        :math:`W = [u_j \sqrt{l_j - s^2}]_{j \le k}`. The log-likelihood of all rows is then

        .. math:: -\tfrac N2 \bigl[ d \ln 2\pi + \textstyle\sum_{j \le k} \ln l_j + (d - k) \ln s^2 + d \bigr].

        Raises ValueError unless 1 <= k < d, and where no variance is left outside the k components.
        """
        d = x.shape[1]
        if not 1 <= k < d:
            raise ValueError(f"k: expected 1 <= k < {d} (the number of columns), got {k}")
        x = x.double()
        bias = x.mean(0)
        values, vectors = torch.linalg.eigh((x - bias).T @ (x - bias) / len(x))
        variance = values[: d - k].mean()
        if variance <= d * torch.finfo(x.dtype).eps * values[-1]:
            raise ValueError(
                f"{k} components leave no variance in {len(x)} rows of {d} columns, so the likelihood has no maximum: "
                "expected a smaller k or more rows"
            )
        lengths = (values[d - k :] - variance).clamp_min(0).sqrt()
        return cls((vectors[:, d - k :] * lengths).flip(1), bias, variance.sqrt())

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` rows of data, shape ``(n, d)``."""
        rng = generator(seed, "linear-Gaussian sample")
        d, k = self.weight.shape
        z, noise = (torch.randn(n, m, generator=rng, dtype=torch.float64, device="cpu") for m in (k, d))
        return z.to(self.weight) @ self.weight.T + self.bias + self.scale * noise.to(self.weight)

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Exact :math:`\log p(x) = \log N(x; b, W W^\top + s^2 I)` of each row, shape ``(N,)``.

        By Woodbury's identity and the determinant lemma, with the posterior mean m and covariance
        :math:`\Sigma`,

        .. math::
            (x-b)^\top C^{-1} (x-b) = \lVert x - b - W m \rVert^2 / s^2 + \lVert m \rVert^2, \qquad
            \ln \lvert C \rvert = d \ln s^2 - \ln \lvert \Sigma \rvert.

        The quadratic form is a sum of squares, where the textbook difference loses all digits for small s.
        """
        d = len(self.bias)
        mean, _ = self.posterior(x)
        residual = (x - self.bias - mean @ self.weight.T) / self.scale
        quadratic = residual.square().sum(-1) + mean.square().sum(-1)
        log_det_precision = 2 * self._precision_factor().diagonal().log().sum()
        return -0.5 * (d * (2 * math.pi * self.scale**2).log() + log_det_precision + quadratic)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean ``(N, k)`` and covariance ``(k, k)`` of the exact :math:`p(z \mid x)`.

        :math:`\Sigma = (I + W^\top W / s^2)^{-1}`, :math:`m = \Sigma W^\top (x - b) / s^2`.
        """
        factor = self._precision_factor()
        mean = torch.cholesky_solve(self.weight.T @ (x - self.bias).T / self.scale**2, factor).T
        return mean, torch.cholesky_inverse(factor)

    def elbo(self, x: Tensor, loc: Tensor, covariance: Tensor) -> Tensor:
        r"""The exact bound :math:`E_q \log p(x \mid z) - KL(q \Vert p(z))` of each row, shape ``(N,)``.

        ``loc`` ``(N, k)`` and ``covariance`` ``(k, k)`` or ``(N, k, k)`` are those of any Gaussian q.
        """
        return self.reconstruction(x, loc, covariance) - self.kl(loc, covariance)

    def reconstruction(self, x: Tensor, loc: Tensor, covariance: Tensor) -> Tensor:
        r""":math:`E_q \log p(x \mid z)` of each row, shape ``(N,)``.

        .. math::
            -\tfrac d2 \ln(2 \pi s^2) - \tfrac{1}{2 s^2}
            \bigl[ \lVert x - b - W m \rVert^2 + \operatorname{tr}(W S W^\top) \bigr]
        """
        d = len(self.bias)
        residual = (x - self.bias - loc @ self.weight.T) / self.scale
        return -0.5 * (d * (2 * math.pi * self.scale**2).log() + residual.square().sum(-1) + self._spread(covariance))

    @staticmethod
    def kl(loc: Tensor, covariance: Tensor) -> Tensor:
        r"""Kullback-Leibler divergence from the prior of each row, shape ``(N,)``.

        .. math:: \tfrac12 \bigl[ \operatorname{tr} S + \lVert m \rVert^2 - k - \ln \lvert S \rvert \bigr]
        """
        trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        return 0.5 * (trace + loc.square().sum(-1) - loc.shape[-1] - torch.logdet(covariance))

    def grad(self, x: Tensor) -> dict[str, Tensor]:
        r"""The exact gradient of :math:`\sum_n \log p(x_n)` by ``weight``, ``bias`` and ``scale`` (s, not s squared).

        By Fisher's identity it is the posterior mean of the gradient of :math:`\log p(x_n, z)`. With
        :math:`r_n = x_n - b` and the posterior mean :math:`m_n` and covariance :math:`\Sigma`:

        .. math::
            \partial_W &= \tfrac{1}{s^2} \textstyle\sum_n \bigl[ (r_n - W m_n) m_n^\top - W \Sigma \bigr] \\
            \partial_b &= \tfrac{1}{s^2} \textstyle\sum_n (r_n - W m_n) \\
            \partial_s &= \textstyle\sum_n \bigl[ (\lVert r_n - W m_n \rVert^2
                          + \operatorname{tr}(W \Sigma W^\top)) / s^3 - d / s \bigr]
        """
        n, d = x.shape
        mean, covariance = self.posterior(x)
        residual = x - self.bias - mean @ self.weight.T
        spread = residual.square().sum() / self.scale**2 + n * self._spread(covariance)
        return {
            "weight": (residual.T @ mean - n * self.weight @ covariance) / self.scale**2,
            "bias": residual.sum(0) / self.scale**2,
            "scale": (spread - n * d) / self.scale,
        }

    def _precision_factor(self) -> Tensor:
        r"""The Cholesky factor of :math:`\Sigma^{-1} = I + W^\top W / s^2`."""
        weight = self.weight / self.scale
        identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        return torch.linalg.cholesky(identity + weight.T @ weight)

    def _spread(self, covariance: Tensor) -> Tensor:
        r""":math:`\operatorname{tr}(W S W^\top) / s^2`."""
        weight = self.weight / self.scale
        return (weight.T @ weight * covariance).sum((-2, -1))


def load(*, seed: int = 0) -> Dataset:
    """2,000 rows in 10 columns from ``LinearGaussian.random(10, 3, seed=seed)``, never standardized.

    Reference: Tipping and Bishop, 1999, https://doi.org/10.1111/1467-9868.00196

    So the exact log p(x) of the same rows is at hand:

    >>> data = load(seed=1)
    >>> LinearGaussian.random(10, 3, seed=1).log_prob(data.test).shape
    torch.Size([200])
    """
    x = LinearGaussian.random(10, 3, seed=seed).sample(2_000, seed=seed).float()
    parts = {part: x[rows] for part, (_, rows) in split({"train": len(x)}, seed, "linear_gaussian").items()}
    return Dataset("linear_gaussian", **parts, support=constraints.real)
