"""Networks, tensor to tensor, that end in features: a name, an object from here, or any nn.Module.

The VAE adds the linear head that turns features into the numbers a piece needs.
"""

from pyrovae.networks.activation import ACTIVATIONS
from pyrovae.networks.conv import Conv, ConvTranspose
from pyrovae.networks.gated import Gated
from pyrovae.networks.mlp import MLP
from pyrovae.networks.recurrent import Recurrent, RecurrentDecoder
from pyrovae.networks.resnet import ResNet, ResNetTranspose
from pyrovae.registry import Family

__all__ = [
    "ACTIVATIONS",
    "DECODERS",
    "ENCODERS",
    "MLP",
    "Conv",
    "ConvTranspose",
    "Gated",
    "Recurrent",
    "RecurrentDecoder",
    "ResNet",
    "ResNetTranspose",
]

ENCODERS: Family = {"mlp": MLP, "conv": Conv, "resnet": ResNet, "gated": Gated, "recurrent": Recurrent}
DECODERS: Family = {
    "mlp": MLP,
    "conv": ConvTranspose,
    "resnet": ResNetTranspose,
    "gated": Gated,
    "recurrent": RecurrentDecoder,
}
