"""Gated dense layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.networks.activation import initialize
from pyrovae.networks.joined import joined
from pyrovae.networks.mlp import check_widths


class GatedLinear(nn.Module):
    r"""A gated dense layer :math:`h = (A x + a) \odot \sigma(B x + b)` (Dauphin et al. 2017).

    See https://arxiv.org/abs/1612.08083.

    Args:
        in_features, out_features: the lengths of x and h.

    >>> GatedLinear(3, 2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.value = nn.Linear(in_features, out_features)
        self.gate = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * torch.sigmoid(self.gate(x))


class Gated(nn.Module):
    r"""Gated dense layers: ``(B, *in_shape) -> (B, hidden[-1])``, each :math:`(A x + a) \odot \sigma(B x + b)`.

    The gate lets a layer choose what passes, and the value has a gradient that no activation takes away (Dauphin et
    al. 2017, https://arxiv.org/abs/1612.08083). Two layers of 300 are the networks of the VampPrior (Tomczak &
    Welling 2018, https://arxiv.org/abs/1705.07120). A condition, where there is one, is joined to the flattened input.

    Args:
        in_shape: the shape of one input.
        hidden: the width of each layer.
        condition_dim: the length of the condition vector, or 0.

    Raises:
        ValueError: for widths below 1.

    >>> Gated((1, 8, 8), hidden=(32, 16))(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 16])
    """

    def __init__(self, in_shape: Sequence[int], hidden: Sequence[int] = (300, 300), condition_dim: int = 0) -> None:
        super().__init__()
        self.in_shape, self.hidden = tuple(in_shape), check_widths(hidden, "gated: expected hidden")
        self.condition_dim = condition_dim
        widths = [torch.Size(in_shape).numel() + condition_dim, *hidden]
        self.layers = nn.Sequential(*(GatedLinear(a, b) for a, b in zip(widths, widths[1:], strict=False)))
        # A gate halves what it lets through, as a ReLU does to the mean square: so He's weights.
        initialize(self, "relu")

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.layers(joined(x, condition))
