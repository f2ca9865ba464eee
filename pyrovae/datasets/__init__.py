"""Data by name or from a file, as three splits of tensors: ``load("digits").train``."""

from pyrovae.datasets import linear_gaussian
from pyrovae.datasets.binarize import binarize
from pyrovae.datasets.catalog import DATASETS, Source, load, names
from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.linear_gaussian import LinearGaussian
from pyrovae.datasets.missing import take_away
from pyrovae.datasets.schema import Column, Schema
from pyrovae.datasets.shapes import shapes
from pyrovae.datasets.streams import stream

__all__ = [
    "DATASETS",
    "Column",
    "Dataset",
    "LinearGaussian",
    "Schema",
    "Source",
    "binarize",
    "linear_gaussian",
    "load",
    "names",
    "shapes",
    "stream",
    "take_away",
]
