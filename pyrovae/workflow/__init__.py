"""A trained VAE inside a Bayesian workflow: draws of its posterior and of its decoder's weights, its decoder
as a prior, and as a file."""

from pyrovae.workflow.as_prior import Field, as_prior
from pyrovae.workflow.compiled_nuts import CompiledNUTS
from pyrovae.workflow.decoder_weights import DecoderPosterior, decoder_posterior
from pyrovae.workflow.export_decoder import export_decoder
from pyrovae.workflow.sample_posterior import sample_posterior

__all__ = [
    "CompiledNUTS",
    "DecoderPosterior",
    "Field",
    "as_prior",
    "decoder_posterior",
    "export_decoder",
    "sample_posterior",
]
