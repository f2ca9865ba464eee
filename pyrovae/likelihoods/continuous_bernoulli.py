"""Continuous Bernoulli likelihood."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae import distributions
from pyrovae.piece import Piece


class ContinuousBernoulli(Piece):
    r"""Continuous Bernoulli likelihood of values in [0, 1]: :math:`\log p(x) = x\eta - \log(1+e^\eta) + \log C(\eta)`.

    The density for grey pixels that the Bernoulli is not: Loaiza-Ganem & Cunningham (2019),
    https://arxiv.org/abs/1907.06845. Being a density, its log p(x) may be positive.

    >>> likelihood = ContinuousBernoulli()
    >>> likelihood.build((3,))
    3
    >>> likelihood(torch.zeros(1, 3)).log_prob(torch.full((3,), 0.2))  # uniform at a logit of 0
    tensor([0.])
    """

    support = constraints.unit_interval
    remedy = "Divide 8-bit pixels by 255, or use likelihood='gaussian' for real numbers."

    def forward(self, params: Tensor) -> TorchDistribution:
        (logits,) = self.split(params)
        return distributions.ContinuousBernoulli(logits=logits).to_event(len(self.event_shape))

    def initial(self, x: Tensor) -> Tensor:
        # The mean at a logit is flatter than the logistic, so the data mean's logit is on the safe side of zero.
        return torch.logit(x.mean(0), eps=1e-3).flatten()
