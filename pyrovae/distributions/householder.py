"""Householder transform."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Transform, constraints


class Householder(Transform):
    r"""A product of H reflections :math:`x \mapsto x - 2 v \, v^\top x / |v|^2`, which keeps volumes.

    D of them make any orthogonal matrix. Tomczak & Welling (2016), https://arxiv.org/abs/1611.09630.

    Args:
        v: of shape ``(..., H, D)``.

    >>> Householder(torch.tensor([[0.0, 1.0]]))(torch.tensor([2.0, 3.0]))
    tensor([ 2., -3.])
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, v: Tensor) -> None:
        super().__init__()
        self.unit = F.normalize(v, dim=-1)

    def _call(self, x: Tensor) -> Tensor:
        return _reflect(x, self.unit.unbind(-2))

    def _inverse(self, y: Tensor) -> Tensor:
        return _reflect(y, self.unit.unbind(-2)[::-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0])


def _reflect(x: Tensor, units: tuple[Tensor, ...]) -> Tensor:
    for unit in units:
        x = x - 2 * (unit * x).sum(-1, keepdim=True) * unit
    return x
