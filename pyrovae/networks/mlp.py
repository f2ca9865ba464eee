"""Multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pyrovae.networks.activation import activation as make_activation
from pyrovae.networks.activation import initialize
from pyrovae.networks.joined import joined
from pyrovae.networks.residual import Residual, temper
from pyrovae.registry import choose

NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class MLP(nn.Module):
    """Fully connected layers, each followed by an activation: ``(B, *in_shape) -> (B, hidden[-1])``.

    A condition, where there is one, is joined to the flattened input. After Rumelhart, Hinton & Williams (1986),
    https://doi.org/10.1038/323533a0. A layer is linear, then normalisation, activation and dropout, where they are
    asked for.

    Args:
        in_shape: the shape of one input.
        hidden: the width of each layer.
        activation: a name from `pyrovae.networks.ACTIVATIONS`.
        condition_dim: the length of the condition vector, or 0.
        norm: ``"batch"`` (Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167), with which the rows of a training
            batch depend on one another; ``"layer"`` (Ba, Kiros & Hinton 2016, https://arxiv.org/abs/1607.06450); None.
        dropout: the probability with which a feature is put to 0 in training, in [0, 1) (Srivastava et al. 2014,
            https://jmlr.org/papers/v15/srivastava14a.html).
        skip: add to each layer but the first its input (where widths differ, a linear map of it).

    Raises:
        ValueError: for widths below 1, a dropout outside [0, 1), or an unknown activation or norm.

    >>> MLP((1, 8, 8), hidden=(32, 16))(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 16])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        condition_dim: int = 0,
        norm: Literal["batch", "layer"] | None = None,
        dropout: float = 0.0,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape, self.hidden = tuple(in_shape), check_widths(hidden, "mlp: expected hidden")
        self.activation, self.condition_dim = activation, condition_dim
        self.norm = norm if norm is None else choose(norm, NORMS, "mlp norm")
        if not 0 <= dropout < 1:
            raise ValueError(f"mlp dropout: expected a probability of at least 0 and below 1, got {dropout!r}")
        self.dropout, self.skip = dropout, skip
        widths = [torch.Size(in_shape).numel() + condition_dim, *hidden]
        layers: list[nn.Module] = []
        for index, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
            layer = self._layer(a, b)
            if skip and index:
                layer = [Residual(nn.Sequential(*layer), None if a == b else nn.Linear(a, b))]
            layers += layer
        self.layers = nn.Sequential(*layers)
        initialize(self, activation)
        temper(self)

    def _layer(self, a: int, b: int) -> list[nn.Module]:
        # Batch normalisation takes off any constant, and brings one of its own.
        layer = [nn.Linear(a, b, bias=self.norm != "batch")]
        if self.norm is not None:
            layer.append(NORMS[self.norm](b))
        layer.append(make_activation(self.activation))
        if self.dropout:
            layer.append(nn.Dropout(self.dropout))
        return layer

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.layers(joined(x, condition))


def check_widths(widths: Sequence[int], expected: str) -> tuple[int, ...]:
    """``widths`` as a tuple, if they are one or more positive numbers; otherwise a ValueError that begins with
    ``expected``."""
    if not widths or any(width < 1 for width in widths):
        raise ValueError(f"{expected} to be one or more positive widths, got {tuple(widths)}")
    return tuple(widths)
