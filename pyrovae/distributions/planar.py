"""Planar transform."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae.distributions.root import MARGIN, Step, tanh_root


class Planar(Step):
    r"""A step along one direction, as far as another one says.

    .. math::
        g(x) = x + \hat u \tanh(w^\top x + b), \quad
        \log \det = \log \big( 1 + \hat u^\top w \, (1 - \tanh^2(w^\top x + b)) \big)

    It has an inverse where :math:`\hat u^\top w > -1`. So :math:`\hat u = u + (m - u^\top w)\, w / |w|^2`, which has
    :math:`\hat u^\top w = m(u^\top w) > -1`. Here m(t) is t above 0 and :math:`e^t - 1` below, and not the paper's
    :math:`\log(1 + e^t) - 1`: that is not 0 at 0, so that :math:`\hat u` has no limit where w goes to 0. The inverse
    is found by bisection along w. Rezende & Mohamed (2015), https://arxiv.org/abs/1505.05770.

    Args:
        u, w: of shape ``(..., D)``.
        b: of shape ``(...)``.

    >>> x, u, w = torch.randn(3, 5, 2)
    >>> transform = Planar(u, w, torch.zeros(5))
    >>> torch.allclose(transform.inv(transform(x)), x, atol=1e-5)
    True
    """

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        super().__init__()
        dot = (u * w).sum(-1)
        self.slope = F.elu(dot).clamp_min(MARGIN - 1)
        # As w goes to 0, the numerator does so too, as fast.
        along = (self.slope - dot) / w.square().sum(-1).clamp_min(1e-12)
        self.u, self.w, self.b = u + along.unsqueeze(-1) * w, w, b

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh((self.w * x).sum(-1) + self.b)
        return x + self.u * h.unsqueeze(-1), torch.log1p(self.slope * (1 - h.square()))

    def _inverse(self, y: Tensor) -> Tensor:
        along = tanh_root((self.w * y).sum(-1), self.slope, 1.0, self.b)
        return y - self.u * torch.tanh(along + self.b).unsqueeze(-1)
