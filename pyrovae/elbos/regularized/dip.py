"""Disentangled inferred prior: DIP-VAE."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from pyrovae.elbos.regularized.latent import Latent
from pyrovae.elbos.regularized.regularized import Regularized, amount
from pyrovae.registry import choose

KINDS = ("i", "ii")


@dataclass(eq=False)
class DIP(Regularized):
    r"""DIP-VAE: ELBO less the distance of a covariance of the aggregate posterior from the identity,

    .. math:: \mathrm{ELBO} - \lambda_d \sum_i (C_{ii} - 1)^2 - \lambda_{od} \sum_{i \ne j} C_{ij}^2, \qquad
        C = \begin{cases} \operatorname{Cov}_n[\mu(x_n)] & \text{i} \\
        \operatorname{Cov}_n[\mu(x_n)] + \mathrm{E}_n[\operatorname{diag} \sigma^2(x_n)] & \text{ii,} \end{cases}

    for latents that are uncorrelated over the data, without a second network or sums over pairs of rows. The posterior
    must be a product over d, with means and variances :math:`\mu, \sigma^2`. Below the ELBO always. Each batch needs
    two rows or more, and many more than D to be of use.

    Reference: Kumar, Sattigeri and Balakrishnan, 2018, https://arxiv.org/abs/1711.00848

    Args:
        kind: "i", the covariance of posterior means, or "ii", that of z.
        diagonal: :math:`\lambda_d`.
        off_diagonal: :math:`\lambda_{od}`.
    """

    kind: Literal["i", "ii"] = field(default="i", kw_only=True)
    diagonal: float = field(default=10.0, kw_only=True)
    off_diagonal: float = field(default=5.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self.kind, KINDS, "kind")
        amount(self.diagonal, "diagonal")
        amount(self.off_diagonal, "off_diagonal")

    def penalty(self, latent: Latent) -> Tensor:
        latent.at_least(2)
        mean, variance = latent.moments
        covariance = self.covariance(mean, variance)
        variances = covariance.diagonal(dim1=-2, dim2=-1)
        diagonal = (variances - 1).square().sum(-1)
        off_diagonal = covariance.square().sum((-2, -1)) - variances.square().sum(-1)
        return latent.kl.mean() + (self.diagonal * diagonal + self.off_diagonal * off_diagonal).mean()

    def covariance(self, mean: Tensor, variance: Tensor) -> Tensor:
        """C, ``(..., D, D)``, of means and variances ``(..., B, D)``."""
        centred = mean - mean.mean(-2, keepdim=True)
        covariance = centred.mT @ centred / (mean.shape[-2] - 1)
        return covariance if self.kind == "i" else covariance + variance.mean(-2).diag_embed()
