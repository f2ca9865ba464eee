"""A posterior over the weights of a decoder, one file a method."""

from pyrovae.workflow.decoder_weights.decoder_posterior import METHODS, decoder_posterior
from pyrovae.workflow.decoder_weights.posterior import DecoderPosterior

__all__ = ["METHODS", "DecoderPosterior", "decoder_posterior"]
