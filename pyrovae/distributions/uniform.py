"""The uniform distribution, both ends included."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor


class Uniform(dist.Uniform):
    r"""Uniform on [a, b]: :math:`p(x) = 1 / (b - a)`, its ends included, as its support says.

    ``torch.distributions.Uniform`` has density 0 at b, where a sigmoid that saturates in float32 puts draws of a
    posterior: its log-density, minus infinity, is the end of training.

    Args:
        low: a, of shape ``batch_shape``.
        high: b, of shape ``batch_shape``.

    >>> Uniform(torch.tensor(0.0), torch.tensor(2.0)).log_prob(torch.tensor(2.0))  # -log(2)
    tensor(-0.6931)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        inside = (self.low <= value) & (value <= self.high)
        return torch.where(inside, -torch.log(self.high - self.low), -math.inf)
