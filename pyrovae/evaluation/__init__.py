"""Evaluation: ELBO with its split, log p(x), k-hat and active units; estimators side by side; imputation; holes;
disentanglement; calibration and predictive checks."""

from pyrovae.evaluation.ais import ais
from pyrovae.evaluation.bdmc import Sandwich, bdmc
from pyrovae.evaluation.calibration import Calibration, sbc
from pyrovae.evaluation.clusters import clusters
from pyrovae.evaluation.compare_elbos import ElboComparison, compare_elbos
from pyrovae.evaluation.compare_training import TrainingComparison, compare_training
from pyrovae.evaluation.diagnose import Diagnosis, diagnose
from pyrovae.evaluation.disentanglement import DCI, Disentanglement, dci, disentanglement, factor_vae_score, mig, sap
from pyrovae.evaluation.evaluate import Evaluation, evaluate
from pyrovae.evaluation.gaps import inference_gaps
from pyrovae.evaluation.impute import impute
from pyrovae.evaluation.latent_space import Completeness, completeness, continuity
from pyrovae.evaluation.log_marginal import log_marginal
from pyrovae.evaluation.loo_pit import LooPit, loo_pit
from pyrovae.evaluation.outliers import outlier_scores
from pyrovae.evaluation.predictive import PredictiveCheck, predictive_check
from pyrovae.evaluation.psis import k_hat
from pyrovae.evaluation.rate_distortion import rate_distortion
from pyrovae.evaluation.weights import LogMarginal

__all__ = [
    "DCI",
    "Calibration",
    "Completeness",
    "Diagnosis",
    "Disentanglement",
    "ElboComparison",
    "Evaluation",
    "LogMarginal",
    "LooPit",
    "PredictiveCheck",
    "Sandwich",
    "TrainingComparison",
    "ais",
    "bdmc",
    "clusters",
    "compare_elbos",
    "compare_training",
    "completeness",
    "continuity",
    "dci",
    "diagnose",
    "disentanglement",
    "evaluate",
    "factor_vae_score",
    "impute",
    "inference_gaps",
    "k_hat",
    "log_marginal",
    "loo_pit",
    "mig",
    "outlier_scores",
    "predictive_check",
    "rate_distortion",
    "sap",
    "sbc",
]
