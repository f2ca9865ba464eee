"""Multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.networks.activation import activation as make_activation
from pyrovae.networks.activation import initialize


class MLP(nn.Module):
    """Fully connected layers, each followed by an activation: ``(B, *in_shape) -> (B, hidden[-1])``.

    A condition, where there is one, is joined to the flattened input. After Rumelhart, Hinton & Williams (1986),
    https://doi.org/10.1038/323533a0.

    Args:
        in_shape: the shape of one input.
        hidden: the width of each layer.
        activation: a name from `pyrovae.networks.ACTIVATIONS`.
        condition_dim: the length of the condition vector, or 0.

    >>> MLP((1, 8, 8), hidden=(32, 16))(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 16])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        if not hidden or any(width < 1 for width in hidden):
            raise ValueError(f"mlp: expected hidden to be one or more positive widths, got {tuple(hidden)}")
        self.in_shape, self.hidden = tuple(in_shape), tuple(hidden)
        self.activation, self.condition_dim = activation, condition_dim
        widths = [torch.Size(in_shape).numel() + condition_dim, *hidden]
        layers = [
            m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), make_activation(activation))
        ]
        self.layers = nn.Sequential(*layers)
        initialize(self, activation)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        x = x.flatten(1)
        return self.layers(x if condition is None else torch.cat([x, condition], -1))
