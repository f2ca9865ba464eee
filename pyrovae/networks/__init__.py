"""Networks, tensor to tensor, that end in features: a name, an object from here, or any nn.Module.

The VAE adds the linear head that turns features into the numbers a piece needs.
"""

from pyrovae.networks.activation import ACTIVATIONS
from pyrovae.networks.conv import Conv, ConvTranspose
from pyrovae.networks.mlp import MLP
from pyrovae.registry import Family

__all__ = ["ACTIVATIONS", "DECODERS", "ENCODERS", "MLP", "Conv", "ConvTranspose"]

ENCODERS: Family = {"mlp": MLP, "conv": Conv}
DECODERS: Family = {"mlp": MLP, "conv": ConvTranspose}
