"""Evaluation: ELBO with its split, log p(x), k-hat and active units; estimators side by side; imputation; holes."""

from pyrovae.evaluation.ais import ais
from pyrovae.evaluation.clusters import clusters
from pyrovae.evaluation.compare_elbos import ElboComparison, compare_elbos
from pyrovae.evaluation.compare_training import TrainingComparison, compare_training
from pyrovae.evaluation.evaluate import Evaluation, evaluate
from pyrovae.evaluation.impute import impute
from pyrovae.evaluation.latent_space import Completeness, completeness, continuity
from pyrovae.evaluation.log_marginal import LogMarginal, log_marginal
from pyrovae.evaluation.outliers import outlier_scores
from pyrovae.evaluation.psis import k_hat
from pyrovae.evaluation.rate_distortion import rate_distortion

__all__ = [
    "Completeness",
    "ElboComparison",
    "Evaluation",
    "LogMarginal",
    "TrainingComparison",
    "ais",
    "clusters",
    "compare_elbos",
    "compare_training",
    "completeness",
    "continuity",
    "evaluate",
    "impute",
    "k_hat",
    "log_marginal",
    "outlier_scores",
    "rate_distortion",
]
