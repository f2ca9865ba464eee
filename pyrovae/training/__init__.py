"""Training: `fit`, and the parts it is made of."""

from pyrovae.training.fit import fit

__all__ = ["fit"]
