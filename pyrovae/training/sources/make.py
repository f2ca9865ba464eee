"""The source that suits what a user hands in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from pyrovae import hierarchy
from pyrovae.config import Training
from pyrovae.training.batches import Transform, check_batch_norm
from pyrovae.training.distributed import World
from pyrovae.training.sources.indexed import Indexed, Read
from pyrovae.training.sources.mapped import is_mapped, reader
from pyrovae.training.sources.memory import Memory
from pyrovae.training.sources.source import Source
from pyrovae.training.sources.stream import Stream
from pyrovae.vae import VAE


def make(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    condition: Any,  # noqa: ANN401
    *,
    batch_size: int = Training.batch_size,
    transform: Transform | None = None,
    world: World | None = None,
    seed: int = 0,
    epochs: int = 1,
) -> Source:
    """The source of batches of x: a tensor, array or data frame in memory; a mapped array; a torch ``Dataset`` of rows;
    a ``DataLoader`` or any other stream of batches.

    Raises:
        ValueError: for data that the model does not take, or cannot be trained on in such batches.
    """
    world = World() if world is None else world
    shared = {"transform": transform, "world": world, "seed": seed}
    if condition is not None and (is_stream(x) or isinstance(x, Dataset)):
        raise ValueError(
            f"condition: expected none beside a {type(x).__name__}, which gives pairs (x, condition) itself, got a "
            f"{type(condition).__name__}"
        )
    source: Source
    if is_mapped(x):
        source = Indexed(vae, reader(vae, x, condition), len(x), batch_size, **shared)
    elif isinstance(x, Dataset) and not isinstance(x, IterableDataset):
        source = Indexed(vae, _of_dataset(x), _length(x), batch_size, **shared)
    elif is_stream(x):
        own = isinstance(x, IterableDataset)
        # The default is taken for no wish, because it cannot be told from none.
        expected = None if own or batch_size == Training.batch_size else batch_size
        source = Stream(vae, DataLoader(x, batch_size) if own else x, expected, epochs=epochs, **shared)
    else:
        source = Memory(vae, x, condition, batch_size, **shared)
    _check(vae, source, batch_size)
    return source


def is_stream(x: Any) -> bool:  # noqa: ANN401
    """Whether x gives batches one after the other: a ``DataLoader``, an ``IterableDataset``, a list of tensors of rows,
    or anything else to iterate over that is not itself an array or a table."""
    if isinstance(x, DataLoader | IterableDataset):
        return True
    if isinstance(x, list):
        return bool(x) and isinstance(x[0], Tensor | np.ndarray | tuple) and np.ndim(_first(x[0])) > 1
    arrays = ("to_numpy", "__array__", "toarray")
    return (
        isinstance(x, Iterable)
        and not isinstance(x, Tensor | Dataset | tuple | dict | str)
        and not any(hasattr(x, name) for name in arrays)
    )


def _first(batch: Any) -> Any:  # noqa: ANN401
    """x of a batch, or of a pair (x, condition)."""
    return batch[0] if isinstance(batch, tuple) and batch else batch


def _of_dataset(dataset: Dataset) -> Read:
    """Reads items of a map-style ``Dataset``, each x or (x, condition) of a row."""
    several: Callable[[list[int]], list[Any]] = getattr(
        dataset, "__getitems__", lambda rows: [dataset[row] for row in rows]
    )

    def read(rows: np.ndarray) -> tuple[Any, Any]:
        try:
            items = default_collate(several(rows.tolist()))
        except TypeError as error:
            raise ValueError(
                f"x: expected of a Dataset items that are tensors, arrays or numbers, got others from "
                f"{type(dataset).__name__} ({error}). Images of PIL become tensors by transform=ToTensor()."
            ) from error
        parts = tuple(items) if isinstance(items, tuple | list) else (items,)
        if not 1 <= len(parts) <= 2:
            raise ValueError(
                f"x: expected of a Dataset items x, or (x, condition), got items of {len(parts)} parts from "
                f"{type(dataset).__name__}"
            )
        return (*parts, None)[:2]

    return read


def _length(dataset: Dataset) -> int:
    rows = len(dataset)
    if not rows:
        raise ValueError(f"x: expected at least one row, got none from {type(dataset).__name__}")
    return rows


def _check(vae: VAE, source: Source, batch_size: int) -> None:
    """Raise a ValueError if rows that the model needs at once do not come at once, or a number that it needs is not
    known."""
    if isinstance(source, Stream):
        size: int | str = "a stream of batches"
    else:
        size = batch_size
        check_batch_norm(vae, source.rows, batch_size)
    if vae.prior.has("joint") and (isinstance(source, Stream) or batch_size < source.rows):
        rows = "" if source.rows is None else f"{source.rows} "
        raise ValueError(
            f"batch_size: the prior ({type(vae.prior.piece).__name__}) makes rows depend on one another: expected all "
            f"{rows}rows in one batch, got {size}. Pass x in memory with batch_size={source.rows or 'N'}, or a prior "
            "with inducing points."
        )
    if source.rows is None and hierarchy.counts_rows(vae):
        raise ValueError(
            "x: the prior must know how many rows there are, and this stream does not say. Pass a DataLoader of a "
            "Dataset of known length, or an object with the number of rows as its attribute `rows`."
        )
