"""Residual convolutional encoder and decoder for images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pyrovae.checks import count
from pyrovae.networks.activation import activation as make_activation
from pyrovae.networks.activation import initialize
from pyrovae.networks.conv import extras, halvings
from pyrovae.networks.joined import joined
from pyrovae.networks.mlp import check_widths
from pyrovae.networks.residual import Residual, temper
from pyrovae.registry import choose

NORMS = ("group",)
GROUP = 8
"""At most how many channels are normalised together."""


class ResNet(nn.Module):
    """Residual convolutions that halve the image at each stage, and a dense layer: ``(B, C, H, W) -> (B, features)``.

    For a network deeper than `Conv`. Each block is normalisation (where asked for), activation and convolution, twice,
    added to its input (He et al. 2016, https://arxiv.org/abs/1512.03385, in the order of their
    https://arxiv.org/abs/1603.05027). There is no batch normalisation: with it, the rows of a batch depend on one
    another, and a bound is no longer that of a row. A condition, where there is one, is joined before the dense layer.

    Args:
        in_shape: ``(C, H, W)``.
        channels: output channels of each stage, which begins by halving the image.
        blocks: residual blocks in each stage.
        features: width of the dense layer.
        activation: a name from `pyrovae.networks.ACTIVATIONS`.
        norm: ``"group"`` (Wu & He 2018, https://arxiv.org/abs/1803.08494), by groups of at most 8 channels; or None.
        condition_dim: the length of the condition vector, or 0.

    Raises:
        ValueError: for a shape that is no image's, channels or blocks below 1, or an unknown activation or norm.

    >>> ResNet((1, 28, 28))(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 256])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        blocks: int = 1,
        features: int = 256,
        activation: str = "relu",
        norm: Literal["group"] | None = None,
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        self.in_shape, self.channels = tuple(in_shape), check_widths(channels, "resnet: expected channels")
        self.blocks, self.features = count(blocks, "resnet blocks", 1), count(features, "resnet features", 1)
        self.activation, self.norm, self.condition_dim = activation, _norm(norm), condition_dim
        height, width = halvings(in_shape, len(channels), "resnet")[-1]
        layers: list[nn.Module] = [nn.Conv2d(in_shape[0], channels[0], 3, padding=1)]
        for a, b in zip([channels[0], *channels], channels, strict=False):
            down = nn.Conv2d(a, b, 3, stride=2, padding=1)
            layers.append(_block(down, activation, norm, shortcut=nn.Conv2d(a, b, 1, stride=2)))
            layers += _same(b, blocks - 1, activation, norm)
        layers += [*_before(channels[-1], activation, norm), nn.Flatten()]
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Linear(channels[-1] * height * width + condition_dim, features)
        self.last = make_activation(activation)
        initialize(self, activation)
        temper(self)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.last(self.dense(joined(self.layers(x), condition)))


class ResNetTranspose(nn.Module):
    """Residual convolutions that double the image at each stage: ``(B, *in_shape) -> (B, channels[-1], H, W)``.

    The mirror of `ResNet`, after He et al. (2016), https://arxiv.org/abs/1512.03385: blocks that enlarge do it by a
    transposed convolution, and their shortcut by repeating pixels.

    Args:
        in_shape: the shape of one input, such as ``(latent_dim,)``.
        event_shape: ``(C, H, W)`` of the image; the VAE's head turns feature maps into what its likelihood needs.
        channels: channels of the smallest map, of the next, and so on up to the full size.
        blocks: residual blocks at each size.
        activation: a name from `pyrovae.networks.ACTIVATIONS`.
        norm: ``"group"`` (Wu & He 2018, https://arxiv.org/abs/1803.08494), by groups of at most 8 channels; or None.
        condition_dim: the length of the condition vector, or 0.

    Raises:
        ValueError: for a shape that is no image's, channels or blocks below 1, or an unknown activation or norm.

    >>> ResNetTranspose((8,), (1, 28, 28))(torch.zeros(5, 8)).shape
    torch.Size([5, 32, 28, 28])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        event_shape: Sequence[int],
        channels: Sequence[int] = (64, 64, 32),
        blocks: int = 1,
        activation: str = "relu",
        norm: Literal["group"] | None = None,
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        self.in_shape, self.event_shape = tuple(in_shape), tuple(event_shape)
        self.channels = check_widths(channels, "resnet: expected channels")
        self.blocks = count(blocks, "resnet blocks", 1)
        self.activation, self.norm, self.condition_dim = activation, _norm(norm), condition_dim
        sizes = halvings(event_shape, len(channels) - 1, "resnet")[::-1]
        self.dense = nn.Linear(torch.Size(in_shape).numel() + condition_dim, channels[0] * sizes[0][0] * sizes[0][1])
        layers: list[nn.Module] = [nn.Unflatten(1, (channels[0], *sizes[0]))]
        layers += _same(channels[0], blocks, activation, norm)
        for a, b, size in zip(channels, channels[1:], sizes[1:], strict=False):
            up = nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=extras(size))
            repeat = nn.Sequential(nn.Conv2d(a, b, 1), nn.Upsample(size))
            layers.append(_block(up, activation, norm, shortcut=repeat))
            layers += _same(b, blocks - 1, activation, norm)
        self.layers = nn.Sequential(*layers, *_before(channels[-1], activation, norm))
        initialize(self, activation)
        temper(self)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.layers(self.dense(joined(z, condition)))


def _norm(name: str | None) -> str | None:
    return name if name is None else choose(name, NORMS, "resnet norm")


def _before(channels: int, activation: str, norm: str | None) -> list[nn.Module]:
    """What comes before a convolution: normalisation, where there is one, and an activation."""
    if norm is None:
        return [make_activation(activation)]
    size = max(size for size in range(1, GROUP + 1) if channels % size == 0)
    return [nn.GroupNorm(channels // size, channels), make_activation(activation)]


def _block(
    first: nn.Conv2d | nn.ConvTranspose2d, activation: str, norm: str | None, shortcut: nn.Module | None = None
) -> Residual:
    """A residual block of two convolutions, of which the first may change width and size."""
    a, b = first.in_channels, first.out_channels
    second = nn.Conv2d(b, b, 3, padding=1)
    return Residual(
        nn.Sequential(*_before(a, activation, norm), first, *_before(b, activation, norm), second), shortcut
    )


def _same(channels: int, blocks: int, activation: str, norm: str | None) -> list[nn.Module]:
    """Residual blocks that keep width and size."""
    return [_block(nn.Conv2d(channels, channels, 3, padding=1), activation, norm) for _ in range(blocks)]
