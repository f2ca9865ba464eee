"""The MNIST family: 28 x 28 grey images in torchvision's folders; only a download needs torchvision."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.download import downloading, missing, torchvision_datasets

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def mnist(*, root: Path, download: bool = True) -> Dataset:
    """Handwritten digits: 50,000 / 10,000 / 10,000 images of ``(1, 28, 28)`` grey values from 0 to 1.

    Reference: LeCun, Bottou, Bengio and Haffner, 1998, https://doi.org/10.1109/5.726791
    """
    return _load("mnist", "MNIST", root, download, tuple("0123456789"))


def fashion_mnist(*, root: Path, download: bool = True) -> Dataset:
    """Zalando's articles of clothing: 50,000 / 10,000 / 10,000 images of ``(1, 28, 28)`` grey values from 0 to 1.

    Reference: Xiao, Rasul and Vollgraf, 2017, https://arxiv.org/abs/1708.07747
    """
    names = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
    return _load("fashion_mnist", "FashionMNIST", root, download, tuple(names.split(",")))


def kmnist(*, root: Path, download: bool = True) -> Dataset:
    """Cursive Japanese characters: 50,000 / 10,000 / 10,000 images of ``(1, 28, 28)`` grey values from 0 to 1.

    Reference: Clanuwat, Bober-Irizar, Kitamoto, Lamb, Yamamoto and Ha, 2018, https://arxiv.org/abs/1812.01718
    """
    return _load("kmnist", "KMNIST", root, download, ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"))


def _load(name: str, folder: str, root: Path, download: bool, label_names: tuple[str, ...]) -> Dataset:
    raw = root / folder / "raw"
    _ensure(name, folder, root, download)
    (x, y), (test, test_labels) = ((_images(raw / i), _labels(raw / j)) for i, j in _FILES.values())
    # The last 10,000 of the official 60,000.
    cut = len(x) - len(x) // 6
    return Dataset(
        name,
        x[:cut],
        x[cut:],
        test,
        constraints.unit_interval,
        train_labels=y[:cut],
        validation_labels=y[cut:],
        test_labels=test_labels,
        label_names=label_names,
    )


def _ensure(name: str, folder: str, root: Path, download: bool) -> None:
    paths = [root / folder / "raw" / file for files in _FILES.values() for file in files]
    absent = [path for path in paths if not path.is_file()]
    if not absent:
        return
    if not download:
        raise missing(name, absent[0])
    source = getattr(torchvision_datasets(name), folder)
    with downloading(name, absent[0], [mirror + source.resources[0][0] for mirror in source.mirrors]):
        source(root, download=True)


def _images(path: Path) -> Tensor:
    return torch.from_numpy(_idx(path, ndim=3)[:, None].astype(np.float32) / 255)


def _labels(path: Path) -> Tensor:
    return torch.from_numpy(_idx(path, ndim=1).astype(np.int64))


def _idx(path: Path, ndim: int) -> np.ndarray:
    """An array of bytes in the IDX format: a magic number, ``ndim`` sizes, the bytes."""
    content = path.read_bytes()
    header = 4 * (1 + ndim)
    if len(content) >= header:
        magic, *shape = struct.unpack(f">{1 + ndim}I", content[:header])
        if magic == 0x0800 + ndim and len(content) == header + math.prod(shape):
            return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    raise ValueError(
        f"{path}: not a complete IDX file of {ndim}-D bytes ({len(content)} bytes long). "
        "Delete it, so that it is downloaded again."
    )
