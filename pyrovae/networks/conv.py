"""Convolutional encoder and decoder for images of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.networks.activation import activation as make_activation
from pyrovae.networks.activation import initialize
from pyrovae.networks.joined import joined


def halvings(shape: Sequence[int], steps: int, name: str) -> list[tuple[int, int]]:
    """Height and width before and after each halving, rounded up."""
    if len(shape) != 3:
        raise ValueError(f"{name}: expected images of shape (channels, height, width), got {tuple(shape)}")
    sizes = [(shape[1], shape[2])]
    for _ in range(steps):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def extras(size: tuple[int, int]) -> tuple[int, int]:
    """The output padding with which a transposed convolution of stride 2 gives a map of this size.

    With stride 2 a side of n becomes 2 n - 1: one more where the wanted side is even.
    """
    return (size[0] + 1) % 2, (size[1] + 1) % 2


class Conv(nn.Module):
    """Strided convolutions that halve the image each time, then one dense layer: ``(B, C, H, W) -> (B, features)``.

    A condition, where there is one, is joined before the dense layer. Strides in place of pooling are those of Radford,
    Metz & Chintala (2015), https://arxiv.org/abs/1511.06434.

    Args:
        in_shape: ``(C, H, W)``.
        channels: output channels of each convolution.
        features: width of the dense layer.
        activation: a name from `pyrovae.networks.ACTIVATIONS`.
        condition_dim: the length of the condition vector, or 0.

    >>> Conv((1, 28, 28))(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 256])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        features: int = 256,
        activation: str = "relu",
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        self.in_shape, self.channels, self.features = tuple(in_shape), tuple(channels), features
        self.activation, self.condition_dim = activation, condition_dim
        height, width = halvings(in_shape, len(channels), "conv")[-1]
        widths, layers = [in_shape[0], *channels], []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), make_activation(activation)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.dense = nn.Linear(widths[-1] * height * width + condition_dim, features)
        self.last = make_activation(activation)
        initialize(self, activation)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.last(self.dense(joined(self.layers(x), condition)))


class ConvTranspose(nn.Module):
    """Transposed convolutions that double the image each time: ``(B, *in_shape) -> (B, channels[-1], H, W)``.

    The mirror of `Conv`; see Radford, Metz & Chintala (2015), https://arxiv.org/abs/1511.06434.

    Args:
        in_shape: the shape of one input, such as ``(latent_dim,)``.
        event_shape: ``(C, H, W)`` of the image; the VAE's head turns feature maps into what its likelihood needs.
        channels: channels of the smallest map, of the next, and so on up to the full size.
        activation: a name from `pyrovae.networks.ACTIVATIONS`.
        condition_dim: the length of the condition vector, or 0.

    >>> ConvTranspose((8,), (1, 28, 28))(torch.zeros(5, 8)).shape
    torch.Size([5, 32, 28, 28])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        event_shape: Sequence[int],
        channels: Sequence[int] = (64, 64, 32),
        activation: str = "relu",
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        self.in_shape, self.event_shape, self.channels = tuple(in_shape), tuple(event_shape), tuple(channels)
        self.activation, self.condition_dim = activation, condition_dim
        sizes = halvings(event_shape, len(channels) - 1, "conv")[::-1]
        self.dense = nn.Linear(torch.Size(in_shape).numel() + condition_dim, channels[0] * sizes[0][0] * sizes[0][1])
        layers = [nn.Unflatten(1, (channels[0], *sizes[0])), make_activation(activation)]
        for a, b, size in zip(channels, channels[1:], sizes[1:], strict=False):
            up = nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=extras(size))
            layers += [up, make_activation(activation)]
        self.layers = nn.Sequential(*layers)
        initialize(self, activation)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.layers(self.dense(joined(z, condition)))
