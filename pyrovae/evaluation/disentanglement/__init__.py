"""Disentanglement: whether single units of a latent space tell single factors of the data, by four scores."""

from pyrovae.evaluation.disentanglement.dci import DCI, dci, importances
from pyrovae.evaluation.disentanglement.factor_vae import factor_vae_score
from pyrovae.evaluation.disentanglement.mig import mig, mutual_information
from pyrovae.evaluation.disentanglement.sap import predictability, sap
from pyrovae.evaluation.disentanglement.scores import Disentanglement, disentanglement

__all__ = [
    "DCI",
    "Disentanglement",
    "dci",
    "disentanglement",
    "factor_vae_score",
    "importances",
    "mig",
    "mutual_information",
    "predictability",
    "sap",
]
