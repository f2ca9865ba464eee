"""Whether losses are finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrovae.training.best import Best
from pyrovae.training.update import waits

TOGETHER = 100
"""Losses that are looked at together, where to look is to wait for a GPU."""


class Watch:
    """Looks at the losses of an epoch, on a CPU at each of them; elsewhere at many together, so that the device has
    work all the time.

    Args:
        best: is told which losses were finite.
        epoch: its number, from 1.
        lr: the learning rate.
        device: where the losses are.
    """

    def __init__(self, best: Best, epoch: int, lr: float, device: torch.device) -> None:
        self.best, self.epoch, self.lr = best, epoch, lr
        self.together = TOGETHER if waits(device) else 1
        self.seen = 0
        self._losses: list[float | Tensor] = []

    def add(self, loss: float | Tensor) -> None:
        """The loss of the next step."""
        self._losses.append(loss)
        if len(self._losses) >= self.together:
            self.look()

    def look(self) -> None:
        """Raise a FloatingPointError at the first of the losses since the last look that is not finite."""
        losses, self._losses = self._losses, []
        for loss in losses if len(losses) == 1 else _numbers(losses):
            self.seen += 1
            if not math.isfinite(loss):
                self.best.reject()
                raise FloatingPointError(
                    f"expected a finite loss, got {float(loss)} at epoch {self.epoch}, step {self.seen}. The model has "
                    f"the weights of epoch {self.best.epoch} back. Try a lower lr (now {self.lr:g}) or clip_norm."
                )
            self.best.confirm()


def _numbers(losses: list[float | Tensor]) -> list[float]:
    """All of them, for one wait."""
    tensors = [loss for loss in losses if isinstance(loss, Tensor)]
    values = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(values) if isinstance(loss, Tensor) else loss for loss in losses]
