"""The fixed binarization of MNIST, packed and as text."""

import numpy as np
import pytest
import torch
from torch.distributions import constraints

from pyrovae.datasets import load, static_mnist

PIXELS = {
    part: np.random.default_rng(i).integers(0, 2, (4 - i, 784), dtype=np.uint8)
    for i, part in enumerate(("train", "valid", "test"))
}


def text(x):
    return "".join(" ".join(map(str, row)) + " \n" for row in x.tolist())


def save_text(folder):
    folder.mkdir(parents=True)
    for part, x in PIXELS.items():
        (folder / f"binarized_mnist_{part}.amat").write_text(text(x))


def check(data):
    assert data.support is constraints.boolean and data.transform is None and data.train_labels is None
    for x, expected in zip((data.train, data.validation, data.test), PIXELS.values(), strict=True):
        assert x.dtype == torch.float32
        assert np.array_equal(x.numpy(), expected.reshape(-1, 1, 28, 28))


def test_packed(tmp_path):
    (tmp_path / "static_mnist").mkdir()
    packed = {part: np.packbits(x, axis=1) for part, x in PIXELS.items()}
    np.savez(tmp_path / "static_mnist" / "static_mnist.npz", **packed)
    check(load("static_mnist", root=tmp_path, download=False))


def test_text(tmp_path):
    save_text(tmp_path / "static_mnist")
    check(load("static_mnist", root=tmp_path, download=False))


def test_download(tmp_path, web, monkeypatch):
    folder, url = web
    save_text(folder / "here")
    monkeypatch.setattr(static_mnist, "URL", f"{url}here/")
    check(load("static_mnist", root=tmp_path / "data"))
    monkeypatch.setattr(static_mnist, "URL", f"{url}gone/")
    check(load("static_mnist", root=tmp_path / "data"))
    path = tmp_path / "other" / "static_mnist" / "binarized_mnist_train.amat"
    with pytest.raises(FileNotFoundError) as error:
        load("static_mnist", root=tmp_path / "other")
    assert str(error.value) == (
        f"static_mnist: {path} is missing and could not be downloaded (HTTP Error 404: File not found). "
        "Put the file there, or pass root=DIR (--data-root DIR)."
    )
    with pytest.raises(FileNotFoundError) as error:
        load("static_mnist", root=tmp_path / "other", download=False)
    assert str(error.value) == (
        f"static_mnist: {path} is missing. Put the file there, or pass root=DIR (--data-root DIR)."
    )


@pytest.mark.parametrize("content", ["", "0 1\n", text(PIXELS["train"]).replace("1", "2"), "<html>not found</html>"])
def test_damaged_text(tmp_path, content):
    save_text(tmp_path / "static_mnist")
    path = tmp_path / "static_mnist" / "binarized_mnist_train.amat"
    path.write_text(content)
    with pytest.raises(ValueError) as error:
        load("static_mnist", root=tmp_path)
    assert str(error.value) == (
        f"{path}: expected lines of 784 digits 0 or 1. Delete it, so that it is downloaded again."
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"train": PIXELS["train"]},
            r"expected train to be packed bits, uint8 of shape \(N, 98\), got uint8 \(4, 784\)",
        ),
        ({"train": np.packbits(PIXELS["train"], axis=1)}, r"expected validation to be packed .*, got no such array"),
    ],
)
def test_damaged_packed(tmp_path, arrays, message):
    (tmp_path / "static_mnist").mkdir()
    np.savez(tmp_path / "static_mnist" / "static_mnist.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load("static_mnist", root=tmp_path)


def test_the_real_one_is_a_draw_of_mnist(real_root):
    data, grey = load("static_mnist", root=real_root, download=False), load("mnist", root=real_root, binarize="none")
    assert [len(x) for x in (data.train, data.validation, data.test)] == [50_000, 10_000, 10_000]
    # The test rows are MNIST's in the order of their digits, each pixel drawn with its grey value as probability.
    p, x = grey.test[grey.test_labels.argsort(stable=True)].double(), data.test.double()
    assert bool((x[p == 0] == 0).all()) and bool((x[p == 1] == 1).all())
    assert abs((x - p).sum() / (p * (1 - p)).sum().sqrt()) < 4
