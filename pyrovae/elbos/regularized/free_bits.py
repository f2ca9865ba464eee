"""Free bits."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pyrovae.elbos.regularized.latent import Latent
from pyrovae.elbos.regularized.regularized import Regularized, amount


@dataclass(eq=False)
class FreeBits(Regularized):
    r"""ELBO in which each latent dimension has some nats for nothing,

    .. math:: \mathrm{E}_q[\log p(x \mid z)] - \sum_d \max\Bigl(\lambda, \,
        \frac1B \sum_n \mathrm{KL}\bigl(q(z_d \mid x_n) \,\|\, p(z_d)\bigr)\Bigr),

    so that none is given up before the decoder has learned to listen. Below the ELBO where a dimension has less than
    :math:`\lambda`, and the ELBO itself elsewhere; posterior and prior must be products over d.

    Reference: Kingma et al., 2016, https://arxiv.org/abs/1606.04934

    Args:
        nats: :math:`\lambda`, for each dimension.
    """

    nats: float = field(default=0.25, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        amount(self.nats, "nats")

    def penalty(self, latent: Latent) -> Tensor:
        return latent.kl_by_dim.mean((0, 1)).clamp_min(self.nats).sum()
