"""A distribution of counts with extra zeros, by the logit of their share."""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints


class ZeroInflated(dist.TorchDistribution):
    r"""0 with probability :math:`\pi = \sigma(g)`, otherwise a draw of ``base``; stable at every gate logit g.

    .. math::
        \log p(x) = \log\big(\pi\, [x = 0] + (1 - \pi)\, p_{\text{base}}(x)\big)

    After Lambert (1992), https://doi.org/10.2307/1269547. ``pyro.distributions.ZeroInflatedDistribution`` goes over
    from logits to saturated probabilities once its mean or a draw has been asked for: at a logit of 30 its
    log-probability of a 1 is then minus infinity, and it cannot be expanded any more.

    Args:
        base: a univariate distribution of counts.
        gate_logits: g, which broadcasts with the batch shape of ``base``.

    >>> zero_inflated = ZeroInflated(dist.Poisson(torch.tensor(3.0)), torch.tensor(0.0))
    >>> zero_inflated.log_prob(torch.tensor(0.0)).exp()  # 1/2 + exp(-3) / 2
    tensor(0.5249)
    """

    arg_constraints = {"gate_logits": constraints.real}

    def __init__(self, base: dist.TorchDistribution, gate_logits: Tensor, validate_args: bool | None = None) -> None:
        shape = torch.broadcast_shapes(base.batch_shape, gate_logits.shape)
        self.base, self.gate_logits = base.expand(shape), gate_logits.expand(shape)
        super().__init__(shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: ZeroInflated | None = None) -> ZeroInflated:
        new = self._get_checked_instance(ZeroInflated, _instance)
        new.base, new.gate_logits = self.base.expand(batch_shape), self.gate_logits.expand(batch_shape)
        super(ZeroInflated, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def support(self) -> constraints.Constraint:
        return self.base.support

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.gate_logits) * self.base.mean

    @property
    def variance(self) -> Tensor:
        gate, rest = torch.sigmoid(self.gate_logits), torch.sigmoid(-self.gate_logits)
        return rest * (self.base.variance + gate * self.base.mean.square())

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        with torch.no_grad():
            value = self.base.sample(sample_shape)
            keep = torch.bernoulli(torch.sigmoid(-self.gate_logits).expand(value.shape))
            return value * keep

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        counted = F.logsigmoid(-self.gate_logits) + self.base.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(F.logsigmoid(self.gate_logits), counted), counted)
