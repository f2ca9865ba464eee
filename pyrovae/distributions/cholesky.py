"""Cholesky factors of covariance matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def cholesky(scale: Tensor, raw_lower: Tensor) -> Tensor:
    r"""A lower triangular matrix from its diagonal and any real numbers.

    :math:`L_{ii} = \sigma_i` and :math:`L_{ij} = \sigma_i \operatorname{arcsinh}(r_{ij}) / \sqrt D` below the diagonal:
    any covariance matrix, and no overflow where r is large.

    Args:
        scale: the diagonal, positive, of shape ``(..., D)``.
        raw_lower: the numbers below it, row by row, of shape ``(..., D (D - 1) / 2)``.

    >>> cholesky(torch.tensor([1.0, 2.0]), torch.zeros(1))
    tensor([[1., 0.],
            [0., 2.]])
    """
    size = scale.shape[-1]
    row, column = torch.tril_indices(size, size, -1, device=scale.device)
    factor = torch.diag_embed(scale)
    factor[..., row, column] = scale[..., row] * torch.asinh(raw_lower) / size**0.5
    return factor
