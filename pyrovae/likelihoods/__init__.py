"""Likelihoods p(x | z): a name, an object from here, or your own module (see `pyrovae.piece`)."""

from pyrovae.likelihoods.bernoulli import Bernoulli
from pyrovae.likelihoods.continuous_bernoulli import ContinuousBernoulli
from pyrovae.likelihoods.gaussian import Gaussian
from pyrovae.piece import Piece
from pyrovae.registry import Family
from pyrovae.registry import make as _make

__all__ = ["FAMILY", "Bernoulli", "ContinuousBernoulli", "Gaussian", "make"]

FAMILY: Family = {"bernoulli": Bernoulli, "continuous_bernoulli": ContinuousBernoulli, "gaussian": Gaussian}


def make(value: str | Piece) -> Piece:
    """A likelihood from its name, or itself."""
    return _make(value, FAMILY, "likelihood")
