"""Log-probabilities of counts without cancellation, in float32 too."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.distributions.stirling import stirling


def poisson_log_prob(value: Tensor, mean: Tensor, log_mean: Tensor) -> Tensor:
    r"""Poisson :math:`\log p(x) = x \log\mu - \mu - \log x!`, as :math:`-c(x) - D(x, \mu)`.

    :math:`D(x, \mu) = x \log(x / \mu) - x + \mu \ge 0` and :math:`c(x) = \log x! - x \log x + x`, each of which is
    computed as a whole: the three terms of the textbook are of the order of x log x, and in float32 at x = 1e6 their
    sum is wrong by 0.8 nats. After Loader (2000), http://www.herine.net/stat/software/dbinom.html.
    """
    value = value.to(mean.dtype)
    return -_constant(value) - _deviance(value, value - mean, _log(value) - log_mean)


def negative_binomial_log_prob(value: Tensor, mean: Tensor, log_mean: Tensor, theta: Tensor) -> Tensor:
    r"""Negative binomial :math:`\log p(x)` of mean :math:`\mu` and variance :math:`\mu + \mu^2 / \theta`.

    With :math:`n = x + \theta`, :math:`\hat x = n \mu / (\theta + \mu)`, :math:`\hat\theta = n \theta / (\theta + \mu)`
    and :math:`s(k) = \log \Gamma(k) - k \log k + k`, it is

    .. math:: -c(x) - D(x, \hat x) - D(\theta, \hat\theta) + s(n) - s(\theta)

    which becomes the Poisson's, term by term, as :math:`\theta \to \infty`.
    """
    value = value.to(mean.dtype)
    total = value + theta
    # In mean / theta and x / theta, so that derivatives by theta do not cancel either. x - x^ = theta^ - theta = gap.
    gap = (value - mean) / (1 + mean / theta)
    ratio = torch.log1p(mean / theta) - torch.log1p(value / theta)
    deviance = _deviance(value, gap, _log(value) - log_mean + ratio) + _deviance(theta, -gap, ratio)
    return stirling(total) - stirling(theta) - deviance - _constant(value)


def _log(value: Tensor) -> Tensor:
    # A count of 0 multiplies its logarithm.
    return torch.log(value.clamp_min(1))


def _constant(value: Tensor) -> Tensor:
    """log x! - x log x + x: 0 at 0, about log(2 pi x) / 2 above."""
    positive = value.clamp_min(1)
    above = stirling(positive) + torch.log(positive)
    return torch.where(value > 0, above, torch.zeros_like(above))


def _deviance(x: Tensor, gap: Tensor, log_ratio: Tensor) -> Tensor:
    r"""x log(x / m) - x + m, from x - m and log(x / m).

    Near m it is :math:`(x - m) v + 2 x (v^3 / 3 + v^5 / 5 + \dots)` with :math:`v = (x - m) / (x + m)`.
    """
    scale = (2 * x - gap).clamp_min(torch.finfo(gap.dtype).tiny)
    v = gap / scale
    near = v.abs() < 0.1
    v = torch.where(near, v, torch.zeros_like(v))
    square = v * v
    tail = torch.zeros_like(square)
    for k in range(17, 2, -2):
        tail = tail * square + 1 / k
    series = gap * v + 2 * x * v * square * tail
    return torch.where(near, series, x * log_ratio - gap)
