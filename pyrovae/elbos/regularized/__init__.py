"""Objectives of reconstruction less a penalty on the latent, each of them a small change of the ELBO."""

from pyrovae.elbos.regularized.capacity import Capacity
from pyrovae.elbos.regularized.contractive import Contractive
from pyrovae.elbos.regularized.dip import DIP
from pyrovae.elbos.regularized.factor_vae import FactorVAE
from pyrovae.elbos.regularized.free_bits import FreeBits
from pyrovae.elbos.regularized.info_vae import InfoVAE
from pyrovae.elbos.regularized.regularized import Regularized
from pyrovae.elbos.regularized.total_correlation import TotalCorrelation

__all__ = ["DIP", "Capacity", "Contractive", "FactorVAE", "FreeBits", "InfoVAE", "Regularized", "TotalCorrelation"]
