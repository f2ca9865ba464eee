"""Classes as numbers of the model's dtype."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor


class Categorical(dist.Categorical):
    r"""Categorical over 0 .. K-1 whose draws have the dtype of its logits, so that a network takes them as they are.

    .. math::
        \log p(x) = \eta_x - \log \sum_k e^{\eta_k}

    Args:
        logits: unnormalised log-probabilities :math:`\eta`, of shape ``(*batch_shape, K)``.

    >>> Categorical(torch.tensor([0.0, 5.0])).mode
    tensor(1.)
    """

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Categorical | None = None) -> Categorical:
        return super().expand(batch_shape, _instance=self._get_checked_instance(type(self), _instance))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        return super().sample(sample_shape).to(self.logits.dtype)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return super().enumerate_support(expand).to(self.logits.dtype)

    @property
    def mode(self) -> Tensor:
        return super().mode.to(self.logits.dtype)
