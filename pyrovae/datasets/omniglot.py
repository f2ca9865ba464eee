"""Omniglot: 1,623 characters of 50 alphabets, each drawn by 20 people."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.datasets.dataset import Dataset
from pyrovae.datasets.download import downloading, missing, torchvision_datasets
from pyrovae.datasets.splits import split

_FOLDERS = ("images_background", "images_evaluation")


def load(*, root: Path, seed: int = 0, download: bool = True) -> Dataset:
    """Images of ``(1, 28, 28)``, each pixel the share of ink (0 to 1) in its part of the 105 x 105 original.

    Test rows are the 13,180 images of the "evaluation" alphabets, so no character of theirs is seen in
    training. Validation is a seeded tenth of the 19,280 "background" images, training the rest. A label is a
    character, and ``label_names`` has ``alphabet/character``.

    These are not the rows of Burda et al. (2016), whose split mixes the alphabets.

    Reference: Lake, Salakhutdinov and Tenenbaum, 2015, https://doi.org/10.1126/science.aab3050
    """
    _ensure(root, download)
    # torchvision lists folders in the order of the disk; sorted, the labels are the same on every machine.
    background, evaluation = (sorted((root / "omniglot-py" / f).glob("*/*/*.png")) for f in _FOLDERS)
    names = [_character(path) for path in background + evaluation]
    label_names = tuple(dict.fromkeys(names))
    number = {name: i for i, name in enumerate(label_names)}
    labels = torch.tensor([number[name] for name in names], dtype=torch.int64, device="cpu")
    x, y = _images(background), labels[: len(background)]
    rows = split({"train": len(background), "test": len(evaluation)}, seed, "omniglot")
    train, validation = rows["train"][1], rows["validation"][1]
    return Dataset(
        "omniglot",
        x[train],
        x[validation],
        _images(evaluation),
        constraints.unit_interval,
        train_labels=y[train],
        validation_labels=y[validation],
        test_labels=labels[len(background) :],
        label_names=label_names,
    )


def _ensure(root: Path, download: bool) -> None:
    for i, folder in enumerate(_FOLDERS):
        path = root / "omniglot-py" / folder
        if path.is_dir():
            continue
        if not download:
            raise missing("omniglot", path)
        source = torchvision_datasets("omniglot").Omniglot
        with downloading("omniglot", path, [f"{source.download_url_prefix}/{folder}.zip"]):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Moved when complete: half an unpacked archive would pass for the whole.
            with TemporaryDirectory(dir=root) as unpacked:
                source(unpacked, background=i == 0, download=True)
                (Path(unpacked) / "omniglot-py" / folder).replace(path)


def _character(path: Path) -> str:
    return f"{path.parent.parent.name}/{path.parent.name}"


def _images(paths: list[Path]) -> Tensor:
    from PIL import Image

    pixels = np.empty((len(paths), 1, 28, 28), np.float32)
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            # Originals are black ink on white.
            pixels[i, 0] = np.asarray(image.convert("L").resize((28, 28), Image.Resampling.BOX))
    return torch.from_numpy(1 - pixels / 255)
