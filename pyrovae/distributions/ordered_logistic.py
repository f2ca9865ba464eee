"""Ordered classes by cumulative logits, exact at every logit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae.distributions.categorical import Categorical


class OrderedLogistic(Categorical):
    r"""Ordered classes 0 .. K-1 by cumulative logits: :math:`P(x \le k) = \sigma(c_k - \eta)`.

    McCullagh (1980), https://doi.org/10.1111/j.2517-6161.1980.tb01109.x. The probability of a class between
    cutpoints :math:`a < b` is computed as

    .. math::
        \sigma(b - \eta) - \sigma(a - \eta) = \sigma(b - \eta)\, \sigma(\eta - a)\, (1 - e^{a - b})

    whose factors have exact logarithms. ``pyro.distributions.OrderedLogistic`` takes the difference of saturated
    probabilities, and so at :math:`\eta` = 1000 gives every class but the last the same.

    Args:
        predictor: :math:`\eta`, of shape ``batch_shape``.
        cutpoints: :math:`c`, ascending, of shape ``(..., K-1)`` that broadcasts with ``(*batch_shape, K-1)``.

    >>> OrderedLogistic(torch.tensor(0.0), torch.tensor([-1.0, 1.0])).probs
    tensor([0.2689, 0.4621, 0.2689])
    """

    def __init__(self, predictor: Tensor, cutpoints: Tensor, validate_args: bool | None = None) -> None:
        below = cutpoints - predictor.unsqueeze(-1)
        zero = torch.zeros_like(below[..., :1])
        log_gap = torch.log(-torch.expm1(-cutpoints.diff())).expand(*below.shape[:-1], -1)
        logits = (
            torch.cat([F.logsigmoid(below), zero], -1)
            + torch.cat([zero, F.logsigmoid(-below)], -1)
            + torch.cat([zero, log_gap, zero], -1)
        )
        super().__init__(logits, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The expected rank."""
        return (self.probs * self._ranks()).sum(-1)

    @property
    def variance(self) -> Tensor:
        return (self.probs * (self._ranks() - self.mean.unsqueeze(-1)).square()).sum(-1)

    def _ranks(self) -> Tensor:
        return torch.arange(self.probs.shape[-1], dtype=self.probs.dtype, device=self.probs.device)
