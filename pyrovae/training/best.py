"""The best weights of a fit, and when to stop looking for better ones."""

from __future__ import annotations

import math

from torch import nn

from pyrovae.training.history import Row


class Best:
    """Keeps the weights of the best epoch: by validation where there is some, otherwise the latest.

    The latest weights count only once `confirm` says that a loss was finite with them: until then the last step may
    have thrown them anywhere.

    Args:
        module: whose weights.
        beta: weight of the KL term in the validation figure.
        patience: epochs without a better figure until `exhausted`, or None.
        warmup: epochs whose figures do not count towards patience, because the KL weight still rises.
    """

    def __init__(self, module: nn.Module, beta: float, patience: int | None, warmup: float) -> None:
        self.module, self.beta, self.patience, self.warmup = module, beta, patience, warmup
        self.epoch = self.waited = 0
        self.figure = -math.inf
        self._keep(0)
        self.confirm()

    def see(self, row: Row) -> bool:
        """Take note of a finished epoch; True if it is the best so far."""
        epoch = int(row["epoch"])
        validated = "validation_elbo" in row
        figure = row["validation_reconstruction"] - self.beta * row["validation_kl"] if validated else float(epoch)
        if figure > self.figure:
            self.figure, self.waited = figure, 0
            self._keep(epoch)
            if validated:
                self.confirm()
            return True
        self.waited += epoch > self.warmup
        return False

    def confirm(self) -> None:
        """The weights of the last best epoch have given a finite figure."""
        if self._pending is not None:
            (self.epoch, self._state), self._pending = self._pending, None

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def restore(self) -> None:
        self.module.load_state_dict(self._state)

    def _keep(self, epoch: int) -> None:
        self._pending = epoch, {key: value.detach().clone() for key, value in self.module.state_dict().items()}
