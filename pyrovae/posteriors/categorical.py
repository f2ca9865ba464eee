"""Categorical posterior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks import count
from pyrovae.distributions import Categoricals, blocks, one_hot_blocks
from pyrovae.piece import Piece


class Categorical(Piece):
    r"""Categorical posterior :math:`q(z \mid x) = \prod_i \operatorname{Cat}(z_i; \pi_i(x))`, z one-hot.

    For discrete codes, with the prior ``"categorical"``: m variables of k classes each, latent_dim = m k. Draws are
    not reparameterised: the estimators use the score function, and ``TraceEnum_ELBO`` sums exactly over all k^m values.
    The usual sum over classes of Kingma, Rezende, Mohamed & Welling (2014), https://arxiv.org/abs/1406.5298.

    Args:
        classes: k; None is one variable of latent_dim classes.

    Raises:
        ValueError: when the VAE is built, unless latent_dim is a multiple of ``classes``.

    >>> import torch
    >>> posterior = Categorical(classes=3)
    >>> posterior.build((6,))
    6
    >>> posterior(torch.zeros(5, 6)).enumerate_support().shape
    torch.Size([9, 5, 6])
    """

    support = constraints.one_hot

    def __init__(self, classes: int | None = None) -> None:
        super().__init__()
        self.classes = None if classes is None else count(classes, "categorical classes", 2)

    def build(self, event_shape: Sequence[int]) -> int:
        size = super().build(event_shape)
        self.blocks = blocks(size, self.classes, "categorical")
        self.support = one_hot_blocks(self.blocks[1])
        return size

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        return Categoricals(params.unflatten(-1, self.blocks))
