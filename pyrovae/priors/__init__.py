"""Priors p(z): a name, an object from here, any Pyro Distribution, or your own module (see `pyrovae.piece`)."""

from torch.distributions import Distribution

from pyrovae.piece import Piece
from pyrovae.priors.categorical import Categorical
from pyrovae.priors.conditional import Conditional
from pyrovae.priors.dirichlet import Dirichlet
from pyrovae.priors.fixed import Fixed
from pyrovae.priors.flow import Flow
from pyrovae.priors.gamma import Gamma
from pyrovae.priors.gp import GP
from pyrovae.priors.hyperspherical import Hyperspherical
from pyrovae.priors.laplace import Laplace
from pyrovae.priors.logistic_normal import LogisticNormal
from pyrovae.priors.mixture import Mixture
from pyrovae.priors.normal import Normal
from pyrovae.priors.one_hot import OneHot
from pyrovae.priors.power_spherical import PowerSpherical
from pyrovae.priors.student_t import StudentT
from pyrovae.priors.uniform import Uniform
from pyrovae.priors.vamp import Vamp
from pyrovae.registry import Family
from pyrovae.registry import make as _make

__all__ = [
    "Categorical",
    "Conditional",
    "Dirichlet",
    "FAMILY",
    "Fixed",
    "Flow",
    "GP",
    "Gamma",
    "Hyperspherical",
    "Laplace",
    "LogisticNormal",
    "Mixture",
    "Normal",
    "OneHot",
    "PowerSpherical",
    "StudentT",
    "Uniform",
    "Vamp",
    "make",
]

FAMILY: Family = {
    "categorical": Categorical,
    "conditional": Conditional,
    "dirichlet": Dirichlet,
    "flow": Flow,
    "gamma": Gamma,
    "gp": GP,
    "hyperspherical": Hyperspherical,
    "laplace": Laplace,
    "logistic_normal": LogisticNormal,
    "mixture": Mixture,
    "normal": Normal,
    "one_hot": OneHot,
    "power_spherical": PowerSpherical,
    "student_t": StudentT,
    "uniform": Uniform,
    "vamp": Vamp,
}


def make(value: str | Piece | Distribution) -> Piece:
    """A prior from its name, a Pyro distribution, or itself."""
    return Fixed(value) if isinstance(value, Distribution) else _make(value, FAMILY, "prior")
