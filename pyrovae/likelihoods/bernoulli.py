"""Bernoulli likelihood."""

from __future__ import annotations

import warnings

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.piece import Piece


class Bernoulli(Piece):
    r"""Bernoulli likelihood of binary data, by its logit: :math:`\log p(x) = x \eta - \log(1 + e^{\eta})`.

    For 0/1 data. Grey pixels in [0, 1] are refused, because the Bernoulli is no density for them: the sum that is
    then called an ELBO bounds nothing. Binarize them, or use ``"continuous_bernoulli"``. To repeat published
    results that do it all the same, ``relaxed=True`` takes grey pixels and warns; see Loaiza-Ganem & Cunningham
    (2019), https://arxiv.org/abs/1907.06845.

    Args:
        relaxed: accept any value in [0, 1].

    >>> likelihood = Bernoulli()
    >>> likelihood.build((3,))
    3
    >>> likelihood(torch.zeros(1, 3)).log_prob(torch.ones(3))  # -3 log 2
    tensor([-2.0794])
    """

    support = constraints.boolean
    remedy = (
        "Binarize the data (datasets.load(..., binarize='dynamic')), use likelihood='continuous_bernoulli' for values "
        "in [0, 1], or likelihood='gaussian' for real numbers."
    )

    def __init__(self, relaxed: bool = False) -> None:
        super().__init__()
        self.relaxed = relaxed
        if relaxed:
            self.support = constraints.unit_interval
            warnings.warn(
                "a relaxed Bernoulli is no density for values between 0 and 1: its ELBO bounds no log p(x) and "
                "cannot be compared with that of another likelihood",
                stacklevel=2,
            )

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        (logits,) = self.split(params)
        # Pyro's own check, where it is on, refuses the grey values that `relaxed` asked for.
        validate = False if self.relaxed else None
        return dist.Bernoulli(logits=logits, validate_args=validate).to_event(len(self.event_shape))

    def initial(self, x: Tensor) -> Tensor:
        return torch.logit(x.mean(0), eps=1e-3).flatten()
