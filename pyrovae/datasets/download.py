"""Files from public sources: quickly, quietly, or one line that says which file is missing where."""

from __future__ import annotations

import io
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from http.client import HTTPException
from pathlib import Path
from types import ModuleType


def missing(name: str, path: Path, error: Exception | None = None) -> FileNotFoundError:
    """What to raise where ``path`` of dataset ``name`` is not there and, given ``error``, cannot be had."""
    tried = "" if error is None else f" and could not be downloaded ({first_line(error)})"
    return FileNotFoundError(
        f"{name}: {path} is missing{tried}. Put the file there, or pass root=DIR (--data-root DIR)."
    )


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def check_reachable(urls: Sequence[str], seconds: float = 5.0) -> None:
    """Raise OSError or HTTPException unless one of ``urls`` answers, each within ``seconds``.

    A socket's own time limit covers neither the name lookup nor a host with many addresses, and a download
    without a network would hang for minutes; hence the thread.
    """
    errors: list[Exception] = []
    for url in urls:
        outcome: list[Exception | None] = []
        asker = threading.Thread(target=_ask, args=(url, seconds, outcome), daemon=True)
        asker.start()
        asker.join(seconds)
        error = outcome[0] if outcome else TimeoutError(f"{url} does not answer")
        if error is None:
            return
        errors.append(error)
    raise errors[0]


def _ask(url: str, seconds: float, outcome: list[Exception | None]) -> None:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
        outcome.append(None)
    except urllib.error.HTTPError as error:
        # A server that answers with an error is there; the download will tell what it holds.
        error.close()
        outcome.append(None)
    except (OSError, HTTPException) as error:
        outcome.append(error)


@contextmanager
def downloading(name: str, path: Path, urls: Sequence[str]) -> Iterator[None]:
    """Inside: ``path`` is downloaded from one of ``urls``; a failure is a FileNotFoundError of one line."""
    try:
        check_reachable(urls)
        with _quiet():
            yield
    except (OSError, HTTPException, RuntimeError) as error:
        raise missing(name, path, error) from error


@contextmanager
def _quiet(seconds: float = 30.0) -> Iterator[None]:
    """Inside: nothing is printed, and a connection that stays silent for ``seconds`` is given up."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def fetch(name: str, url: str, path: Path) -> None:
    """The file at ``url`` as ``path``, which appears only when it is complete."""
    part = path.with_name(path.name + ".part")
    with downloading(name, path, [url]):
        path.parent.mkdir(parents=True, exist_ok=True)
        urllib.request.urlretrieve(url, part)
        part.replace(path)


def torchvision_datasets(name: str) -> ModuleType:
    """``torchvision.datasets``, or an ImportError of one line.

    The torchvision wheel for CUDA raises RuntimeError where torch is built for CPU only.
    """
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, OSError) as error:
        raise ImportError(
            f"{name}: downloading needs torchvision, which cannot be imported ({first_line(error)}). "
            "Install the torchvision that goes with your torch: https://pytorch.org/get-started/locally"
        ) from error
    return datasets
