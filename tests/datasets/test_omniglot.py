"""Omniglot in a tiny folder of its layout."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import constraints

from pyrovae.datasets import load

BACKGROUND = {"Greek": 2, "Arabic": 1}
EVALUATION = {"Tibetan": 1}


@pytest.fixture
def root(tmp_path):
    """Each image is white but for one black block; its place is the number of the image."""
    for folder, alphabets in (("images_background", BACKGROUND), ("images_evaluation", EVALUATION)):
        for alphabet, characters in alphabets.items():
            for character in range(1, characters + 1):
                place = tmp_path / "omniglot-py" / folder / alphabet / f"character{character:02d}"
                place.mkdir(parents=True)
                for drawing in range(5):
                    white = np.full((105, 105), 255, np.uint8)
                    # 15 x 15 is 4 x 4 of the 28 x 28 pixels.
                    white[15 * drawing : 15 * drawing + 15, 30:45] = 0
                    Image.fromarray(white).convert("1").save(place / f"{drawing:04d}.png")
    return tmp_path


def test_images_are_ink_on_a_28_grid(root):
    data = load("omniglot", root=root, binarize="none", download=False)
    assert data.support is constraints.unit_interval and data.event_shape == (1, 28, 28)
    assert len(data.test) == 5
    for drawing, image in enumerate(data.test[:, 0]):
        expected = torch.zeros(28, 28)
        expected[4 * drawing : 4 * drawing + 4, 8:12] = 1
        assert torch.equal(image, expected)


def test_background_is_split_and_evaluation_is_the_test(root):
    data = load("omniglot", root=root, seed=1, download=False)
    assert [len(x) for x in (data.train, data.validation, data.test)] == [14, 1, 5]
    assert data.label_names == ("Arabic/character01", "Greek/character01", "Greek/character02", "Tibetan/character01")
    assert data.test_labels.tolist() == [3] * 5
    both = torch.cat([data.train_labels, data.validation_labels])
    assert both.bincount().tolist() == [5, 5, 5]
    again, other = (load("omniglot", root=root, seed=s, download=False) for s in (1, 2))
    assert torch.equal(data.train, again.train) and not torch.equal(data.train, other.train)


def test_images_are_torchvisions(root, monkeypatch, torchvision):
    monkeypatch.setattr(torchvision.Omniglot, "_check_integrity", lambda self: True)
    theirs = torchvision.Omniglot(root, background=False)
    ours = load("omniglot", root=root, binarize="none", download=False).test
    means = sorted((1 - np.asarray(image) / 255).mean() for image, _ in theirs)
    np.testing.assert_allclose(sorted(ours.mean((1, 2, 3)).tolist()), means, rtol=1e-5)


@pytest.mark.parametrize("folder", ["images_background", "images_evaluation"])
def test_missing(root, folder):
    path = root / "omniglot-py" / folder
    shutil.rmtree(path)
    with pytest.raises(FileNotFoundError) as error:
        load("omniglot", root=root, download=False)
    assert str(error.value) == (f"omniglot: {path} is missing. Put the file there, or pass root=DIR (--data-root DIR).")


def test_download(root, tmp_path, web, monkeypatch, capfd, torchvision):
    folder, url = web
    sums = {}
    for name in ("images_background", "images_evaluation"):
        archive = Path(shutil.make_archive(folder / name, "zip", root / "omniglot-py", name))
        sums[name] = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(torchvision.Omniglot, "zips_md5", sums)
    monkeypatch.setattr(torchvision.Omniglot, "download_url_prefix", url.rstrip("/"))
    here, data = load("omniglot", root=root, download=False), load("omniglot", root=tmp_path / "new")
    assert torch.equal(data.train, here.train) and torch.equal(data.test, here.test)
    assert sorted(path.name for path in (tmp_path / "new").glob("*/*")) == sorted(sums)

    archive.write_bytes(b"damaged")
    path = tmp_path / "newer" / "omniglot-py" / "images_evaluation"
    with pytest.raises(FileNotFoundError) as error:
        load("omniglot", root=tmp_path / "newer")
    assert str(error.value) == (
        f"omniglot: {path} is missing and could not be downloaded (File not found or corrupted.). "
        "Put the file there, or pass root=DIR (--data-root DIR)."
    )
    assert [path.name for path in (tmp_path / "newer").glob("*")] == ["omniglot-py"] and not path.exists()
    assert capfd.readouterr() == ("", "")
