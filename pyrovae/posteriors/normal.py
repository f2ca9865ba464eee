"""Normal posterior."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.distributions import positive, to_scale
from pyrovae.piece import Piece


class Normal(Piece):
    r"""Mean-field normal posterior :math:`q(z \mid x) = \mathcal{N}(z; \mu(x), \operatorname{diag} \sigma(x)^2)`.

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

    numbers = 2

    def __init__(self, floor: float = 1e-4) -> None:
        super().__init__()
        self.floor = positive(floor, "normal floor: expected")

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, raw_scale = self.split(params)
        return dist.Normal(loc, to_scale(raw_scale, self.floor)).to_event(len(self.event_shape))
