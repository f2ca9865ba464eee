"""Sums over discrete latents as part of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pyro.infer.util
import torch
from pyro.infer.util import Dice
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def of_one_shape() -> Iterator[None]:
    r"""Inside: ``TraceEnum_ELBO`` sums p times the cost over all values of its latents, of which those with p = 0 add
    nothing, whatever their cost. Outside it leaves those out, and looks at the probabilities to know which.

    The gradient is the same: where p = 0, none passes to p or to the cost.
    """
    whole = Dice.compute_expectation

    def compute_expectation(self: Dice, costs: dict[Any, list[Tensor]]) -> Tensor | float:
        with _NoneIsZero():
            return whole(self, costs)

    with (
        mock.patch.object(Dice, "compute_expectation", compute_expectation),
        mock.patch.object(pyro.infer.util, "_fulldot", _dot),
    ):
        yield


class _NoneIsZero(TorchFunctionMode):
    """The one question to a tensor that is asked there is whether all probabilities are above 0."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function gives
        return True if func is Tensor.__bool__ else func(*args, **(kwargs or {}))


def _dot(p: Tensor, cost: Tensor) -> Tensor:
    return (p * torch.where(p > 0, cost, 0.0)).sum()
