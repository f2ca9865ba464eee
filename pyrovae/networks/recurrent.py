"""Recurrent encoder and decoder of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pyrovae.checks import count
from pyrovae.networks.activation import initialize
from pyrovae.networks.joined import joined
from pyrovae.registry import choose

CELLS: dict[str, type[nn.RNNBase]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class _Recurrent(nn.Module):
    """What reading and writing a sequence share: ``layers`` layers of gated cells."""

    def __init__(self, shape: Sequence[int], size: int, hidden: int, cell: str, layers: int) -> None:
        super().__init__()
        if len(shape) not in (1, 2):
            raise ValueError(f"recurrent: expected sequences of shape (steps,) or (steps, columns), got {tuple(shape)}")
        self.hidden, self.layers = count(hidden, "recurrent hidden", 1), count(layers, "recurrent layers", 1)
        self.cell = choose(cell, CELLS, "recurrent cell")
        self.cells = CELLS[cell](size, hidden, layers, batch_first=True)


class Recurrent(_Recurrent):
    """A GRU or LSTM that reads a sequence: ``(B, T, F)`` or ``(B, T) -> (B, hidden)``, its last state.

    A condition, where there is one, is joined to each step. After Cho et al. (2014), https://arxiv.org/abs/1406.1078.

    Args:
        in_shape: ``(T, F)``, T steps of F columns, or ``(T,)``.
        hidden: the length of the state.
        cell: ``"gru"``, or ``"lstm"`` (Hochreiter & Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735).
        layers: recurrent layers, each of which reads the states of the one before.
        condition_dim: the length of the condition vector, or 0.

    Raises:
        ValueError: for a shape that is no sequence's, sizes below 1, or an unknown cell.

    >>> Recurrent((20, 3))(torch.zeros(5, 20, 3)).shape
    torch.Size([5, 64])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        hidden: int = 64,
        cell: Literal["gru", "lstm"] = "gru",
        layers: int = 1,
        condition_dim: int = 0,
    ) -> None:
        super().__init__(in_shape, torch.Size(in_shape[1:]).numel() + condition_dim, hidden, cell, layers)
        self.in_shape, self.condition_dim = tuple(in_shape), condition_dim

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        steps = x.reshape(*x.shape[:2], -1)
        if condition is not None:
            steps = torch.cat([steps, condition[:, None].expand(-1, steps.shape[1], -1)], -1)
        states, _ = self.cells(steps)
        return states[:, -1]


class RecurrentDecoder(_Recurrent):
    """A GRU or LSTM that unrolls z into a sequence: ``(B, *in_shape) -> (B, T * hidden)``, its states, step by step.

    z, and a condition where there is one, set the first state and are the input at each step. A step sees no x: given
    z, the steps of x are independent, so that z must hold all that they share, which an autoregressive decoder lets it
    forget (Bowman et al. 2015, https://arxiv.org/abs/1511.06349).

    Features are flat: the VAE's head has a weight from each state to each step. Keep T * hidden small.

    Args:
        in_shape: the shape of one input, such as ``(latent_dim,)``.
        event_shape: ``(T, F)``, T steps of F columns, or ``(T,)``.
        hidden: the length of the state.
        cell: ``"gru"`` or ``"lstm"``, as for `Recurrent`.
        layers: recurrent layers, each of which reads the states of the one before.
        condition_dim: the length of the condition vector, or 0.

    Raises:
        ValueError: for a shape that is no sequence's, sizes below 1, or an unknown cell.

    >>> RecurrentDecoder((8,), (20, 3))(torch.zeros(5, 8)).shape
    torch.Size([5, 1280])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        event_shape: Sequence[int],
        hidden: int = 64,
        cell: Literal["gru", "lstm"] = "gru",
        layers: int = 1,
        condition_dim: int = 0,
    ) -> None:
        size = torch.Size(in_shape).numel() + condition_dim
        super().__init__(event_shape, size, hidden, cell, layers)
        self.in_shape, self.event_shape, self.condition_dim = tuple(in_shape), tuple(event_shape), condition_dim
        self.start = nn.Linear(size, layers * hidden)
        initialize(self.start, "tanh")

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        inputs = joined(z, condition)
        state = torch.tanh(self.start(inputs)).unflatten(1, (self.layers, self.hidden)).transpose(0, 1).contiguous()
        first = state if self.cell == "gru" else (state, torch.zeros_like(state))
        states, _ = self.cells(inputs[:, None].expand(-1, self.event_shape[0], -1), first)
        return states.flatten(1)
