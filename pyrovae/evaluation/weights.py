"""What importance weights say of log p(x)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class LogMarginal(NamedTuple):
    """log p(x_n) in nats for each row n, and the Monte Carlo standard error of each; both of shape ``(N,)``."""

    value: Tensor
    standard_error: Tensor


def log_mean_weight(log_weights: Tensor) -> LogMarginal:
    r"""From log-weights ``(K, N)``: :math:`\log \frac1K \sum_k w_k` and its standard error by the delta method,

    .. math:: \text{se} = \frac{1}{\sqrt K} \sqrt{\frac{1}{K - 1} \sum_k (w_k / \bar w - 1)^2}

    which is the coefficient of variation of the weights over :math:`\sqrt K`; 0 for a single draw.

    >>> log_mean_weight(torch.tensor([[1.0], [1.0]]))
    LogMarginal(value=tensor([1.]), standard_error=tensor([0.]))
    """
    count = len(log_weights)
    value = torch.logsumexp(log_weights, 0) - math.log(count)
    squares = (torch.exp(log_weights - value) - 1).square().sum(0)
    return LogMarginal(value, (squares / (count * max(count - 1, 1))).sqrt())
