"""Variational autoencoders as Pyro programs."""

from pyrovae.serialization import load, save
from pyrovae.training import fit
from pyrovae.vae import VAE

__all__ = ["VAE", "fit", "load", "save"]
