"""Independent Concrete variables as one vector."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.blocks import simplex_blocks


class RelaxedCategoricals(dist.TorchDistribution):
    r"""m independent Concrete (Gumbel-softmax) variables on the simplex of k classes, laid end to end.

    .. math::
        y = \operatorname{softmax}\left(\frac{\eta + g}{\lambda}\right), \; g_i \sim \text{Gumbel}(0, 1), \qquad
        p(y) = \Gamma(k) \lambda^{k - 1} \prod_i \frac{e^{\eta_i} y_i^{-\lambda - 1}}{\sum_j e^{\eta_j} y_j^{-\lambda}}

    The density is with respect to the first k - 1 elements of each block. Maddison, Mnih & Teh (2017),
    https://arxiv.org/abs/1611.00712; Jang, Gu & Poole (2017), https://arxiv.org/abs/1611.01144. At a low temperature
    draws come closer to 0 than a float does: they are kept at 1e-31 (float32) or 1e-292 (float64) and above, where
    density and gradient are finite.

    Args:
        temperature: :math:`\lambda > 0`, one number; towards 0 draws become one-hot.
        logits: :math:`\eta`, unnormalised log-probabilities, of shape ``(*batch_shape, m, k)``.

    >>> q = RelaxedCategoricals(0.5, torch.zeros(5, 2, 3))
    >>> q.rsample().shape
    torch.Size([5, 6])
    """

    arg_constraints = {"temperature": constraints.positive, "logits": constraints.independent(constraints.real, 2)}
    has_rsample = True

    def __init__(self, temperature: float | Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        if logits.ndim < 2:
            raise ValueError(f"relaxed categoricals logits: expected shape (..., m, k), got {tuple(logits.shape)}")
        self.temperature = torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device)
        if self.temperature.ndim:
            raise ValueError(
                f"relaxed categoricals temperature: expected one number, got shape {tuple(self.temperature.shape)}"
            )
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-2], torch.Size([logits.shape[-2:].numel()]), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: RelaxedCategoricals | None = None) -> RelaxedCategoricals:
        new = self._get_checked_instance(RelaxedCategoricals, _instance)
        new.temperature = self.temperature
        new.logits = self.logits.expand(*batch_shape, *self.logits.shape[-2:])
        super(RelaxedCategoricals, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Of one variable the simplex itself, so that others that live there can meet it."""
        m, k = self.logits.shape[-2:]
        return constraints.simplex if m == 1 else simplex_blocks(k)

    @property
    def _least(self) -> float:
        # Above the least float, so that 1 / y and what it is multiplied with in a gradient do not overflow.
        info = torch.finfo(self.logits.dtype)
        return info.tiny / info.eps

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        logits = self.logits.expand(*sample_shape, *self.logits.shape)
        exponential = torch.empty_like(logits).exponential_().clamp_min(torch.finfo(logits.dtype).tiny)
        y = torch.softmax((logits - exponential.log()) / self.temperature, -1)
        return y.clamp_min(self._least).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        k = self.logits.shape[-1]
        log_y = value.unflatten(-1, self.logits.shape[-2:]).clamp_min(self._least).log()
        weights = torch.log_softmax(self.logits - self.temperature * log_y, -1)
        constant = math.lgamma(k) + (k - 1) * self.temperature.log()
        return ((weights - log_y).sum(-1) + constant).sum(-1)
