"""The two small differences of large numbers that gamma and beta densities are made of, without cancellation."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def stirling(k: Tensor) -> Tensor:
    r"""What Stirling's formula leaves of the log-gamma function: :math:`\log \Gamma(k) - k \log k + k`.

    >>> stirling(torch.tensor(1.0))
    tensor(1.)
    """
    large = k > 16
    inverse = 1 / torch.where(large, k, torch.full_like(k, 16.0))
    square = inverse.square()
    # 1/12k - 1/360k^3 + 1/1260k^5 - 1/1680k^7; the first term left out is below 2e-14 at 16.
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    small = torch.where(large, torch.ones_like(k), k)
    exact = torch.lgamma(small) - small * small.log() + small
    return torch.where(large, 0.5 * (math.log(2 * math.pi) + inverse.log()) + series, exact)


def log_gap(log_ratio: Tensor, excess: Tensor) -> Tensor:
    r"""How far a logarithm lies below its tangent at 1: :math:`\log r - (r - 1) \le 0`.

    Args:
        log_ratio: :math:`\log r`, used where r is far from 1.
        excess: :math:`r - 1`, as exact as the caller has it.

    >>> log_gap(torch.tensor(0.0), torch.tensor(0.0))
    tensor(0.)
    """
    near = excess.abs() < 0.5
    safe = torch.where(near, excess, torch.zeros_like(excess))
    return torch.where(near, torch.log1p(safe), log_ratio) - excess
