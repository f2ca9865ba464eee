"""Arrays on disk: ``.npy`` and ``.npz``. Pickled content is never read, because it can run code."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np

_ALIASES = {"validation": ("validation", "valid", "val"), "test": ("test",)}
_LABELS = ("y", "labels")


def read_arrays(path: Path, label: str | None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The data of each part that the file has (``train`` at least), and the labels of each part, if any.

    An .npz file holds ``x`` (or one array of any name) with labels ``y`` or ``labels``; or it holds ``train``
    and, if it has them, ``validation`` and ``test``, with labels ``train_y`` or ``train_labels`` and so on.
    ``label`` is another word for ``y``.

    Raises ValueError for a file that NumPy cannot read without pickle, an .npz file in which the data cannot
    be told, and an unknown ``label``.
    """
    with path.open("rb") as file:
        content = _open(path, file)
        if isinstance(content, np.ndarray):
            if label is not None:
                raise ValueError(f"{path}: expected no label, got {label!r}: it is one array. Use .npz with x and y.")
            return {"train": content}, {}
        data = _data_keys(path, content, label)
        labels = _label_keys(path, content, label, data)
        return (
            {part: _read(path, content, key) for part, key in data.items()},
            {part: _read(path, content, key) for part, key in labels.items()},
        )


def _data_keys(path: Path, content: Mapping[str, np.ndarray], label: str | None) -> dict[str, str]:
    if "x" in content:
        return {"train": "x"}
    if "train" in content:
        found = {part: [key for key in keys if key in content] for part, keys in _ALIASES.items()}
        return {"train": "train"} | {part: keys[0] for part, keys in found.items() if keys}
    others = [key for key in content if key not in (*_LABELS, label)]
    if len(others) != 1:
        raise ValueError(f"{path}: expected an array x, or train, validation and test, got {_listed(content)}")
    return {"train": others[0]}


def _label_keys(
    path: Path, content: Mapping[str, np.ndarray], label: str | None, data: Mapping[str, str]
) -> dict[str, str]:
    keys = {}
    for part in data:
        for word in _LABELS if label is None else (label,):
            key = f"{part}_{word}" if data["train"] == "train" else word
            if key in content:
                keys.setdefault(part, key)
    if label is not None and not keys:
        raise ValueError(f"{path}: expected the labels {label!r} among its arrays, got {_listed(content)}")
    return keys


def _listed(content: Mapping[str, np.ndarray]) -> str:
    return ", ".join(sorted(content)) or "no arrays"


def _open(path: Path, file: BinaryIO) -> np.ndarray | Mapping[str, np.ndarray]:
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise _unreadable(path, "", error) from error


def _read(path: Path, content: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    try:
        return content[key]
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise _unreadable(path, f"array {key!r} ", error) from error


def _unreadable(path: Path, what: str, error: Exception) -> ValueError:
    reason = str(error).partition("\n")[0]
    if "allow_pickle" in reason:
        reason = "Python objects are never loaded, because they can run code: save plain numbers with numpy.save"
    return ValueError(f"{path}: {what}cannot be read as {path.suffix} ({reason})")
