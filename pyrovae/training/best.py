"""The best weights of a fit, and when to stop looking for better ones."""

from __future__ import annotations

import math

from torch import Tensor, nn

from pyrovae.training.history import Row


class Best:
    """Keeps the weights of the best epoch: by validation where there is some, otherwise the latest.

    The last step of an epoch may throw the weights anywhere. So the latest ones stay on trial, with those before them
    kept too, until a loss is finite with them (`confirm`) or is not (`reject`).

    Args:
        module: whose weights.
        beta: weight of the KL term in the validation figure.
        patience: epochs without a better figure until `exhausted`, or None. One in which the weight of the KL term
            rises, and is below beta at its last step, does not count.
    """

    def __init__(self, module: nn.Module, beta: float, patience: int | None) -> None:
        self.module, self.beta, self.patience = module, beta, patience
        self.waited = 0
        self.figure = -math.inf
        self._kept = [self._snapshot(0)]

    @property
    def epoch(self) -> int:
        """The epoch that `restore` goes back to."""
        return self._kept[-1][0]

    def see(self, row: Row) -> bool:
        """Take note of a finished epoch; True if it is the best so far."""
        epoch = int(row["epoch"])
        validated = "validation_elbo" in row
        figure = row["validation_reconstruction"] - self.beta * row["validation_kl"] if validated else float(epoch)
        if figure > self.figure:
            self.figure, self.waited = figure, 0
            self._kept.append(self._snapshot(epoch))
            if validated:
                self.confirm()
            return True
        self.waited += row["beta"] >= self.beta
        return False

    def confirm(self) -> None:
        """The weights of the best epoch have given a finite figure."""
        self._kept = self._kept[-1:]

    def reject(self) -> None:
        """They have not: those before them are the best."""
        self._kept = self._kept[:1]

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def restore(self) -> None:
        self.module.load_state_dict(self._kept[-1][1])

    def state(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """All that `resume` needs: numbers, and the best weights."""
        epoch, weights = self._kept[-1]
        return {"epoch": epoch, "figure": self.figure, "waited": self.waited}, weights

    def resume(self, numbers: dict[str, float], weights: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.figure, self.waited = numbers["figure"], int(numbers["waited"])
        self._kept = [(int(numbers["epoch"]), weights)]

    def _snapshot(self, epoch: int) -> tuple[int, dict[str, Tensor]]:
        return epoch, {key: value.detach().clone() for key, value in self.module.state_dict().items()}
