"""What torch, Pyro and zuko lack, or get wrong where a VAE goes."""

from pyrovae.distributions.bijection import base, bijection, same_support
from pyrovae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyrovae.distributions.moments import centre, expectation, moments
from pyrovae.distributions.scale import inverse_scale, positive, to_scale
from pyrovae.distributions.tensors import map_tensors

__all__ = [
    "ContinuousBernoulli",
    "base",
    "bijection",
    "centre",
    "expectation",
    "inverse_scale",
    "map_tensors",
    "moments",
    "positive",
    "same_support",
    "to_scale",
]
