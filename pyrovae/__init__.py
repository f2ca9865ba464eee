"""Variational autoencoders as Pyro programs.

>>> import pyrovae
>>> vae = pyrovae.VAE(event_shape=(1, 28, 28), latent_dim=16, prior="normal", likelihood="bernoulli")
"""

from importlib.metadata import version as _version

from pyrovae import datasets, elbos, likelihoods, networks, posteriors, priors
from pyrovae.compare import compare
from pyrovae.evaluation import (
    Calibration,
    Completeness,
    Diagnosis,
    Disentanglement,
    ElboComparison,
    Evaluation,
    LogMarginal,
    LooPit,
    PredictiveCheck,
    Sandwich,
    TrainingComparison,
    ais,
    bdmc,
    clusters,
    compare_elbos,
    compare_training,
    completeness,
    continuity,
    diagnose,
    disentanglement,
    evaluate,
    impute,
    inference_gaps,
    k_hat,
    log_marginal,
    loo_pit,
    outlier_scores,
    predictive_check,
    rate_distortion,
    sbc,
)
from pyrovae.inference_data import to_inference_data
from pyrovae.piece import Piece
from pyrovae.serialization import load, save
from pyrovae.training import CompiledSVI, ex_post, fit
from pyrovae.vae import VAE
from pyrovae.workflow import (
    CompiledNUTS,
    DecoderPosterior,
    as_prior,
    decoder_posterior,
    export_decoder,
    sample_posterior,
)

__version__ = _version("pyrovae")

__all__ = [
    "VAE",
    "CompiledNUTS",
    "CompiledSVI",
    "Calibration",
    "Completeness",
    "DecoderPosterior",
    "Diagnosis",
    "Disentanglement",
    "ElboComparison",
    "Evaluation",
    "LogMarginal",
    "LooPit",
    "Piece",
    "PredictiveCheck",
    "Sandwich",
    "TrainingComparison",
    "ais",
    "as_prior",
    "bdmc",
    "clusters",
    "compare",
    "compare_elbos",
    "compare_training",
    "completeness",
    "continuity",
    "datasets",
    "decoder_posterior",
    "diagnose",
    "disentanglement",
    "elbos",
    "evaluate",
    "ex_post",
    "export_decoder",
    "fit",
    "impute",
    "inference_gaps",
    "k_hat",
    "likelihoods",
    "load",
    "log_marginal",
    "loo_pit",
    "networks",
    "outlier_scores",
    "posteriors",
    "predictive_check",
    "priors",
    "rate_distortion",
    "sample_posterior",
    "save",
    "sbc",
    "to_inference_data",
]
