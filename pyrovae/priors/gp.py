"""Gaussian-process prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.checks import count
from pyrovae.distributions import inverse_scale, positive, to_scale
from pyrovae.distributions.gp import GaussianProcess, InducedGaussianProcess
from pyrovae.priors.unconditional import Unconditional
from pyrovae.registry import choose


def _rbf(square: Tensor) -> Tensor:
    return torch.exp(-0.5 * square)


def _matern32(square: Tensor) -> Tensor:
    r = torch.sqrt(3 * square)
    return (1 + r) * torch.exp(-r)


def _matern52(square: Tensor) -> Tensor:
    r = torch.sqrt(5 * square)
    return (1 + r + r.square() / 3) * torch.exp(-r)


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"rbf": _rbf, "matern32": _matern32, "matern52": _matern52}
"""Correlation by the square of a distance, in lengthscales."""
LEAST_SCALE = 1e-3
"""The least diagonal element of q(u)'s Cholesky factor, in prior standard deviations."""


class GP(Unconditional):
    r"""Gaussian-process prior over the rows, by their conditions: :math:`z_{\cdot d} \sim \mathcal{GP}(0, k)`.

    .. math:: k(c_n, c_m) = (1 - \sigma^2)\, \kappa(c_n, c_m) + \sigma^2 [n = m]

    for each latent dimension by itself, where c is the row's condition (time, place, an angle) and :math:`\kappa` a
    stationary correlation with a lengthscale for each of its columns: each z_n by itself is N(0, I), and rows of near
    conditions have near codes (Casale et al. 2018, https://arxiv.org/abs/1810.11738).

    - ``inducing=None``: exact. The rows of a call are one draw, so that all rows must be in one batch; time grows with
      the cube of their number. The log-density of a row is that given the rows before it in the batch; only the sum
      has a meaning of its own. Rows to come know nothing of the training rows.
    - ``inducing=M``: sparse and variational (Titsias 2009, https://proceedings.mlr.press/v5/titsias09a.html; Hensman,
      Fusi & Lawrence 2013, https://arxiv.org/abs/1309.6835; in a VAE, Jazbec et al. 2021,
      https://arxiv.org/abs/2010.13472). M learned locations and a learned q(u) of the process there; minibatches
      will do. In training mode the rows' log-densities sum to a lower bound of the exact one (see
      `pyrovae.distributions.gp.InducedGaussianProcess`); in evaluation mode they are those of each row by itself under
      q(u), a density of independent rows, which is what the training rows say of a new row. Draws are of rows by
      themselves in both.

    Args:
        kernel: ``"rbf"``, ``"matern32"`` or ``"matern52"``.
        inducing: M, or None.
        lengthscale: where the lengthscales start, in units of the condition.
        noise: where :math:`\sigma^2` starts, the part of the variance that the condition does not explain, in (0, 1).
        jitter: the least noise, and what is added to the diagonal of the inducing points' correlations.
        learned: train lengthscales and noise; locations and q(u) are always trained.

    Raises:
        ValueError: for an unknown kernel, an argument out of bounds, or without a condition.

    >>> import pyrovae
    >>> vae = pyrovae.VAE((4,), 2, likelihood="gaussian", prior=GP(), condition_dim=1)
    >>> vae.prior(condition=torch.zeros(5, 1)).event_shape
    torch.Size([2])
    """

    contextual = True

    def __init__(
        self,
        kernel: Literal["rbf", "matern32", "matern52"] = "rbf",
        inducing: int | None = None,
        lengthscale: float = 1.0,
        noise: float = 0.1,
        jitter: float = 1e-6,
        learned: bool = True,
    ) -> None:
        super().__init__(learned, floor=1e-3 * positive(lengthscale, "gp lengthscale: expected"))
        self.lengthscale = lengthscale
        self.kernel = choose(kernel, KERNELS, "gp kernel")
        self.inducing = inducing if inducing is None else count(inducing, "gp inducing", 1)
        self.joint = inducing is None
        self.jitter = positive(jitter, "gp jitter: expected")
        self.noise = positive(noise, "gp noise: expected")
        if not jitter < noise < 1 - jitter:
            raise ValueError(f"gp noise: expected a part of 1 between the jitter and 1 less that, got {noise!r}")

    def build(self, event_shape: Sequence[int]) -> int:
        if len(event_shape) != 1:
            raise ValueError(f"gp: expected a latent vector of shape (D,), got {tuple(event_shape)}")
        return super().build(event_shape)

    def bind(self, vae: Any) -> None:  # noqa: ANN401 - the VAE lies below this in the order of imports
        if not vae.condition_dim:
            raise ValueError("gp: expected a VAE with a condition, by which rows are near, got condition_dim=0")
        self.start(vae.condition_dim)
        self.to(vae.like)

    def start(self, condition_dim: int) -> None:
        """Make the parameters, for conditions of this length; a VAE does so."""
        self.hold_positive("lengthscales", torch.full((condition_dim,), float(self.lengthscale)), self.learned)
        part = (self.noise - self.jitter) / (1 - 2 * self.jitter)
        self.hold("raw_noise", torch.tensor(math.log(part / (1 - part))), self.learned)
        if self.inducing is not None:
            places = torch.linspace(-2, 2, self.inducing)[:, None].expand(-1, condition_dim)
            self.locations = nn.Parameter(self.lengthscale * places.clone())
            self.loc = nn.Parameter(torch.zeros(*self.event_shape, self.inducing))
            self.raw_scale = nn.Parameter(inverse_scale(torch.ones(self.loc.shape), LEAST_SCALE))
            self.raw_lower = nn.Parameter(torch.zeros(*self.loc.shape, self.inducing))
            self.register_buffer("started", torch.tensor(False))
            self.register_buffer("rows", torch.tensor(0))

    def forward(
        self, params: Tensor | None = None, inputs: Tensor | None = None, condition: Tensor | None = None
    ) -> dist.TorchDistribution:
        if condition is None or condition.ndim < 2:
            got = None if condition is None else tuple(condition.shape)
            raise ValueError(f"gp: expected a condition of shape (B, C), by which rows are near, got {got}")
        if not hasattr(self, "raw_noise"):
            raise ValueError("gp: expected to be the prior of a VAE before it is used, got no VAE")
        rows = condition.shape[:-1]
        while condition.ndim > 2 and condition.stride(0) == 0:
            # The same rows for each particle: one factorisation does for all.
            condition = condition[0]
        result = self._exact(condition) if self.inducing is None else self._sparse(condition)
        return result if result.batch_shape == rows else result.expand(rows)

    def _exact(self, condition: Tensor) -> GaussianProcess:
        noise = self.noise_value()
        matrix = (1 - noise) * self.correlation(condition, condition) + noise * _eye(condition.shape[-2], noise)
        return GaussianProcess(torch.linalg.cholesky(matrix), self.event_shape.numel(), self.raw_noise.dtype)

    def _sparse(self, condition: Tensor) -> dist.TorchDistribution:
        noise, scale_tril = self.noise_value(), self.scale_tril()
        matrix = self.correlation(self.locations, self.locations) + self.jitter * _eye(self.inducing, noise)
        factor = torch.linalg.cholesky(matrix)
        weights = torch.linalg.solve_triangular(factor, self.correlation(self.locations, condition), upper=False)
        residual = (1 - noise) * (1 - weights.square().sum(-2)).clamp_min(0)
        loc = (1 - noise).sqrt() * (self.loc.double() @ weights).mT
        explained = (1 - noise) * (scale_tril.mT @ weights[..., None, :, :]).square().sum(-2).mT
        kl = 0.5 * (scale_tril.square().sum() + self.loc.double().square().sum() - self.loc.numel())
        kl = kl - scale_tril.diagonal(dim1=-2, dim2=-1).log().sum()
        rows = torch.where(self.rows > 0, self.rows, condition.shape[-2])
        parts = [part.to(self.loc) for part in (loc, explained, residual, noise, kl / rows)]
        induced = InducedGaussianProcess(*parts)
        return induced if self.training else dist.Normal(induced.mean, induced.stddev).to_event(1)

    # All that leads to a factorisation is in float64: rows that nearly agree make matrices that float32 cannot factor.

    def noise_value(self) -> Tensor:
        """The noise, between the jitter and 1 less the jitter, in float64."""
        return self.jitter + (1 - 2 * self.jitter) * torch.sigmoid(self.raw_noise.double())

    def scale_tril(self) -> Tensor:
        """The Cholesky factors of q(u), ``(D, M, M)``, in float64."""
        return torch.diag_embed(to_scale(self.raw_scale, LEAST_SCALE).double()) + self.raw_lower.double().tril(-1)

    def correlation(self, a: Tensor, b: Tensor) -> Tensor:
        """Correlations of conditions ``(..., B, C)`` and ``(..., M, C)``, without noise: ``(..., B, M)``, float64."""
        lengthscales = self.positive_value("lengthscales").double()
        # From their mean, where differences of large numbers keep their digits.
        origin = a.double().mean(-2, keepdim=True)
        a, b = ((rows.double() - origin) / lengthscales for rows in (a, b))
        square = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2 * a @ b.mT
        # Above 0, where a square root has a slope.
        return KERNELS[self.kernel](square.clamp_min(1e-24))

    @torch.no_grad()
    def initial(self, x: Tensor, condition: Tensor | None = None) -> None:
        """Count the training rows; the first time, spread the inducing points over their conditions."""
        if self.inducing is None or condition is None:
            return
        self.count_rows(len(condition))
        if not self.started:
            self.locations.copy_(_spread(condition, self.inducing))
            self.started.fill_(True)

    def count_rows(self, rows: int) -> None:
        """Take it that training has so many rows, each of which bears its share of the KL of the inducing points."""
        if self.inducing is not None:
            self.rows.fill_(rows)


def _eye(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _spread(rows: Tensor, size: int) -> Tensor:
    """``size`` of the rows: that nearest to their mean, then each time that farthest from those chosen."""
    chosen = [(rows - rows.mean(0)).square().sum(-1).argmin()]
    distance = rows.new_full((len(rows),), math.inf)
    while len(chosen) < size:
        distance = torch.minimum(distance, (rows - rows[chosen[-1]]).square().sum(-1))
        chosen.append(distance.argmax())
    return rows[torch.stack(chosen)]
