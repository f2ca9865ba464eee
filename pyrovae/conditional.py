"""One conditional distribution of a VAE: a network, a linear head and a piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyrovae.distributions import base, bijection, map_tensors, same_support
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
        sight: what makes of conditions ``(B, condition_dim)`` what the network takes; None: as they are.
        features: how the network is to see inputs ``(B, *in_shape)``; None: as they are.
        corruption: what is done to inputs before that, in training mode; None: nothing.
        support: where events live. A piece over real vectors is carried there by a bijection, if there is one (exp,
            sigmoid, stick-breaking), with its Jacobian in the density. None: where the piece lives.
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
        sight: nn.Module | None = None,
        features: Callable[[Tensor], Tensor] | None = None,
        corruption: Callable[[Tensor], Tensor] | None = None,
        support: constraints.Constraint | None = None,
        name: str = "network",
    ) -> None:
        super().__init__()
        self.in_shape, self.condition_dim, self.sight = torch.Size(in_shape), condition_dim, sight
        self.event_shape = torch.Size(event_shape)
        for method in ("build", "forward", "support"):
            if not hasattr(piece, method):
                raise ValueError(
                    f"{name}: expected a module with support, build and forward (see pyrovae.piece.Piece), got "
                    f"{type(piece).__name__} without {method!r}"
                )
        self.piece = piece
        self.carry: Transform | None = None
        if support is not None and str(piece.support) == str(constraints.real):
            self.carry = bijection(support)
        count = piece.build(self.carry.inverse_shape(self.event_shape) if self.carry else self.event_shape)
        self.network = network if count else None
        # Another part's method is kept in a tuple, so that the part does not become this module's.
        self._features = (features,)
        self.corruption = corruption
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
        with evaluating(self), torch.random.fork_rng():
            zeros[1:] = map(self._looked_at, zeros[1:])
        shapes = " and ".join(str(tuple(z.shape)) for z in zeros)
        try:
            with evaluating(self), torch.random.fork_rng():
                features = self.network(self._seen(zeros[0]), *zeros[1:])
        except Exception as error:
            raise ValueError(f"{name}: expected a network that takes {shapes}, got {error!r}") from error
        if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != 2:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"{name}: expected features of shape (2, F) from an input of {shapes}, got {got}")
        return features

    def forward(self, inputs: Tensor | None = None, condition: Tensor | None = None) -> TorchDistribution:
        """The distribution given inputs ``(..., *in_shape)`` and, where there is one, a condition ``(..., C)``."""
        params = None if self.network is None else self.params(inputs, condition)
        return self.distribution(params, inputs, condition)

    def params(self, inputs: Tensor, condition: Tensor | None = None) -> Tensor:
        """The piece's numbers, ``(..., n)``, from the network and its head."""
        lead = inputs.shape[: inputs.ndim - len(self.in_shape)]
        if self.condition_dim and condition is not None:
            # A condition that is a site of its own may have more draws than the inputs.
            lead = torch.broadcast_shapes(lead, condition.shape[:-1])
            inputs = inputs.expand(*lead, *self.in_shape)
        folded = [self._seen(inputs.reshape(-1, *self.in_shape))]
        if self.condition_dim and condition is not None:
            folded.append(self._looked_at(condition.expand(*lead, -1).reshape(-1, self.condition_dim)))
        features = self.network(*folded)
        if self.maps:
            params = self.head(features.movedim(1, -1)).movedim(-1, 1).flatten(1)
        else:
            params = self.head(features.flatten(1))
        # Under autocast the network may have run in bfloat16, in which no density is to be computed.
        return params.reshape(*lead, -1).to(self.head.weight.dtype)

    def distribution(
        self, params: Tensor | None, inputs: Tensor | None = None, condition: Tensor | None = None
    ) -> TorchDistribution:
        """The piece's distribution from its numbers, carried to where events live."""
        result = self.piece(params, inputs, condition) if self.has("contextual") else self.piece(params)
        # With a cache of its own each time: log_prob of a draw need not invert, and nothing is kept from call to call.
        return dist.TransformedDistribution(result, [self.carry.with_cache(1)]) if self.carry else result

    @torch.no_grad()
    def initialize(self, x: Tensor, condition: Tensor | None = None) -> None:
        """Let the piece start where it would on rows ``x``: its head's bias too, unless that has moved from zero."""
        # A user's piece need not have `initial`.
        initial: Any = getattr(self.piece, "initial", None)
        if initial is None or (self.network is not None and self.head.bias.any()):
            return
        numbers = initial(x, condition) if self.has("contextual") else initial(x)
        if numbers is not None and self.network is not None:
            self.head.bias.copy_(numbers.reshape(len(self.head.bias), -1).mean(-1))

    def example(self, condition_dim: int = 0) -> TorchDistribution:
        """The distribution at two rows of zeros, for a look at its support and shapes."""
        inputs, *_ = self._zeros()
        with evaluating(self), torch.random.fork_rng():
            result = self(inputs, inputs.new_zeros(2, condition_dim) if condition_dim else None)
        if self.carry is None or same_support(result.base_dist.support, constraints.real):
            return result
        # A user's piece may live on the support already, without having said so.
        self.carry = None
        return result.base_dist

    def has(self, trait: str) -> bool:
        """Whether the piece is contextual, joint, ... (see `pyrovae.piece.Piece`); a user's piece need not say."""
        return bool(getattr(self.piece, trait, False))

    def _seen(self, inputs: Tensor) -> Tensor:
        """Inputs as the network is to see them."""
        (features,) = self._features
        if self.training and self.corruption is not None:
            inputs = self.corruption(inputs)
        return inputs if features is None else features(inputs)

    def _looked_at(self, condition: Tensor) -> Tensor:
        """A condition as the network is to see it."""
        return condition if self.sight is None else self.sight(condition)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self.carry = map_tensors(fn, self.carry)
        return super()._apply(fn, recurse)


def check_same_support(
    prior: Conditional, ours: constraints.Constraint, posterior: Conditional, theirs: constraints.Constraint
) -> None:
    """Raise a ValueError unless a prior and a posterior live on one support."""
    if not same_support(ours, theirs):
        raise ValueError(
            f"the prior ({type(prior.piece).__name__}) lives on {base(ours)} and the posterior "
            f"({type(posterior.piece).__name__}) on {base(theirs)}: expected one support. Choose a posterior with the "
            "prior's support; one over real vectors is carried to positive numbers, intervals and the simplex."
        )
