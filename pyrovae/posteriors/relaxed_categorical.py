"""Relaxed categorical posterior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks import count
from pyrovae.distributions import RelaxedCategoricals, blocks, positive, simplex_blocks
from pyrovae.piece import Piece


class RelaxedCategorical(Piece):
    r"""Concrete posterior, a relaxed categorical: :math:`z = \operatorname{softmax}((\eta(x) + g) / \lambda)`.

    With Gumbel noise g and temperature :math:`\lambda`.

    For nearly discrete codes with reparameterised draws. It lives on the simplex, and so must the prior: a density
    there and not the probabilities of classes, or the objective is no bound. Maddison, Mnih & Teh (2017),
    https://arxiv.org/abs/1611.00712; Jang, Gu & Poole (2017), https://arxiv.org/abs/1611.01144.

    Args:
        classes: k; None is one variable of latent_dim classes.
        temperature: :math:`\lambda`, above 0; the smaller, the nearer to one-hot and the noisier the gradient.

    Raises:
        ValueError: when the VAE is built, unless latent_dim is a multiple of ``classes``.

    >>> import torch
    >>> posterior = RelaxedCategorical(classes=3)
    >>> posterior.build((6,))
    6
    >>> posterior(torch.zeros(5, 6)).event_shape
    torch.Size([6])
    """

    support = constraints.simplex

    def __init__(self, classes: int | None = None, temperature: float = 0.5) -> None:
        super().__init__()
        self.classes = None if classes is None else count(classes, "relaxed_categorical classes", 2)
        self.temperature = positive(temperature, "relaxed_categorical temperature: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        size = super().build(event_shape)
        self.blocks = blocks(size, self.classes, "relaxed_categorical")
        m, k = self.blocks
        self.support = constraints.simplex if m == 1 else simplex_blocks(k)
        return size

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        return RelaxedCategoricals(self.temperature, params.unflatten(-1, self.blocks))
