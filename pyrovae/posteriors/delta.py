"""Point posterior."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.piece import Piece


class Delta(Piece):
    r"""Point posterior :math:`q(z \mid x) = \delta(z - f(x))`: a deterministic autoencoder.

    A point has no density. What is then called the KL is :math:`-\log p(z)`, and the objective
    :math:`\log p(x, z)` at z = f(x), a penalised reconstruction error, is no bound on log p(x). As a baseline, and to
    see what the noise of a VAE does. Hinton & Salakhutdinov (2006), https://doi.org/10.1126/science.1127647.

    >>> import torch
    >>> posterior = Delta()
    >>> posterior.build((2,))
    2
    >>> posterior(torch.ones(1, 2)).rsample()
    tensor([[1., 1.]])
    """

    point = True

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        (loc,) = self.split(params)
        return dist.Delta(loc, event_dim=len(self.event_shape))
