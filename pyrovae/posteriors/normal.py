"""Normal posterior."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.posteriors.location_scale import LocationScale


class Normal(LocationScale):
    r"""Mean-field normal posterior: :math:`q(z \mid x) = \mathcal{N}(z; \mu(x), \operatorname{diag} \sigma(x)^2)`.

    The usual amortised posterior of Kingma & Welling (2013), https://arxiv.org/abs/1312.6114.

    Args:
        floor: the least scale.

    >>> import torch
    >>> posterior = Normal()
    >>> posterior.build((2,))
    4
    >>> posterior(torch.zeros(3, 4)).event_shape
    torch.Size([2])
    """

    def element(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, scale)
