"""A stream by the ending of a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pyrovae.datasets.streams.grouped import Grouped
from pyrovae.datasets.streams.h5ad import H5ad
from pyrovae.datasets.streams.parquet import Parquet

STREAMS = {".parquet": Parquet, ".h5ad": H5ad}


def stream(path: str | os.PathLike[str], **options: Any) -> Grouped:  # noqa: ANN401 - as the class has them
    """Batches of the rows of a file that need not fit into memory, for `pyrovae.fit`.

    Args:
        path: a ``.parquet`` file (see `Parquet`) or an AnnData file, ``.h5ad`` (see `H5ad`).
        options: ``batch_size``, ``shuffle``, ``buffer``, ``seed`` and ``condition``; of a Parquet file ``columns``, of
            an AnnData file ``layer``.

    Raises:
        FileNotFoundError, ValueError: as the class does, or for a file of another kind.

    >>> import pandas as pd
    >>> pd.DataFrame({"a": range(100), "b": range(100)}).to_parquet("table.parquet")
    >>> [batch.shape for batch in stream("table.parquet", batch_size=40)]
    [(40, 2), (40, 2), (20, 2)]
    """
    suffix = Path(path).suffix.lower()
    if suffix not in STREAMS:
        raise ValueError(
            f"{os.fspath(path)}: expected a file ending in {' or '.join(STREAMS)}, got {suffix or 'no ending'!r}. A "
            ".npy file goes to fit as np.load(path, mmap_mode='r')."
        )
    return STREAMS[suffix](path, **options)
