"""Torch optimizers by name, and one of them for all of a model's parameters inside Pyro's SVI."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.adamax import Adamax

from pyrovae.registry import Family
from pyrovae.registry import make as _make

OPTIMIZERS: Family = {"adam": Adam, "adamw": AdamW, "adamax": Adamax, "rmsprop": RMSprop, "sgd": SGD}


def make(value: str | Callable[..., Optimizer], params: Iterable[Tensor], lr: float) -> Optimizer:
    """A torch optimizer from its name (fused where torch has a fused one), or from a constructor ``(params, lr=)``."""
    params = [p for p in params if p.requires_grad]
    if callable(value):
        optimizer = value(params, lr=lr)
    else:
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in params)
        optimizer = _make(value, OPTIMIZERS, "optimizer", params=params, lr=lr, fused=fused or None)
    rates = {group["lr"] for group in optimizer.param_groups}
    if rates != {lr}:
        raise ValueError(f"optimizer: expected the learning rate as lr={lr:g} alone, got {value!r} with {rates} too")
    return optimizer


class Joint(PyroOptim):
    """A Pyro optimizer that moves all parameters with one torch optimizer.

    Pyro's own makes one torch optimizer for each parameter, which costs more than the gradients of a small model, and
    clips each parameter's gradient by its own norm. Here the norm is that of the whole gradient.

    Args:
        optimizer: a torch optimizer of the model's parameters.
        clip_norm: the greatest norm of the gradient, or None.
        reduce: called with all parameters and the loss before that, such as to add up those of several processes.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        clip_norm: float | None = None,
        reduce: Callable[[list[Tensor], float], None] | None = None,
    ) -> None:
        super().__init__(type(optimizer), {})
        self.optimizer, self.clip_norm, self.reduce = optimizer, clip_norm, reduce
        self.params = [p for group in optimizer.param_groups for p in group["params"]]
        self.loss = 0.0
        self._known = set(self.params)

    def strangers(self, params: Iterable[Tensor]) -> list[Tensor]:
        """Those that it does not move."""
        return [p for p in params if p not in self._known]

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Pyro's signature
        if strangers := [tuple(p.shape) for p in self.strangers(params)]:
            raise ValueError(
                f"model and guide use {len(strangers)} pyro.param of shape {strangers} that is no parameter of the "
                "optimizer's, so it would not be trained, nor saved with a VAE: make it an nn.Parameter of the module "
                "that uses it"
            )
        self.move()

    def move(self) -> None:
        """A step by the gradients that the parameters have, of a loss that is `loss`."""
        for p in self.params:
            if not p.requires_grad:
                # Of one that has a gradient no more, Pyro leaves zeros, by which Adam would move it on.
                p.grad = None
        if self.reduce is not None:
            self.reduce(self.params, self.loss)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.params, self.clip_norm)
        self.optimizer.step()
