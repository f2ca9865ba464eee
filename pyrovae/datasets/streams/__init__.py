"""Files that are larger than memory, as streams of batches for `pyrovae.fit`."""

from pyrovae.datasets.streams.grouped import Grouped
from pyrovae.datasets.streams.h5ad import H5ad
from pyrovae.datasets.streams.parquet import Parquet
from pyrovae.datasets.streams.stream import stream

__all__ = ["Grouped", "H5ad", "Parquet", "stream"]
