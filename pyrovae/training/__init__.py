"""Training: `fit`, and the parts it is made of."""

from pyrovae.training.ex_post import ex_post
from pyrovae.training.fit import fit
from pyrovae.training.svi import CompiledSVI

__all__ = ["CompiledSVI", "ex_post", "fit"]
