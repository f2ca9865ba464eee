"""Independent categorical variables as one vector."""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from pyrovae.distributions.blocks import one_hot_blocks

MOST_VALUES = 4096
"""The most values that are summed over."""


class Categoricals(dist.TorchDistribution):
    r"""m independent one-hot variables of k classes each, laid end to end.

    .. math::
        \log p(x) = \sum_{i=1}^m \sum_{j=1}^k x_{ij} \log \pi_{ij}

    What a network reads and writes is one vector of ``m * k`` elements. All k^m values can be enumerated, so that
    ``TraceEnum_ELBO`` sums over them exactly.

    Args:
        logits: unnormalised log-probabilities, finite, of shape ``(*batch_shape, m, k)``.

    >>> p = Categoricals(torch.zeros(2, 3))
    >>> p.log_prob(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 1.0]))  # -2 log 3
    tensor(-2.1972)
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 2)}
    has_enumerate_support = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        if logits.ndim < 2:
            raise ValueError(f"categoricals logits: expected shape (..., m, k), got {tuple(logits.shape)}")
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-2], torch.Size([logits.shape[-2:].numel()]), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Categoricals | None = None) -> Categoricals:
        new = self._get_checked_instance(Categoricals, _instance)
        new.logits = self.logits.expand(*batch_shape, *self.logits.shape[-2:])
        super(Categoricals, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return one_hot_blocks(self.logits.shape[-1])

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        with torch.no_grad():
            return dist.OneHotCategorical(logits=self.logits, validate_args=False).sample(sample_shape).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return (value.unflatten(-1, self.logits.shape[-2:]) * self.logits).sum((-2, -1))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values: ``(k^m, *batch_shape, m * k)``, or with ``expand=False`` sizes of 1 for ``batch_shape``.

        Raises:
            ValueError: if there are more than 4096.
        """
        m, k = self.logits.shape[-2:]
        if k**m > MOST_VALUES:
            raise ValueError(
                f"expected at most {MOST_VALUES} values to sum over, got {k}^{m} = {k**m}. "
                "Take fewer variables or classes, or an estimator that draws z, such as Trace_ELBO."
            )
        digits = torch.cartesian_prod(*[torch.arange(k, device=self.logits.device)] * m).reshape(-1, m)
        values = F.one_hot(digits, k).to(self.logits.dtype).flatten(-2)
        values = values.reshape(-1, *[1] * len(self.batch_shape), m * k)
        return values.expand(-1, *self.batch_shape, -1) if expand else values

    @property
    def probs(self) -> Tensor:
        """Probabilities, of shape ``(*batch_shape, m, k)``."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        return self.probs.flatten(-2)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    @property
    def mode(self) -> Tensor:
        return F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits.dtype).flatten(-2)

    def entropy(self) -> Tensor:
        return -(self.probs * self.logits).sum((-2, -1))


@register_kl(Categoricals, Categoricals)
def _kl(p: Categoricals, q: Categoricals) -> Tensor:
    if p.logits.shape[-2:] != q.logits.shape[-2:]:
        raise ValueError(
            f"expected two Categoricals of as many variables and classes, got {tuple(p.logits.shape[-2:])} "
            f"and {tuple(q.logits.shape[-2:])}"
        )
    return (p.probs * (p.logits - q.logits)).sum((-2, -1))
