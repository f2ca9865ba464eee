"""A trained VAE inside a Bayesian workflow: draws of its posterior, its decoder as a prior."""

from pyrovae.workflow.sample_posterior import sample_posterior

__all__ = ["sample_posterior"]
