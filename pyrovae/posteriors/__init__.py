"""Posteriors q(z | x): a name, an object from here, or your own module (see `pyrovae.piece`)."""

from pyrovae.piece import Piece
from pyrovae.posteriors.normal import Normal
from pyrovae.registry import Family
from pyrovae.registry import make as _make

__all__ = ["FAMILY", "Normal", "make"]

FAMILY: Family = {"normal": Normal}


def make(value: str | Piece) -> Piece:
    """A posterior from its name, or itself."""
    return _make(value, FAMILY, "posterior")
