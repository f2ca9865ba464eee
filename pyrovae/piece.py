"""The protocol of every prior, likelihood and posterior: numbers in, a Pyro distribution out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints


class Piece(nn.Module):
    r"""A conditional distribution :math:`p(v \mid \eta)` whose numbers :math:`\eta` come from a network.

    A piece is made without sizes; the VAE tells it the shape of one event with `build`. It then knows how many
    numbers a network must give it, how to make a distribution of them, and what values it accepts.

    Your own piece needs ``support``, ``build`` and ``forward``; this class writes ``build`` for the usual case of
    a fixed count of numbers for each element of an event:

    >>> import pyro.distributions as dist
    >>> class Laplace(Piece):
    ...     numbers = 2
    ...     def forward(self, params):
    ...         loc, scale = self.split(params)
    ...         return dist.Laplace(loc, nn.functional.softplus(scale)).to_event(len(self.event_shape))
    >>> piece = Laplace()
    >>> piece.build((3,))
    6
    >>> piece(torch.zeros(5, 6)).batch_shape
    torch.Size([5])

    A piece may also have ``bind(vae)``, called once when the VAE is whole, if it works with the VAE's other parts. It
    keeps them in a tuple, so that they do not become parts of its own.

    Attributes:
        support: the values that it accepts, as a constraint on one element of an event.
        numbers: how many numbers it needs for each element of an event; 0 for an unconditional piece.
        event_shape: the shape of one event, known after `build`.
        remedy: of a likelihood, what to do about data outside the support.
        contextual: whether `forward` is called as ``forward(params, inputs, condition)``, with what the network saw
            and the condition, and `initial` as ``initial(x, condition)``.
        missing: of a likelihood, whether NaN in the data is a missing cell, not a mistake.
        joint: of a prior, whether the rows of a batch depend on one another.
        point: of a posterior, whether it is a single point, which has no density.
    """

    support: constraints.Constraint = constraints.real
    numbers: ClassVar[int] = 1
    remedy: str = ""
    contextual: bool = False
    missing: bool = False
    joint: bool = False
    point: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.event_shape = torch.Size()

    def build(self, event_shape: Sequence[int]) -> int:
        """Learn the shape of one event, make what parameters there are; return the count of numbers needed."""
        self.event_shape = torch.Size(event_shape)
        return self.numbers * self.event_shape.numel()

    def forward(self, params: Tensor | None) -> TorchDistribution:
        """The distribution, of batch shape ``(...)`` and event shape ``event_shape``.

        ``params`` has shape ``(..., build(event_shape))``; it is None for a piece that needs no numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(params) -> a Pyro distribution")

    def initial(self, x: Tensor) -> Tensor | None:
        """Numbers, of shape ``(build(event_shape),)``, that suit rows ``x`` before training; None for no opinion.

        `VAE.initialize` makes them the first output bias. A prior without numbers may set its own parameters here.
        """
        return None

    def features(self, x: Tensor) -> Tensor:
        """Of a likelihood: rows ``(B, *event_shape)`` as a network should see them, ``(B, ...)``; by default x itself.

        Called before `build` too, to learn the shape.
        """
        return x

    def split(self, params: Tensor) -> tuple[Tensor, ...]:
        """``params`` of shape ``(..., n)`` as ``numbers`` tensors of shape ``(..., *event_shape)``."""
        if self.numbers == 1:
            # As a view, the gradient of which is one, too; that of unbind is a copy.
            return (params.reshape(*params.shape[:-1], *self.event_shape),)
        shape = params.shape[:-1] + (self.numbers, *self.event_shape)
        return params.reshape(shape).unbind(-1 - len(self.event_shape))
