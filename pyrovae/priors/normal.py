"""Normal prior."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.priors.location_scale import LocationScale


class Normal(LocationScale):
    r"""Normal prior, fixed or learned: :math:`p(z) = \mathcal{N}(z; \mu, \operatorname{diag} \sigma^2)`.

    Fixed at N(0, I) by default, as in Kingma & Welling (2013), https://arxiv.org/abs/1312.6114. With
    ``learned=True`` mean and scale are trained with the model, from N(0, I). With ``learned="ard"`` the mean stays 0
    and the scales are trained: automatic relevance determination (Neal 1996,
    https://doi.org/10.1007/978-1-4612-0745-0, and, for latent dimensions, Bishop 1999, Bayesian PCA).

    A learned decoder can take up any scale: halve a latent's scale, double the decoder's weights on it, and p(x) is
    the same. So a scale by itself says nothing of relevance, unless the decoder's columns are normalised; read
    relevance from the KL of each latent, or from its scale times the norm of the decoder's column.

    Args:
        learned: False; True, to train mean and scale; or ``"ard"``, to train the scale alone.
        floor: the least scale, where learned.

    >>> import torch
    >>> prior = Normal()
    >>> prior.build((2,))
    0
    >>> prior(None).log_prob(torch.zeros(2))  # -log(2 pi)
    tensor(-1.8379)
    """

    def element(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, scale)
