"""Sylvester transform, in its own axes."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.distributions.root import MARGIN, Step, tanh_root


class Sylvester(Step):
    r"""A step in all directions at once, with upper triangular R and S.

    .. math:: g(x) = x + R \tanh(S x + b), \quad \log \det = \sum_i \log(1 + r_{ii} s_{ii} (1 - \tanh^2_i))

    Between a rotation :math:`Q^\top` and its inverse Q, it is a Sylvester flow's step. The diagonals of R and S are
    put in (-1, 1) by tanh, so that each factor is above 0. The inverse goes from the last element to the first, by
    one bisection each. van den Berg et al. (2018), https://arxiv.org/abs/1803.05649.

    Args:
        r, s: of shape ``(..., D, D)``; what is below the diagonal is not used.
        b: of shape ``(..., D)``.

    >>> x, (r, s) = torch.randn(5, 3), torch.randn(2, 5, 3, 3)
    >>> transform = Sylvester(r, s, torch.zeros(5, 3))
    >>> torch.allclose(transform.inv(transform(x)), x, atol=1e-4)
    True
    """

    def __init__(self, r: Tensor, s: Tensor, b: Tensor) -> None:
        super().__init__()
        self.r, self.s, self.b = _bounded(r), _bounded(s), b
        self.slopes = self.r.diagonal(dim1=-2, dim2=-1) * self.s.diagonal(dim1=-2, dim2=-1)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(_times(self.s, x) + self.b)
        return x + _times(self.r, h), torch.log1p(self.slopes * (1 - h.square())).sum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        y, b = torch.broadcast_tensors(y, self.b)
        x, h = y[..., :0], y[..., :0]  # what is known already: the elements after the i-th
        for i in reversed(range(y.shape[-1])):
            after = slice(i + 1, None)
            target = y[..., i] - (self.r[..., i, after] * h).sum(-1)
            bias = b[..., i] + (self.s[..., i, after] * x).sum(-1)
            slope = self.s[..., i, i]
            root = tanh_root(target, self.r[..., i, i], slope, bias)
            x = torch.cat([root.unsqueeze(-1), x], -1)
            h = torch.cat([torch.tanh(slope * root + bias).unsqueeze(-1), h], -1)
        return x


def _bounded(matrix: Tensor) -> Tensor:
    """The upper triangle, its diagonal within (-1, 1)."""
    diagonal = (1 - MARGIN) * torch.tanh(matrix.diagonal(dim1=-2, dim2=-1))
    return matrix.triu(1) + torch.diag_embed(diagonal)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)
