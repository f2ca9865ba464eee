"""Gaussian likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.distributions import OptimalNormal
from pyrovae.likelihoods.location_scale import MODES, LocationScale, Mode

DECAY = 0.95
"""How much of the running mean squared error outlives a batch: it remembers about 20 of them."""


class Gaussian(LocationScale):
    r"""Gaussian likelihood :math:`p(x \mid z) = \mathcal{N}(x; \mu(z), \sigma^2)` of real data.

    Where the scale comes from decides what the model is:

    - a number: fixed, so that the ELBO weighs squared error against KL by :math:`1 / 2\sigma^2`;
    - ``"shared"``: one learned scale for all elements (probabilistic PCA, where the decoder is linear);
    - ``"per_dimension"``: one learned scale for each element (factor analysis);
    - ``"network"``: a scale for each row and element from the decoder (Kingma & Welling 2013, appendix C.2,
      https://arxiv.org/abs/1312.6114);
    - ``"optimal"``: one scale for all elements that is not learned but computed: in training mode it is each batch's
      root mean squared error, in evaluation mode a running estimate of it, so that what is evaluated is a density (the
      sigma-VAE of Rybkin, Daniilidis & Levine 2021, https://arxiv.org/abs/2006.13202).

    A free scale can go to zero on an element that never changes and take the density to infinity (Mattei & Frellsen
    2018, https://arxiv.org/abs/1802.04826): the floor stops it there.

    Args:
        scale: a positive number, or one of the names above.
        floor: the least scale that is not given as a number, in units of x.

    >>> likelihood = Gaussian(scale=1.0)
    >>> likelihood.build((2,))
    2
    >>> likelihood(torch.zeros(1, 2)).log_prob(torch.zeros(2))
    tensor([-1.8379])
    """

    modes = (*MODES, "optimal")

    def __init__(self, scale: float | Mode | Literal["optimal"] = "shared", floor: float = 1e-3) -> None:
        super().__init__(scale, floor)

    def build(self, event_shape: Sequence[int]) -> int:
        if self.scale == "optimal":
            self.register_buffer("mean_square", torch.ones(()))
            self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        return super().build(event_shape)

    def element(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        if self.scale == "optimal" and self.training:
            return OptimalNormal(loc, scale, self.floor, self._watch)
        return dist.Normal(loc, scale)

    def location_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale != "optimal":
            return super().location_scale(params)
        # A copy, because a step of training moves the buffer under a distribution that may still be in use.
        return self.split(params)[0], self.mean_square.sqrt().clamp_min(self.floor)

    def initial(self, x: Tensor) -> Tensor:
        if self.scale == "optimal":
            self.mean_square.copy_(x.var(0, correction=0).mean())
        return super().initial(x)

    @torch.no_grad()
    def _watch(self, square: Tensor) -> None:
        """Move the running mean squared error; the first batch sets it."""
        keep = DECAY * (self.batches > 0).to(self.mean_square)
        self.mean_square.lerp_(square.to(self.mean_square), 1 - keep)
        self.batches.add_(1)
