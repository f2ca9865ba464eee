"""Where the batches of a fit come from: rows in memory, rows that are read by their numbers, or a stream."""

from pyrovae.training.sources.make import is_stream, make
from pyrovae.training.sources.source import Batch, Source

__all__ = ["Batch", "Source", "is_stream", "make"]
