"""Conditional prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import posteriors, registry
from pyrovae.piece import Piece


class Conditional(Piece):
    r"""Conditional prior :math:`p(z \mid c)`: a distribution whose numbers a network makes from the condition.

    For a conditional VAE in which what is likely a priori depends on the condition (Sohn, Lee & Yan 2015,
    https://papers.nips.cc/paper/2015/hash/8d55a249e6baa5c06772297520da2051-Abstract.html). With the default prior,
    which does not, z is independent of c, and the decoder alone tells conditions apart.

    Args:
        base: the distribution, a posterior by its name or configuration, such as ``"normal"``.
        network: the name of a network, ``(B, condition_dim)`` to features, such as ``"mlp(hidden=[64])"``; the VAE
            builds it.

    Raises:
        ValueError: for a base that needs x, or that has no density.

    >>> import torch
    >>> prior = Conditional()
    >>> prior.build((2,))
    4
    >>> prior(torch.zeros(5, 4)).batch_shape
    torch.Size([5])
    """

    def __init__(self, base: str | Mapping[str, Any] | Piece = "normal", network: str = "mlp(hidden=[64])") -> None:
        super().__init__()
        self.piece = posteriors.make(base)
        # A base that was given as an object is kept, and saved, as what would make its like.
        self.base = registry.config(base, posteriors.FAMILY) if isinstance(base, Piece) else base
        self.network = network
        if self.piece.contextual or self.piece.point:
            why = "needs x" if self.piece.contextual else "is a point, without a density"
            raise ValueError(f"conditional prior: expected a base such as 'normal', got {base!r}, which {why}")
        self.support = self.piece.support

    def build(self, event_shape: Sequence[int]) -> int:
        super().build(event_shape)
        return self.piece.build(event_shape)

    def forward(self, params: Tensor) -> TorchDistribution:
        return self.piece(params)

    def initial(self, x: Tensor) -> Tensor | None:
        return self.piece.initial(x)
