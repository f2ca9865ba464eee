"""The MNIST family: the real one where it is at hand, small fakes for every way that files can be wrong."""

import gzip
import hashlib
import socket
import struct
import sys

import numpy as np
import pytest
import torch
from torch.distributions import constraints

from pyrovae.datasets import load

FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
FILES = [f"{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def contents():
    """A family of 12 training and 3 test images, as the four files of the IDX format."""
    rng = np.random.default_rng(0)
    found = {}
    for part, n in (("train", 12), ("t10k", 3)):
        x, y = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8)
        found[f"{part}-images-idx3-ubyte"] = struct.pack(">4I", 0x803, *x.shape) + x.tobytes()
        found[f"{part}-labels-idx1-ubyte"] = struct.pack(">2I", 0x801, n) + y.tobytes()
    return found


@pytest.fixture
def root(tmp_path):
    for folder in FOLDERS.values():
        raw = tmp_path / folder / "raw"
        raw.mkdir(parents=True)
        for file, content in contents().items():
            (raw / file).write_bytes(content)
    return tmp_path


def pixels(content):
    return torch.tensor(list(content[16:]), dtype=torch.float32).reshape(-1, 1, 28, 28) / 255


def test_the_real_files_are_torchvisions_images(real_root, torchvision):
    data = load("mnist", root=real_root, binarize="none", download=False)
    train, test = (torchvision.MNIST(real_root, train=t, download=False) for t in (True, False))
    assert [len(x) for x in (data.train, data.validation, data.test)] == [50_000, 10_000, 10_000]
    assert torch.equal((data.train[:, 0] * 255).round().byte(), train.data[:50_000])
    assert torch.equal((data.validation[:, 0] * 255).round().byte(), train.data[50_000:])
    assert torch.equal((data.test[:, 0] * 255).round().byte(), test.data)
    assert torch.equal(torch.cat([data.train_labels, data.validation_labels]), train.targets)
    assert torch.equal(data.test_labels, test.targets)
    assert data.support is constraints.unit_interval and data.event_shape == (1, 28, 28)
    assert data.train.max() == 1 and data.train.min() == 0


@pytest.mark.parametrize("name", FOLDERS)
def test_rows_and_their_order(root, name):
    data = load(name, root=str(root), binarize="none", download=False)
    train, test = pixels(contents()[FILES[0]]), pixels(contents()[FILES[2]])
    assert torch.equal(torch.cat([data.train, data.validation]), train) and torch.equal(data.test, test)
    assert len(data.validation) == 2 and len(data.label_names) == 10
    assert torch.cat([data.train_labels, data.validation_labels]).tolist() == list(contents()[FILES[1]][8:])


def test_label_names_are_torchvisions(root, torchvision):
    assert list(load("fashion_mnist", root=root).label_names) == torchvision.FashionMNIST.classes
    assert list(load("kmnist", root=root).label_names) == torchvision.KMNIST.classes


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_without_download(root, file):
    path = root / "MNIST" / "raw" / file
    path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        load("mnist", root=root, download=False)
    assert str(error.value) == (f"mnist: {path} is missing. Put the file there, or pass root=DIR (--data-root DIR).")


@pytest.mark.parametrize("content", [b"", b"\0" * 15, contents()[FILES[0]][:-1], contents()[FILES[1]]])
def test_a_damaged_file(root, content):
    path = root / "MNIST" / "raw" / FILES[0]
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        load("mnist", root=root)
    assert str(error.value) == (
        f"{path}: not a complete IDX file of 3-D bytes ({len(content)} bytes long). "
        "Delete it, so that it is downloaded again."
    )


@pytest.fixture
def source(web, monkeypatch, torchvision):
    """The folder that a download of MNIST reads, in place of its mirrors."""
    folder, url = web
    resources = []
    for file, content in contents().items():
        packed = gzip.compress(content, mtime=0)
        (folder / f"{file}.gz").write_bytes(packed)
        resources.append((f"{file}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(torchvision.MNIST, "mirrors", [url])
    monkeypatch.setattr(torchvision.MNIST, "resources", resources)
    return folder


def test_download(source, tmp_path, capfd):
    data = load("mnist", root=tmp_path / "data", binarize="none")
    assert torch.equal(data.test, pixels(contents()[FILES[2]]))
    assert capfd.readouterr() == ("", "")


def test_a_download_that_fails(source, tmp_path, capfd):
    root = tmp_path / "data"
    path = root / "MNIST" / "raw" / FILES[0]
    (source / f"{FILES[0]}.gz").write_bytes(b"not what was promised")
    with pytest.raises(FileNotFoundError) as error:
        load("mnist", root=root)
    # torchvision's own message has a line for each mirror.
    assert str(error.value) == (
        f"mnist: {path} is missing and could not be downloaded (Error downloading {FILES[0]}.gz:). "
        "Put the file there, or pass root=DIR (--data-root DIR)."
    )
    assert capfd.readouterr() == ("", "")


def test_no_network(tmp_path, monkeypatch, torchvision):

    def unreachable(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    path = tmp_path / "data" / "MNIST" / "raw" / FILES[0]
    with pytest.raises(FileNotFoundError) as error:
        load("mnist", root=tmp_path / "data")
    assert str(error.value) == (
        f"mnist: {path} is missing and could not be downloaded (<urlopen error Name or service not known>). "
        "Put the file there, or pass root=DIR (--data-root DIR)."
    )
    assert not (tmp_path / "data").exists()


def test_torchvision_that_cannot_be_imported(tmp_path, monkeypatch):
    class Broken:
        def find_spec(self, name, *_):
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist\nand more")

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ImportError) as error:
        load("mnist", root=tmp_path)
    assert str(error.value) == (
        "mnist: downloading needs torchvision, which cannot be imported (operator torchvision::nms does not exist). "
        "Install the torchvision that goes with your torch: https://pytorch.org/get-started/locally"
    )


def test_files_at_hand_need_no_torchvision(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert len(load("mnist", root=root).train) == 10
