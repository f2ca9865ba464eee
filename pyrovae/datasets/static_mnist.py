"""MNIST in the one fixed binarization that most published log-likelihoods are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.datasets.arrays import read_arrays
from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.download import fetch, missing

URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
_PARTS = ("train", "valid", "test")


def load(*, root: Path, download: bool = True) -> Dataset:
    """50,000 / 10,000 / 10,000 images of ``(1, 28, 28)`` pixels 0 or 1, without labels.

    Read from ``root/static_mnist``: either ``static_mnist.npz`` with arrays train, valid and test of bytes
    ``numpy.packbits(pixels, axis=1)``, or Larochelle's three text files
    ``binarized_mnist_{train,valid,test}.amat``, which are downloaded (110 MB) where there is neither.

    The test rows are in the order of their digits: for a part of them take random rows, not the first ones.

    Reference: Salakhutdinov and Murray, 2008, https://doi.org/10.1145/1390156.1390266

    Raises FileNotFoundError for files that are not there and cannot be downloaded, ValueError for damaged
    ones.
    """
    folder = root / "static_mnist"
    if (folder / "static_mnist.npz").is_file():
        parts = _packed(folder / "static_mnist.npz")
    else:
        parts = [_text(folder / f"binarized_mnist_{part}.amat", download) for part in _PARTS]
    train, validation, test = parts
    return Dataset("static_mnist", train, validation, test, constraints.boolean)


def _packed(path: Path) -> list[Tensor]:
    arrays, _ = read_arrays(path, label=None)
    parts = []
    for part in ("train", "validation", "test"):
        packed = arrays.get(part)
        if packed is None or packed.dtype != np.uint8 or packed.shape[1:] != (98,):
            found = "no such array" if packed is None else f"{packed.dtype} {packed.shape}"
            raise ValueError(f"{path}: expected {part} to be packed bits, uint8 of shape (N, 98), got {found}")
        parts.append(_images(np.unpackbits(packed, axis=1)))
    return parts


def _text(path: Path, download: bool) -> Tensor:
    if not path.is_file():
        if not download:
            raise missing("static_mnist", path)
        fetch("static_mnist", URL + path.name, path)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    pixels = content[~np.isin(content, np.frombuffer(b" \r\n\t", np.uint8))] - ord("0")
    if pixels.size == 0 or pixels.size % 784 or pixels.max() > 1:
        raise ValueError(f"{path}: expected lines of 784 digits 0 or 1. Delete it, so that it is downloaded again.")
    return _images(pixels.reshape(-1, 784))


def _images(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32).reshape(-1, 1, 28, 28))
