"""Activation functions by name."""

from __future__ import annotations

from torch import nn

from pyrovae.registry import choose

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}


def activation(name: str) -> nn.Module:
    """A new activation module from its name."""
    return ACTIVATIONS[choose(name, ACTIVATIONS, "activation")]()


def glorot(module: nn.Module) -> nn.Module:
    """Glorot uniform weights and zero biases in every layer (Glorot & Bengio 2010); returns the module.

    https://proceedings.mlr.press/v9/glorot10a.html
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
