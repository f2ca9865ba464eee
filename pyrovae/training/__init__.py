"""Training: `fit`, and the parts it is made of."""

from pyrovae.training.ex_post import ex_post
from pyrovae.training.fit import fit

__all__ = ["ex_post", "fit"]
