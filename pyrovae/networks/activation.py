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


def initialize(module: nn.Module, activation: str = "linear") -> nn.Module:
    """Weights that keep the variance of a signal through layers with this activation, and zero biases.

    Glorot uniform for tanh and for linear layers (Glorot & Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html);
    He uniform for those that pass half of their input (He et al. 2015, https://arxiv.org/abs/1502.01852): from a latent
    vector much shorter than the layer, Glorot's weights would leave units that hardly move. Returns the module.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            if activation in ("tanh", "linear"):
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return module
