"""Stick-breaking, without cancellation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import StickBreakingTransform


class StickBreaking(StickBreakingTransform):
    r"""torch's bijection from D - 1 real numbers to the simplex of D parts, exact where a part is small.

    .. math::
        z_k = v_k \prod_{j < k} (1 - v_j), \quad v_k = \sigma(x_k - \log(D - k)), \qquad
        \log |J| = \sum_{k < D} \log v_k + (D - k) \log (1 - v_k)

    It is equal to ``torch.distributions.StickBreakingTransform``, and counts as equal. That one finds what is left of
    the stick as one minus what has been broken off, which in float32 is nothing, or noise, as soon as it is below
    1e-7, and takes the logarithm of parts that underflow.

    >>> StickBreaking()(torch.zeros(3))
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def _call(self, x: Tensor) -> Tensor:
        logits = x - _left(x).log()
        log_rest = F.logsigmoid(-logits).cumsum(-1)
        # They sum to 1 but for rounding, which softmax takes away.
        return torch.softmax(F.pad(F.logsigmoid(logits), (0, 1)) + F.pad(log_rest, (1, 0)), -1)

    def _inverse(self, y: Tensor) -> Tensor:
        tiny = torch.finfo(y.dtype).tiny
        rest = y.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        return y[..., :-1].clamp_min(tiny).log() - rest.clamp_min(tiny).log() + _left(rest).log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        left = _left(x)
        logits = x - left.log()
        return (F.logsigmoid(logits) + left * F.logsigmoid(-logits)).sum(-1)


def _left(x: Tensor) -> Tensor:
    """D - k for k = 1, ..., D - 1: how many parts are left after each break."""
    return torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device)
