"""The continuous Bernoulli, exact at every logit."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor


class ContinuousBernoulli(dist.ContinuousBernoulli):
    r"""Continuous Bernoulli on [0, 1] by its logit :math:`\eta`, stable for all logits and in float32.

    .. math::
        p(x) = C(\eta)\, \sigma(\eta)^x (1 - \sigma(\eta))^{1-x}, \qquad
        \log C(\eta) = \log \frac{\eta}{\tanh(\eta / 2)}

    The density is that of Loaiza-Ganem & Cunningham (2019), https://arxiv.org/abs/1907.06845, with its constant
    written in the logit. ``torch.distributions.ContinuousBernoulli`` computes the constant from a probability
    clamped at float32's resolution, and so is wrong by 0.2 nats a pixel at a logit of 20 and by 1.8 at 100.

    Args:
        logits: log-odds :math:`\eta`, of shape ``batch_shape``.

    >>> ContinuousBernoulli(logits=torch.tensor(100.0)).log_prob(torch.tensor(1.0))  # log(100)
    tensor(4.6052)
    """

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: ContinuousBernoulli | None = None) -> ContinuousBernoulli:
        new = self._get_checked_instance(ContinuousBernoulli, _instance)
        return super().expand(batch_shape, _instance=new)

    def _cont_bern_log_norm(self) -> Tensor:
        near, half = self._halves()
        square = half.square()
        # log(h / tanh h) = h^2/3 - 7 h^4/90 + 62 h^6/2835 - 127 h^8/18900 + ...
        series = square * (1 / 3 - square * (7 / 90 - square * (62 / 2835 - square * 127 / 18900)))
        safe = torch.where(near, torch.ones_like(half), half)
        return math.log(2) + torch.where(near, series, torch.log(safe / torch.tanh(safe)))

    @property
    def mean(self) -> Tensor:
        r""":math:`\tfrac12 (1 + \coth h - 1/h)` with :math:`h = \eta / 2`."""
        near, half = self._halves()
        square = half.square()
        series = half * (1 / 3 - square * (1 / 45 - square * (2 / 945 - square / 4725)))
        safe = torch.where(near, torch.ones_like(half), half)
        return 0.5 + 0.5 * torch.where(near, series, 1 / torch.tanh(safe) - 1 / safe)

    @property
    def variance(self) -> Tensor:
        r""":math:`\tfrac14 (1/h^2 - 1/\sinh^2 h)` with :math:`h = \eta / 2`."""
        near, half = self._halves()
        square = half.square()
        series = 1 / 3 - square * (1 / 15 - square * (2 / 189 - square / 675))
        # sinh overflows harmlessly at |h| > 89: its reciprocal is then 0 to working precision.
        safe = torch.where(near, torch.ones_like(half), half).clamp(-80, 80)
        exact = 1 / torch.where(near, safe, half).square() - 1 / torch.sinh(safe).square()
        return 0.25 * torch.where(near, series, exact)

    def cdf(self, value: Tensor) -> Tensor:
        r""":math:`(e^{\eta x} - 1) / (e^{\eta} - 1)`."""
        if self._validate_args:
            self._validate_sample(value)
        flat, logit = self._nonzero_logits()
        # For a positive logit, both ends are divided by exp(logit) so that nothing overflows.
        up = torch.exp(logit * (value - 1)) * torch.expm1(-logit * value) / torch.expm1(-logit)
        down = torch.expm1(logit * value) / torch.expm1(logit)
        return torch.where(flat, value, torch.where(logit > 0, up, down)).clamp(0, 1)

    def icdf(self, value: Tensor) -> Tensor:
        r""":math:`\eta^{-1} \log(1 + u (e^{\eta} - 1))`."""
        flat, logit = self._nonzero_logits()
        shrink = torch.expm1(-logit.abs())
        # log(u + (1 - u) exp(-logit)), without cancellation at small logits and without underflow at large ones.
        large = torch.logaddexp(torch.log(value), torch.log1p(-value) - logit)
        tail = torch.where(logit < 1, torch.log1p((1 - value) * shrink), large)
        up = 1 + tail / logit
        down = torch.log1p(value * shrink) / logit
        return torch.where(flat, value, torch.where(logit > 0, up, down)).clamp(0, 1)

    def entropy(self) -> Tensor:
        r""":math:`\log(1 + e^{\eta}) - \eta\, \mathrm{E}[x] - \log C(\eta)`."""
        return F.softplus(self.logits) - self.logits * self.mean - self._cont_bern_log_norm()

    def _halves(self) -> tuple[Tensor, Tensor]:
        # The series are used where the closed forms cancel; at |h| < 0.1 the first term left out is below 1e-12.
        half = self.logits / 2
        return half.abs() < 0.1, half

    def _nonzero_logits(self) -> tuple[Tensor, Tensor]:
        flat = self.logits.abs() < 1e-30
        return flat, torch.where(flat, torch.ones_like(self.logits), self.logits)
