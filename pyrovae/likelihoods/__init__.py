"""Likelihoods p(x | z): a name, an object from here, or your own module (see `pyrovae.piece`)."""

from pyrovae.likelihoods.bernoulli import Bernoulli
from pyrovae.likelihoods.beta import Beta
from pyrovae.likelihoods.categorical import Categorical
from pyrovae.likelihoods.continuous_bernoulli import ContinuousBernoulli
from pyrovae.likelihoods.dirichlet_multinomial import DirichletMultinomial
from pyrovae.likelihoods.discretised_logistic import DiscretisedLogistic, DiscretisedLogisticMixture
from pyrovae.likelihoods.gamma import Gamma
from pyrovae.likelihoods.gaussian import Gaussian
from pyrovae.likelihoods.laplace import Laplace
from pyrovae.likelihoods.log_normal import LogNormal
from pyrovae.likelihoods.missing import Missing
from pyrovae.likelihoods.multinomial import Multinomial
from pyrovae.likelihoods.negative_binomial import NegativeBinomial
from pyrovae.likelihoods.ordinal import Ordinal
from pyrovae.likelihoods.poisson import Poisson
from pyrovae.likelihoods.student_t import StudentT
from pyrovae.likelihoods.tabular import Tabular
from pyrovae.likelihoods.zero_inflated import ZeroInflatedNegativeBinomial, ZeroInflatedPoisson
from pyrovae.piece import Piece
from pyrovae.registry import Family
from pyrovae.registry import make as _make

__all__ = [
    "FAMILY",
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DirichletMultinomial",
    "DiscretisedLogistic",
    "DiscretisedLogisticMixture",
    "Gamma",
    "Gaussian",
    "Laplace",
    "LogNormal",
    "Missing",
    "Multinomial",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
    "Tabular",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "make",
]

FAMILY: Family = {
    "bernoulli": Bernoulli,
    "beta": Beta,
    "categorical": Categorical,
    "continuous_bernoulli": ContinuousBernoulli,
    "dirichlet_multinomial": DirichletMultinomial,
    "discretised_logistic": DiscretisedLogistic,
    "discretised_logistic_mixture": DiscretisedLogisticMixture,
    "gamma": Gamma,
    "gaussian": Gaussian,
    "laplace": Laplace,
    "log_normal": LogNormal,
    "multinomial": Multinomial,
    "negative_binomial": NegativeBinomial,
    "ordinal": Ordinal,
    "poisson": Poisson,
    "student_t": StudentT,
    "tabular": Tabular,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial,
    "zero_inflated_poisson": ZeroInflatedPoisson,
}


def make(value: str | Piece) -> Piece:
    """A likelihood from its name, or itself."""
    return _make(value, FAMILY, "likelihood")
