"""The folder of a run."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae import plots
from pyrovae.pipeline.prepare import Run
from pyrovae.training import distributed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def new_folder(settings: Run) -> Iterator[Path]:
    """The folder asked for, which must be new or empty, or a run to go on with; otherwise the first free runs/NAME,
    runs/NAME-2, ...

    It is removed again if nothing was trained: after a mistake in the settings the same command can be given again.
    """
    folder = _make_folder(settings)
    try:
        yield folder
    except BaseException:
        if not (folder / "history.csv").exists():
            shutil.rmtree(folder)
        raise


def _make_folder(settings: Run) -> Path:
    if settings.out is not None:
        folder = Path(settings.out)
        again = (settings.resume or distributed.restarted()) and (folder / "config.json").is_file()
        if folder.exists() and not again and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"out: expected a new or empty folder, got {folder}, which is not. Choose another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    name = Path(settings.dataset).stem
    for number in range(1, 10_000):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ValueError(f"out: runs/{name} to runs/{name}-9999 are all taken. Choose another --out.")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """A JSON file, all at once, with null for numbers that are not finite."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in value.items()}
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(finite, indent=2, allow_nan=False) + "\n")
    part.replace(path)


def write_figure(path: Path, figure: Figure) -> None:
    """A PNG file, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=plots.DPI)
