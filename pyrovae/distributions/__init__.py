"""What torch, Pyro and zuko lack, or get wrong where a VAE goes."""

from pyrovae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyrovae.distributions.scale import inverse_scale, positive, to_scale

__all__ = ["ContinuousBernoulli", "inverse_scale", "positive", "to_scale"]
