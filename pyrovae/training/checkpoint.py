"""What a fit writes after each epoch, and goes on from."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.config import Training
from pyrovae.serialization import save
from pyrovae.training.best import Best
from pyrovae.training.distributed import World
from pyrovae.training.history import Row
from pyrovae.vae import VAE

FILE_NAME = "resume.safetensors"
FREE = ("epochs", "patience", "seconds", "device", "compile", "optimizer", "schedule")
"""Settings in which a fit may differ from the one that it goes on from, or whose value is not always a name."""


class Checkpoint:
    """A folder with ``last.safetensors`` and ``best.safetensors``, which `pyrovae.load` reads, and with
    ``resume.safetensors``, which holds besides these weights the state of the optimizer, the history and, of the first
    process, that of the random numbers. Each file appears under its name only when it is whole.

    Args:
        folder: where; None writes nothing.
        vae, optimizer, best, generator: whose state it is.
        settings: of the fit.
        world: the processes of the fit, the first of which writes.
        resumable: whether ``resume.safetensors`` is written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        vae: VAE,
        optimizer: Optimizer,
        best: Best,
        generator: torch.Generator,
        settings: Training,
        world: World,
        resumable: bool,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.vae, self.optimizer, self.best, self.generator, self.world = vae, optimizer, best, generator, world
        self.settings = {key: value for key, value in asdict(settings).items() if key not in FREE}
        self.settings["optimizer"] = type(optimizer).__name__
        self.resumable = resumable

    def write(self, rows: list[Row], improved: bool) -> None:
        """After an epoch, the last of ``rows``."""
        if self.folder is None or not self.world.first:
            return
        save(self.vae, self.folder / "last.safetensors")
        if improved:
            save(self.vae, self.folder / "best.safetensors")
        if self.resumable:
            self._write(rows)

    def resume(self) -> list[Row]:
        """Put everything into the state after the last epoch that was written; returns the history until then. Where no
        such file is, nothing changes and there is no history.

        Raises:
            ValueError: for a damaged file, another model or other settings, or processes that see different files.
        """
        file = None if self.folder is None else self.folder / FILE_NAME
        rows = [] if file is None or not file.is_file() else self._read(file)
        if self.world.sum(len(rows))[0] != len(rows) * self.world.size:
            raise ValueError(f"{file}: expected all processes to see the same folder, got different epochs from it")
        return rows

    def _write(self, rows: list[Row]) -> None:
        numbers, weights = self.best.state()
        groups: dict[str, dict[str, Any]] = {
            "model": self.vae.state_dict(),
            "best": weights,
            "optimizer": {},
            "random": {"torch": torch.get_rng_state(), "order": self.generator.get_state()},
        }
        if self.world.device.type == "cuda":
            groups["random"]["cuda"] = torch.cuda.get_rng_state(self.world.device)
        plain: dict[str, Any] = {}
        for i, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                (groups["optimizer"] if isinstance(value, Tensor) else plain)[f"{i}.{name}"] = value
        tensors = {
            f"{group}/{key}": value.detach().cpu().clone().contiguous()
            for group, values in groups.items()
            for key, value in values.items()
        }
        header = {"settings": self.settings, "rows": rows, "best": numbers, "optimizer": plain}
        file = self.folder / FILE_NAME
        part = file.with_name(file.name + ".part")
        save_file(tensors, str(part), metadata={"pyrovae": json.dumps(header)})
        part.replace(file)

    def _read(self, file: Path) -> list[Row]:
        try:
            with safe_open(str(file), "pt") as opened:
                header = json.loads((opened.metadata() or {})["pyrovae"])
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - it is no dict
            settings, rows = header["settings"], header["rows"]
        except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
            raise ValueError(f"{file}: expected the checkpoint of a fit, got an unreadable file ({error})") from error
        for key, value in self.settings.items():
            if settings.get(key) != value:
                raise ValueError(
                    f"{file}: expected a checkpoint of {key}={value!r}, got {settings.get(key)!r}. Go on with the "
                    "settings of the fit that was broken off, or choose another folder."
                )
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}, "random": {}}
        for name, value in tensors.items():
            group, key = name.split("/", 1)
            groups[group][key] = value
        try:
            self.vae.load_state_dict(groups["model"])
            states: dict[int, dict[str, Any]] = {}
            for name, value in (groups["optimizer"] | header["optimizer"]).items():
                i, key = name.split(".", 1)
                states.setdefault(int(i), {})[key] = value
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{file}: expected the state of this model and optimizer ({error})") from error
        device = self.world.device
        self.best.resume(header["best"], {key: value.to(device) for key, value in groups["best"].items()})
        self.generator.set_state(groups["random"]["order"])
        torch.set_rng_state(groups["random"]["torch"])
        if "cuda" in groups["random"] and device.type == "cuda":
            torch.cuda.set_rng_state(groups["random"]["cuda"], device)
        return rows
