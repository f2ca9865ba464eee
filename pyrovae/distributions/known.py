"""A distribution over rows of which some are known."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

NEVER = -1e30
"""The logarithm of a probability of 0 that can be multiplied by it."""


class Known(TorchDistribution):
    r"""The rows of ``base``, but for those that are known, which are their value with certainty.

    .. math:: \log q(y_n) = \begin{cases} 0 & y_n = v_n \\ -\infty & \text{else} \end{cases} \quad \text{where known}

    So labels that are there for some rows only need no second program: a known one is drawn, or enumerated, as itself.

    Args:
        base: a distribution of batch shape ``(..., B)``.
        value: ``(B, *event_shape)``; what stands in rows that are not known does not matter.
        known: ``(B,)``, truth values.
        prior: keep the density of ``base`` at the value that is known, as a prior of an observed one has.

    >>> import pyro.distributions as dist
    >>> y = Known(dist.OneHotCategorical(torch.ones(2, 3)), torch.eye(3)[:2], torch.tensor([True, False]))
    >>> y.log_prob(torch.eye(3)[:2])  # -log 3
    tensor([ 0.0000, -1.0986])
    """

    arg_constraints = {}

    def __init__(
        self,
        base: TorchDistribution,
        value: Tensor,
        known: Tensor,
        prior: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        self.base, self.value, self.known, self.prior = base, value, known, prior
        shape = torch.broadcast_shapes(base.batch_shape, known.shape)
        super().__init__(shape, base.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        return self.base.has_rsample

    @property
    def has_enumerate_support(self) -> bool:
        return self.base.has_enumerate_support

    @property
    def support(self) -> constraints.Constraint:
        return self.base.support

    def expand(self, batch_shape: torch.Size, _instance: Known | None = None) -> Known:
        new = self._get_checked_instance(Known, _instance)
        new.base = self.base.expand(batch_shape)
        new.value, new.known, new.prior = self.value, self.known, self.prior
        super(Known, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        return self._with_known(self._expanded().sample(sample_shape))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self._with_known(self._expanded().rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_prob = self.base.log_prob(value)
        at = (value == self.value).flatten(value.ndim - len(self.event_shape)).all(-1) if self.event_shape else None
        at = value == self.value if at is None else at
        there = log_prob if self.prior else torch.zeros_like(log_prob)
        return torch.where(self.known, torch.where(at, there, NEVER), log_prob)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self._expanded().enumerate_support(expand)

    @property
    def mean(self) -> Tensor:
        return self._with_known(self.base.mean)

    @property
    def mode(self) -> Tensor:
        return self._with_known(self.base.mode)

    def _expanded(self) -> TorchDistribution:
        return self.base if self.base.batch_shape == self.batch_shape else self.base.expand(self.batch_shape)

    def _with_known(self, values: Tensor) -> Tensor:
        return torch.where(self.known[(..., *[None] * len(self.event_shape))], self.value, values)
