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
    "celu": nn.CELU,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "identity": nn.Identity,
    "mish": nn.Mish,
    "prelu": nn.PReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "softsign": nn.Softsign,
}
GLOROT = {"tanh", "hardtanh", "softsign", "sigmoid", "hardsigmoid", "identity"}


def activation(name: str) -> nn.Module:
    """A new activation module from its name."""
    return ACTIVATIONS[choose(name, ACTIVATIONS, "activation")]()


def initialize(module: nn.Module, activation: str) -> None:
    """First weights that suit layers with this activation, in place.

    - tanh, others that saturate on both sides, and none (identity): Glorot uniform and zero biases (Glorot & Bengio
      2010, https://proceedings.mlr.press/v9/glorot10a.html);
    - softplus: as torch makes them, smaller: its output at 0 is not 0, and larger weights train worse;
    - selu: LeCun's variance 1 / fan-in and zero biases, which it was made for (Klambauer et al. 2017,
      https://arxiv.org/abs/1706.02515);
    - all others: He uniform and zero biases (He et al. 2015, https://arxiv.org/abs/1502.01852). With torch's smaller
      weights the signal of z fades from layer to layer, and the posterior collapses before the decoder listens.
    """
    if activation == "softplus":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            if activation in GLOROT:
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear" if activation == "selu" else "relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
