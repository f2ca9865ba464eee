"""Pareto-smoothed importance sampling: the tail of importance weights, its shape k-hat, and a tail without noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

TOO_FEW = 25
"""Below this many draws the tail has fewer than five, and no shape can be fitted."""


class Smoothed(NamedTuple):
    """Log-weights ``(K, N)`` with a smoothed tail, and k-hat ``(N,)``, in float64."""

    log_weights: Tensor
    k_hat: Tensor


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
    return smooth(log_weights).k_hat


def smooth(log_weights: Tensor) -> Smoothed:
    r"""The largest M weights of each row replaced by what the fitted generalised Pareto says that they are about,

    .. math:: \tilde w_m = \min\Bigl(u + \hat\sigma \, \frac{(1 - p_m)^{-\hat k} - 1}{\hat k}, \; \max_k w_k\Bigr),
        \qquad p_m = \frac{m - 1/2}{M},

    in their order, with u the greatest weight below the tail (Vehtari et al. 2024,
    https://jmlr.org/papers/v25/19-556.html). That takes the noise of a few great weights out, for a bias that is small
    where k-hat is below 0.7.

    Args:
        log_weights: ``(K, N)`` log-weights of K draws for each of N rows, unnormalised.

    Returns:
        The weights, of the dtype that came, on the scale on which they came, and `k_hat`. Rows whose k-hat is not
        finite are as they were.

    >>> weights, shape = smooth(torch.linspace(0, 3, 100)[:, None])
    >>> bool(weights.max() <= 3), weights[:70].equal(torch.linspace(0, 3, 100)[:70, None])
    (True, True)
    """
    draws, rows = log_weights.shape
    shapes = torch.full((rows,), math.nan, dtype=torch.float64, device=log_weights.device)
    if draws < TOO_FEW:
        return Smoothed(log_weights, shapes)
    resolution = torch.finfo(log_weights.dtype).eps
    length = math.ceil(min(draws / 5, 3 * math.sqrt(draws)))
    # From the cutoff to the greatest.
    greatest, places = (part.flip(0) for part in log_weights.topk(length + 1, dim=0))
    greatest, lowest = greatest.double(), log_weights.min(0).values.double()
    top, tails = greatest[-1], greatest[1:].clone()
    # A cutoff of -inf or an underflowing one would put weights of zero into the tail.
    cutoff = torch.exp((greatest[0] - top).clamp_min(math.log(torch.finfo(torch.float64).tiny)))
    exceedances = torch.exp(greatest[1:] - top) - cutoff
    usable = torch.isfinite(top) & ~torch.isnan(lowest)
    constant = usable & (top - lowest <= 100 * resolution * top.abs().clamp_min(1))
    shapes[constant] = -math.inf
    # Ties at the cutoff shorten the tail, so rows are fitted together by the length of theirs.
    lengths = (exceedances > 0).sum(0)
    for size in lengths[usable & ~constant].unique().tolist():
        chosen = usable & ~constant & (lengths == size)
        if size < 5:
            shapes[chosen] = math.inf
            continue
        shapes[chosen], scale = _fit(exceedances[-size:, chosen])
        expected = cutoff[chosen] + _quantiles(shapes[chosen], scale, size)
        tails[-size:, chosen] = expected.log().clamp_max(0) + top[chosen]
    smoothed = torch.where(torch.isfinite(shapes), tails, greatest[1:]).to(log_weights.dtype)
    return Smoothed(log_weights.scatter(0, places[1:], smoothed), shapes)


def _fit(tail: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean of the shape, and the scale, from exceedances ``(M, N)``, sorted along the first dimension."""
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
    return (size * fitted + 10 * 0.5) / (size + 10), -fitted / mean


def _quantiles(shape: Tensor, scale: Tensor, size: int) -> Tensor:
    """Of generalised Pareto distributions, at the middles of ``size`` equal parts of (0, 1): ``(size, N)``."""
    parts = torch.arange(size, dtype=shape.dtype, device=shape.device)[:, None] + 0.5
    log_survival = torch.log1p(-parts / size)
    flat = shape.abs() < torch.finfo(shape.dtype).eps
    safe = torch.where(flat, 1.0, shape)
    return scale * torch.where(flat, -log_survival, torch.expm1(-safe * log_survival) / safe)
