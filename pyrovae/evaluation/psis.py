"""Pareto k-hat of importance weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOO_FEW = 25
"""Below this many draws the tail has fewer than five, and no shape can be fitted."""


def k_hat(log_weights: Tensor) -> Tensor:
    r"""Shape :math:`\hat k` of the generalised Pareto tail of importance weights, one for each row.

    Below 0.7 an importance-sampling estimate from these weights can be trusted; above, the posterior is too far from
    the truth for the number of draws, and more draws help slowly or not at all. The largest
    :math:`M = \min(K/5, 3 \sqrt K)` weights are fitted by the method of Zhang & Stephens (2009),
    https://doi.org/10.1198/tech.2009.08017, with the weak prior of Vehtari et al. (2024),
    https://jmlr.org/papers/v25/19-556.html.

    Args:
        log_weights: ``(K, N)`` log-weights of K draws for each of N rows, unnormalised.

    Returns:
        ``(N,)``, in float64: -inf for constant weights, which have no tail (the posterior is exact); nan for fewer than
        25 draws or rows with a weight that is not finite or -inf.

    >>> k_hat(torch.zeros(100, 1))
    tensor([-inf], dtype=torch.float64)
    """
    draws, rows = log_weights.shape
    result = torch.full((rows,), math.nan, dtype=torch.float64, device=log_weights.device)
    if draws < TOO_FEW:
        return result
    resolution = torch.finfo(log_weights.dtype).eps
    ordered = log_weights.double().sort(dim=0).values
    top = ordered[-1]
    length = math.ceil(min(draws / 5, 3 * math.sqrt(draws)))
    # A cutoff of -inf or an underflowing one would put weights of zero into the tail.
    cutoff = torch.maximum(ordered[-length - 1], top + math.log(torch.finfo(torch.float64).tiny))
    exceedances = torch.exp(ordered[-length:] - top) - torch.exp(cutoff - top)
    usable = torch.isfinite(top) & ~torch.isnan(ordered).any(0)
    constant = usable & (top - ordered[0] <= 100 * resolution * top.abs().clamp_min(1))
    result[constant] = -math.inf
    # Ties at the cutoff shorten the tail, so rows are fitted together by the length of theirs.
    lengths = (exceedances > 0).sum(0)
    for size in lengths[usable & ~constant].unique().tolist():
        chosen = usable & ~constant & (lengths == size)
        result[chosen] = _shape(exceedances[-size:, chosen]) if size >= 5 else math.inf
    return result


def _shape(tail: Tensor) -> Tensor:
    """Posterior mean of the shape from exceedances ``(M, N)``, sorted along the first dimension."""
    size = len(tail)
    points = 30 + int(math.sqrt(size))
    grid = 1 - torch.sqrt(points / (torch.arange(1, points + 1, dtype=tail.dtype, device=tail.device) - 0.5))
    # theta has one grid for each row: (points, N)
    theta = grid[:, None] / (3 * tail[int(size / 4 + 0.5) - 1]) + 1 / tail[-1]
    shape = torch.log1p(-theta[:, None] * tail).mean(1)
    profile = size * (torch.log(-theta / shape) - shape - 1)
    weight = torch.softmax(profile, dim=0)
    mean = (weight * theta).sum(0)
    fitted = torch.log1p(-mean * tail).mean(0)
    return (size * fitted + 10 * 0.5) / (size + 10)
