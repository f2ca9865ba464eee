"""Posteriors q(z | x): a name, an object from here, or your own module (see `pyrovae.piece`)."""

from pyrovae.piece import Piece
from pyrovae.posteriors.categorical import Categorical
from pyrovae.posteriors.coupling import Coupling
from pyrovae.posteriors.delta import Delta
from pyrovae.posteriors.dirichlet import Dirichlet
from pyrovae.posteriors.full_rank import FullRank
from pyrovae.posteriors.gamma import Gamma
from pyrovae.posteriors.householder import Householder
from pyrovae.posteriors.iaf import IAF
from pyrovae.posteriors.laplace import Laplace
from pyrovae.posteriors.low_rank import LowRank
from pyrovae.posteriors.maf import MAF
from pyrovae.posteriors.mixture import Mixture
from pyrovae.posteriors.normal import Normal
from pyrovae.posteriors.nsf import NSF
from pyrovae.posteriors.planar import Planar
from pyrovae.posteriors.power_spherical import PowerSpherical
from pyrovae.posteriors.refined import Refined
from pyrovae.posteriors.relaxed_categorical import RelaxedCategorical
from pyrovae.posteriors.student_t import StudentT
from pyrovae.posteriors.sylvester import Sylvester
from pyrovae.registry import Family
from pyrovae.registry import make as _make

__all__ = [
    "Categorical",
    "Coupling",
    "Delta",
    "Dirichlet",
    "FAMILY",
    "FullRank",
    "Gamma",
    "Householder",
    "IAF",
    "Laplace",
    "LowRank",
    "MAF",
    "Mixture",
    "NSF",
    "Normal",
    "Planar",
    "PowerSpherical",
    "Refined",
    "RelaxedCategorical",
    "StudentT",
    "Sylvester",
    "make",
]

FAMILY: Family = {
    "categorical": Categorical,
    "coupling": Coupling,
    "delta": Delta,
    "dirichlet": Dirichlet,
    "full_rank": FullRank,
    "gamma": Gamma,
    "householder": Householder,
    "iaf": IAF,
    "laplace": Laplace,
    "low_rank": LowRank,
    "maf": MAF,
    "mixture": Mixture,
    "normal": Normal,
    "nsf": NSF,
    "planar": Planar,
    "power_spherical": PowerSpherical,
    "refined": Refined,
    "relaxed_categorical": RelaxedCategorical,
    "student_t": StudentT,
    "sylvester": Sylvester,
}


def make(value: str | Piece) -> Piece:
    """A posterior from its name, or itself."""
    return _make(value, FAMILY, "posterior")
