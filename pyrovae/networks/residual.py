"""Residual connections."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    r"""A residual connection :math:`s(x) + f(x)` (He et al. 2016, https://arxiv.org/abs/1512.03385).

    Args:
        body: f, layers.
        shortcut: s; None for the identity.

    >>> Residual(nn.ReLU())(torch.tensor([-1.0, 1.0]))
    tensor([-1.,  2.])
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


@torch.no_grad()
def temper(module: nn.Module) -> None:
    r"""Multiply the last weights of each of the n residual bodies in ``module`` by :math:`n^{-1/2}`, in place.

    Each body adds about as much variance as it is given, so that without this the signal doubles from one to the next
    (Child 2021, https://arxiv.org/abs/2011.10650).
    """
    bodies = [m.body for m in module.modules() if isinstance(m, Residual)]
    for body in bodies:
        last = [m for m in body.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)][-1]
        last.weight.mul_(len(bodies) ** -0.5)
