"""What torch, Pyro and zuko lack, or get wrong where a VAE goes."""

from pyrovae.distributions import kl  # noqa: F401 - it registers them
from pyrovae.distributions.beta import Beta, open_unit_interval
from pyrovae.distributions.bijection import base, bijection, same_support
from pyrovae.distributions.blocks import blocks, one_hot_blocks, simplex_blocks
from pyrovae.distributions.categorical import Categorical
from pyrovae.distributions.categoricals import Categoricals
from pyrovae.distributions.cholesky import cholesky
from pyrovae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyrovae.distributions.discretised_logistic import DiscretisedLogistic, Levels
from pyrovae.distributions.flow import Flow
from pyrovae.distributions.gamma import Gamma
from pyrovae.distributions.known import Known
from pyrovae.distributions.log_normal import LogNormal
from pyrovae.distributions.logistic_normal import LogisticNormal
from pyrovae.distributions.mixture import Mixture
from pyrovae.distributions.moments import centre, expectation, moments
from pyrovae.distributions.multinomial import DirichletMultinomial, Multinomial
from pyrovae.distributions.negative_binomial import NegativeBinomial
from pyrovae.distributions.normal_mixture import NormalMixture
from pyrovae.distributions.observed import Observed
from pyrovae.distributions.optimal_normal import OptimalNormal
from pyrovae.distributions.ordered_logistic import OrderedLogistic
from pyrovae.distributions.pathwise import pathwise
from pyrovae.distributions.poisson import Poisson
from pyrovae.distributions.power_spherical import PowerSpherical
from pyrovae.distributions.product import Columns, Product
from pyrovae.distributions.relaxed_categoricals import RelaxedCategoricals
from pyrovae.distributions.scale import inverse_scale, positive, to_scale
from pyrovae.distributions.sphere import HypersphericalUniform, sphere
from pyrovae.distributions.stick_breaking import StickBreaking
from pyrovae.distributions.tensors import map_tensors
from pyrovae.distributions.uniform import Uniform
from pyrovae.distributions.zero_inflated import ZeroInflated

__all__ = [
    "Beta",
    "Categorical",
    "Categoricals",
    "Columns",
    "ContinuousBernoulli",
    "DirichletMultinomial",
    "DiscretisedLogistic",
    "Flow",
    "Gamma",
    "HypersphericalUniform",
    "Known",
    "Levels",
    "LogNormal",
    "LogisticNormal",
    "Mixture",
    "Multinomial",
    "NegativeBinomial",
    "NormalMixture",
    "Observed",
    "OptimalNormal",
    "OrderedLogistic",
    "Poisson",
    "PowerSpherical",
    "Product",
    "RelaxedCategoricals",
    "StickBreaking",
    "Uniform",
    "ZeroInflated",
    "base",
    "bijection",
    "blocks",
    "centre",
    "cholesky",
    "expectation",
    "inverse_scale",
    "map_tensors",
    "moments",
    "one_hot_blocks",
    "open_unit_interval",
    "pathwise",
    "positive",
    "same_support",
    "simplex_blocks",
    "sphere",
    "to_scale",
]
