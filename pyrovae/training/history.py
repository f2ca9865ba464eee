"""What a fit leaves behind: one row an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae.elbos import Terms
from pyrovae.training.distributed import World

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, float]


class EpochMean:
    """Means over the rows of an epoch, in nats a row; each row counts once, whatever the size of its batch."""

    def __init__(self) -> None:
        self.rows = 0
        self.objective: Tensor | float = 0.0
        self.reconstruction: Tensor | float = 0.0
        self.kl: Tensor | float = 0.0

    def add(self, rows: int, objective: Tensor | float, terms: Terms) -> None:
        """``objective``: summed over the batch; ``terms``: (..., rows), averaged here over particles."""
        # In float64, and on the device: no rounding over many batches and no wait for a GPU.
        self.rows += rows
        self.objective = self.objective + (objective.double() if isinstance(objective, Tensor) else objective)
        self.reconstruction = self.reconstruction + _sum(terms.reconstruction)
        self.kl = self.kl + _sum(terms.kl)

    def row(self, world: World) -> Row:
        """The means over the rows of all processes."""
        rows, objective, *split = world.sum(self.rows, self.objective, self.reconstruction, self.kl)
        reconstruction, kl = (value / rows for value in split)
        return {
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "objective": objective / rows,
        }


def _sum(values: Tensor) -> Tensor:
    particles = values[..., 0].numel()
    return values.sum(dtype=torch.float64) / particles


def read(file: Path) -> list[Row]:
    """The rows of a history that was written as CSV."""
    import pandas as pd

    return pd.read_csv(file).to_dict("records")


def frame(rows: list[Row], **attrs: object) -> pd.DataFrame:
    """The history as a DataFrame indexed by epoch, with ``attrs``."""
    import pandas as pd

    history = pd.DataFrame(rows).set_index("epoch")
    history.attrs.update(attrs)
    return history
