"""A normalising flow."""

from __future__ import annotations

from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform

from pyrovae.distributions import zuko as zuko  # importing it gives every transform `call_and_ladj`


class Flow(dist.TransformedDistribution):
    r"""The distribution of :math:`z = g(\epsilon)`, where :math:`\epsilon` has a base density p.

    .. math:: \log q(z) = \log p(\epsilon) - \log |\det \partial g / \partial \epsilon|, \quad \epsilon = g^{-1}(z)

    The log-density of the last draw is kept from when it was made, so that a flow whose inverse is slow costs one
    pass for a draw and its log-density together. Any other value is inverted. After Rezende & Mohamed (2015),
    https://arxiv.org/abs/1505.05770.

    Args:
        base: a reparameterised distribution over vectors, of the batch shape of the whole.
        transform: g, from vectors to vectors.

    >>> flow = Flow(dist.Normal(torch.zeros(5, 2), 1.0).to_event(1), zuko.flow_network("maf", 2)(None))
    >>> flow.log_prob(flow.rsample((3,))).shape
    torch.Size([3, 5])
    """

    def __init__(self, base: dist.TorchDistribution, transform: Transform, validate_args: bool | None = None) -> None:
        super().__init__(base, [transform], validate_args)
        self._drawn: _Draw | None = None

    def expand(self, batch_shape: torch.Size, _instance: Flow | None = None) -> Flow:
        new = super().expand(batch_shape, self._get_checked_instance(Flow, _instance))
        new._drawn = None
        return new

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - as torch has it
        start = self.base_dist.rsample(sample_shape)
        value, ladj = self.transforms[0].call_and_ladj(start)
        log_prob = self.base_dist.log_prob(start) - ladj
        self._drawn = _Draw(value, log_prob, value.requires_grad, torch.is_grad_enabled())
        return value

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - as torch has it
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self._drawn is not None and self._drawn.answers(value):
            return self._drawn.log_prob if torch.is_grad_enabled() else self._drawn.log_prob.detach()
        start, ladj = self.transforms[0].inv.call_and_ladj(value)
        return self.base_dist.log_prob(start) + ladj


class _Draw(NamedTuple):
    """A value drawn, its log-density, and what gradients they were made with."""

    value: Tensor
    log_prob: Tensor
    requires_grad: bool
    with_graph: bool

    def answers(self, value: Tensor) -> bool:
        """Whether ``value`` is this draw and its log-density has the derivatives that can be asked of it now."""
        # A draw made without a graph says nothing of derivatives, nor does one that became a variable afterwards.
        derivatives = self.with_graph or not torch.is_grad_enabled()
        return value is self.value and value.requires_grad == self.requires_grad and derivatives
