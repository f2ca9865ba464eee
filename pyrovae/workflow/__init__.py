"""A trained VAE inside a Bayesian workflow: draws of its posterior, its decoder as a prior, and as a file."""

from pyrovae.workflow.as_prior import Field, as_prior
from pyrovae.workflow.export_decoder import export_decoder
from pyrovae.workflow.sample_posterior import sample_posterior

__all__ = ["Field", "as_prior", "export_decoder", "sample_posterior"]
