"""Evaluation: ELBO with its split, log p(x), k-hat and active units."""

from pyrovae.evaluation.evaluate import Evaluation, evaluate
from pyrovae.evaluation.log_marginal import LogMarginal, log_marginal
from pyrovae.evaluation.psis import k_hat

__all__ = ["Evaluation", "LogMarginal", "evaluate", "k_hat", "log_marginal"]
