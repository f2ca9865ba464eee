"""Normal prior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions import inverse_scale, positive, to_scale
from pyrovae.piece import Piece


class Normal(Piece):
    r"""Normal prior :math:`p(z) = \mathcal{N}(z; \mu, \operatorname{diag} \sigma^2)`.

    Fixed at N(0, I) by default, as in Kingma & Welling (2013), https://arxiv.org/abs/1312.6114. With
    ``learned=True`` mean and scale are trained with the model, from N(0, I).

    Args:
        learned: train the mean and the scale.
        floor: the least scale, where learned.

    >>> prior = Normal()
    >>> prior.build((2,))
    0
    >>> prior(None).log_prob(torch.zeros(2))  # -log(2 pi)
    tensor(-1.8379)
    """

    numbers = 0

    def __init__(self, learned: bool = False, floor: float = 1e-3) -> None:
        super().__init__()
        self.learned = learned
        self.floor = positive(floor, "normal floor: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        loc, scale = torch.zeros(event_shape), torch.ones(event_shape)
        if self.learned:
            self.loc = nn.Parameter(loc)
            self.raw_scale = nn.Parameter(inverse_scale(scale, self.floor))
        else:
            self.register_buffer("loc", loc, persistent=False)
            self.register_buffer("unit", scale, persistent=False)
        return super().build(event_shape)

    def forward(self, params: Tensor | None = None) -> dist.TorchDistribution:
        scale = to_scale(self.raw_scale, self.floor) if self.learned else self.unit
        return dist.Normal(self.loc, scale).to_event(len(self.event_shape))
