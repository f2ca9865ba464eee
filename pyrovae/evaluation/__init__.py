"""Evaluation: ELBO with its split, log p(x), k-hat and active units; imputation of missing cells."""

from pyrovae.evaluation.evaluate import Evaluation, evaluate
from pyrovae.evaluation.impute import impute
from pyrovae.evaluation.log_marginal import LogMarginal, log_marginal
from pyrovae.evaluation.psis import k_hat

__all__ = ["Evaluation", "LogMarginal", "evaluate", "impute", "k_hat", "log_marginal"]
