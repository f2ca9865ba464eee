"""One conditional distribution of a VAE: a network, a linear head and a piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.modes import evaluating
from pyrovae.piece import Piece


class Conditional(nn.Module):
    r"""A distribution :math:`p(v \mid u, c)` = piece(head(network(u, c))).

    The prior, the likelihood and the posterior of a VAE are three of these. Any leading dimensions of the input
    (rows, particles) are folded into one batch for the network and unfolded again, so that a network needs to know
    only ``(B, *in_shape)``.

    Args:
        piece: what makes a distribution of numbers (see `pyrovae.piece.Piece`).
        network: any module from ``(B, *in_shape)`` to features ``(B, F)``, or to feature maps
            ``(B, F, *event_shape[1:])``; called with the condition as a second argument where there is one.
            None: the piece needs no input.
        in_shape: the shape of one input.
        event_shape: the shape of one event.
        condition_dim: the length of the condition vector, or 0.
        name: what to call it in messages.

    Raises:
        ValueError: if the network fails on zeros of shape ``(2, *in_shape)`` or gives no row of features for each.
    """

    def __init__(
        self,
        piece: Piece,
        network: nn.Module | None,
        in_shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        condition_dim: int = 0,
        name: str = "network",
    ) -> None:
        super().__init__()
        self.in_shape, self.condition_dim = torch.Size(in_shape), condition_dim
        self.event_shape = torch.Size(event_shape)
        for method in ("build", "forward", "support"):
            if not hasattr(piece, method):
                raise ValueError(
                    f"{name}: expected a module with support, build and forward (see pyrovae.piece.Piece), got "
                    f"{type(piece).__name__} without {method!r}"
                )
        self.piece = piece
        count = piece.build(event_shape)
        self.network = network if count else None
        self.maps = False
        if self.network is None:
            if count:
                raise ValueError(f"{name}: {type(piece).__name__} needs {count} numbers from a network, and has none")
            return
        features = self._dry_run(name)
        self.maps = features.ndim > 2 and features.shape[2:] == self.event_shape[1:]
        width, each = features[0].numel(), count
        if self.maps:
            width, each = features.shape[1], count // self.event_shape[1:].numel()
        self.head = nn.Linear(width, each).to(features)
        nn.init.zeros_(self.head.bias)
        piece.to(features)

    def _zeros(self) -> list[Tensor]:
        """Two rows of zeros, as the network takes them."""
        network = self.network or nn.Identity()
        like = next((p for p in [*network.parameters(), *self.parameters()] if p.is_floating_point()), torch.empty(()))
        shapes = [self.in_shape, (self.condition_dim,)] if self.condition_dim else [self.in_shape]
        return [torch.zeros(2, *shape, dtype=like.dtype, device=like.device) for shape in shapes]

    def _dry_run(self, name: str) -> Tensor:
        """Features of two rows of zeros."""
        zeros = self._zeros()
        shapes = " and ".join(str(tuple(z.shape)) for z in zeros)
        try:
            with evaluating(self), torch.random.fork_rng():
                features = self.network(*zeros)
        except Exception as error:
            raise ValueError(f"{name}: expected a network that takes {shapes}, got {error!r}") from error
        if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != 2:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"{name}: expected features of shape (2, F) from an input of {shapes}, got {got}")
        return features

    def forward(self, inputs: Tensor | None = None, condition: Tensor | None = None) -> TorchDistribution:
        """The distribution given inputs ``(..., *in_shape)`` and, where there is one, a condition ``(..., C)``."""
        if self.network is None:
            return self.piece(None)
        lead = inputs.shape[: inputs.ndim - len(self.in_shape)]
        folded = [inputs.reshape(-1, *self.in_shape)]
        if self.condition_dim and condition is not None:
            folded.append(condition.expand(*lead, -1).reshape(-1, self.condition_dim))
        features = self.network(*folded)
        if self.maps:
            params = self.head(features.movedim(1, -1)).movedim(-1, 1).flatten(1)
        else:
            params = self.head(features.flatten(1))
        return self.piece(params.reshape(*lead, -1))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the head's bias where the piece would start on rows ``x``, unless it has moved from zero already."""
        # A user's piece need not have `initial`.
        initial: Any = getattr(self.piece, "initial", None)
        if self.network is None or initial is None or self.head.bias.any():
            return
        numbers = initial(x)
        if numbers is not None:
            self.head.bias.copy_(numbers.reshape(len(self.head.bias), -1).mean(-1))

    def example(self) -> TorchDistribution:
        """The distribution at an input of two rows of zeros, for a look at its support and shapes."""
        with evaluating(self), torch.random.fork_rng():
            return self(*self._zeros())
