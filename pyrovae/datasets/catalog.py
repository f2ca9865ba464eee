"""Every data set by name."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.distributions import constraints

from pyrovae.datasets import embedded, files, linear_gaussian, mnist, omniglot, static_mnist
from pyrovae.datasets.binarize import MODES
from pyrovae.datasets.binarize import binarize as binarized
from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.schema import Kinds, Schema, encode, frame_of
from pyrovae.datasets.shapes import load as shapes
from pyrovae.datasets.splits import PARTS
from pyrovae.registry import choose


class Source(NamedTuple):
    """How to load a data set, what it is in one line, and where it is from (a URL)."""

    loader: Callable[..., Dataset]
    summary: str
    reference: str


DATASETS: dict[str, Source] = {
    "digits": Source(
        embedded.digits,
        "1,797 handwritten digits, 8 x 8 grey pixels; nothing to download",
        "https://doi.org/10.24432/C50P49",
    ),
    "mnist": Source(
        mnist.mnist,
        "70,000 handwritten digits, 28 x 28 grey pixels",
        "https://doi.org/10.1109/5.726791",
    ),
    "static_mnist": Source(
        static_mnist.load,
        "MNIST in the fixed binarization of most published log-likelihoods",
        "https://doi.org/10.1145/1390156.1390266",
    ),
    "fashion_mnist": Source(
        mnist.fashion_mnist,
        "70,000 articles of clothing, 28 x 28 grey pixels",
        "https://arxiv.org/abs/1708.07747",
    ),
    "kmnist": Source(
        mnist.kmnist,
        "70,000 cursive Japanese characters, 28 x 28 grey pixels",
        "https://arxiv.org/abs/1812.01718",
    ),
    "omniglot": Source(
        omniglot.load,
        "32,460 characters of 50 alphabets, 28 x 28 grey pixels; other alphabets in the test rows",
        "https://doi.org/10.1126/science.aab3050",
    ),
    "breast_cancer": Source(
        embedded.breast_cancer,
        "569 tumours, 30 measures, 2 classes; nothing to download",
        "https://doi.org/10.24432/C5DW2B",
    ),
    "iris": Source(
        embedded.iris,
        "150 flowers, 4 measures, 3 classes; nothing to download",
        "https://doi.org/10.1111/j.1469-1809.1936.tb02137.x",
    ),
    "wine": Source(
        embedded.wine,
        "178 wines, 13 measures, 3 classes; nothing to download",
        "https://doi.org/10.24432/C5PC7J",
    ),
    "diabetes": Source(
        embedded.diabetes,
        "442 patients, 10 measures, a float target; nothing to download",
        "https://doi.org/10.1214/009053604000000067",
    ),
    "linear_gaussian": Source(
        linear_gaussian.load,
        "2,000 rows of probabilistic PCA with an exact log p(x); nothing to download",
        "https://doi.org/10.1111/1467-9868.00196",
    ),
    "shapes": Source(
        shapes,
        "7,500 shapes of five known factors, 28 x 28 grey pixels; nothing to download",
        "https://openreview.net/forum?id=Sy2fzU9gl",
    ),
}


def names() -> dict[str, str]:
    """The name of each data set and what it is, in one line.

    >>> names()["iris"]
    '150 flowers, 4 measures, 3 classes; nothing to download'
    """
    return {name: source.summary for name, source in DATASETS.items()}


def load(
    name: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] = "data",
    binarize: str | None = None,
    standardize: bool = True,
    label: str | None = None,
    schema: Schema | Kinds | None = None,
    seed: int = 0,
    download: bool = True,
) -> Dataset:
    """A data set by its name, or the rows in a file of yours. The global random state is left alone.

    Args:
        name: one of `names`, or a path to a .npy, .npz, .csv or .parquet file (see `files.read`).
        root: the folder of data that have to be downloaded, in torchvision's layout.
        binarize: "none", "static", "dynamic" or "threshold" for grey images (see `binarize.binarize`); by
            default "dynamic" for them and "none" for anything else.
        standardize: whether the columns of real tables get mean 0 and standard deviation 1 on the training
            rows. Densities are then in standardized units: subtract ``data.scale.log().sum()`` from log p(x)
            for the density of the raw rows.
        label: the column of a table (or the array of an .npz file) that holds labels and is not data.
        schema: for a table whose columns have different types, text and missing values among them: its `Schema`, or
            the kinds of those columns where the inferred one does not suit (``{}`` for none). Nothing is standardized.
        seed: decides the split of sets that come without one, the drawn pixels, and synthetic data.
        download: whether to download what ``root`` lacks.

    Raises:
        ValueError: an unknown name, an option that does not fit the data, or a file with unusable content.
        FileNotFoundError: a file that is not there and could not be downloaded.
        ImportError: a download by torchvision where that cannot be imported.

    >>> load("digits", binarize="threshold")
    Dataset(name='digits', rows=(1439, 179, 179), event_shape=(1, 8, 8), support=Boolean())
    """
    if binarize is not None:
        choose(binarize, MODES, "binarize mode")
    if name not in DATASETS and files.is_path(name):
        data = files.read(name, label=label, seed=seed, standardize=standardize, schema=schema)
    else:
        loader = DATASETS[_known(str(name))].loader
        if label is not None:
            raise ValueError(f"{name}: expected no label, got {label!r}. It is for files; named sets have theirs.")
        standardize = standardize and schema is None
        options = {"root": Path(root).expanduser(), "seed": seed, "standardize": standardize, "download": download}
        accepted = inspect.signature(loader).parameters
        data = loader(**{key: value for key, value in options.items() if key in accepted})
        if schema is not None:
            data = _with_schema(data, schema)
    if binarize is None:
        binarize = "dynamic" if data.grey else "none"
    return binarized(data, binarize, seed)


def _with_schema(data: Dataset, schema: Schema | Kinds) -> Dataset:
    """Numbers as a table whose columns are of different kinds."""
    frames = {part: frame_of(getattr(data, part).numpy(), data.name, data.columns) for part in PARTS}
    arrays, schema = encode(frames, schema, data.name)
    rows = {part: torch.from_numpy(array).float() for part, array in arrays.items()}
    return dataclasses.replace(data, **rows, support=constraints.real, columns=schema.names, schema=schema)


def _known(name: str) -> str:
    try:
        return choose(name, DATASETS, "dataset")
    except ValueError as error:
        raise ValueError(f"{error} A path to a {', '.join(files.SUFFIXES)} file works too.") from None
