"""The Poisson, exact at large counts."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.distributions.counts import poisson_log_prob


class Poisson(dist.Poisson):
    r"""Poisson :math:`\log p(x) = x \log\lambda - \lambda - \log x!` with a log-probability right in float32.

    In float32 ``torch.distributions.Poisson`` adds terms of the order of x log x, and so is wrong by 0.8 nats at
    counts of a million. After Loader (2000), http://www.herine.net/stat/software/dbinom.html.

    Args:
        rate: the mean, above 0, of shape ``batch_shape``.

    >>> Poisson(torch.tensor(1e6)).log_prob(torch.tensor(1e6))  # torch.distributions: -7
    tensor(-7.8267)
    """

    def __init__(self, rate: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(rate, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Poisson | None = None) -> Poisson:
        return super().expand(batch_shape, _instance=self._get_checked_instance(Poisson, _instance))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return poisson_log_prob(value, self.rate, torch.log(self.rate))
