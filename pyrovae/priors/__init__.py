"""Priors p(z): a name, an object from here, any Pyro Distribution, or your own module (see `pyrovae.piece`)."""

from torch.distributions import Distribution

from pyrovae.piece import Piece
from pyrovae.priors.fixed import Fixed
from pyrovae.priors.normal import Normal
from pyrovae.registry import Family
from pyrovae.registry import make as _make

__all__ = ["FAMILY", "Fixed", "Normal", "make"]

FAMILY: Family = {"normal": Normal}


def make(value: str | Piece | Distribution) -> Piece:
    """A prior from its name, a Pyro distribution, or itself."""
    return Fixed(value) if isinstance(value, Distribution) else _make(value, FAMILY, "prior")
