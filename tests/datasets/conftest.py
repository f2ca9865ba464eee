"""What several files of tests need."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def web(tmp_path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL, ending in a slash, under which its files can be downloaded."""
    folder = tmp_path / "web"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    """What is asked of this machine is answered by it."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """``torchvision.datasets``, where it can be imported: with torch for CPU only its wheel for CUDA cannot."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    return datasets


@pytest.fixture(scope="session")
def real_root() -> Path:
    """The folder of real data, in torchvision's layout; tests of it are skipped where there is none."""
    root = Path(os.environ.get("PYROVAE_DATA_ROOT", Path(__file__).parents[2] / "../shared/data"))
    for path in (root / "MNIST" / "raw" / "train-images-idx3-ubyte", root / "static_mnist" / "static_mnist.npz"):
        if not path.is_file():
            pytest.skip(f"no {path}: set PYROVAE_DATA_ROOT")
    return root
