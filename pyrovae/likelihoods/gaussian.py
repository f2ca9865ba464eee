"""Gaussian likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.distributions import inverse_scale, positive, to_scale
from pyrovae.piece import Piece

MODES = ("shared", "per_dimension", "network")


class Gaussian(Piece):
    r"""Gaussian likelihood :math:`p(x \mid z) = \mathcal{N}(x; \mu(z), \sigma^2)` of real data.

    Where the scale comes from decides what the model is:

    - a number: fixed, so that the ELBO weighs squared error against KL by :math:`1 / 2\sigma^2`;
    - ``"shared"``: one learned scale for all elements (probabilistic PCA, where the decoder is linear);
    - ``"per_dimension"``: one learned scale for each element (factor analysis);
    - ``"network"``: a scale for each row and element from the decoder (Kingma & Welling 2013, appendix C.2,
      https://arxiv.org/abs/1312.6114).

    A free scale can go to zero on an element that never changes and take the density to infinity (Mattei & Frellsen
    2018, https://arxiv.org/abs/1802.04826): the floor stops it there.

    Args:
        scale: a positive number, or one of the names above.
        floor: the least learned scale, in units of x.

    >>> likelihood = Gaussian(scale=1.0)
    >>> likelihood.build((2,))
    2
    >>> likelihood(torch.zeros(1, 2)).log_prob(torch.zeros(2))
    tensor([-1.8379])
    """

    support = constraints.real

    def __init__(
        self, scale: float | Literal["shared", "per_dimension", "network"] = "shared", floor: float = 1e-3
    ) -> None:
        super().__init__()
        known = f"gaussian scale: expected {', '.join(MODES)}, or"
        self.scale = scale if scale in MODES else positive(scale, known)
        self.floor = positive(floor, "gaussian floor: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        super().build(event_shape)
        size = self.event_shape.numel()
        if self.scale == "network":
            return 2 * size
        if isinstance(self.scale, str):
            start = torch.ones(self.event_shape if self.scale == "per_dimension" else ())
            self.raw_scale = nn.Parameter(inverse_scale(start, self.floor))
        return size

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, *free = params.unflatten(-1, (-1, *self.event_shape)).unbind(-1 - len(self.event_shape))
        if not isinstance(self.scale, str):
            scale = loc.new_tensor(self.scale)
        else:
            scale = to_scale(free[0] if free else self.raw_scale, self.floor)
        return dist.Normal(loc, scale).to_event(len(self.event_shape))

    def initial(self, x: Tensor) -> Tensor:
        loc, scale = x.mean(0), x.std(0, correction=0)
        if self.scale == "network":
            return torch.cat([loc.flatten(), inverse_scale(scale, self.floor).flatten()])
        if isinstance(self.scale, str):
            rms = scale if self.scale == "per_dimension" else scale.square().mean().sqrt()
            with torch.no_grad():
                self.raw_scale.copy_(inverse_scale(rms, self.floor))
        return loc.flatten()
