"""Rows of counts given their total, for rows of any totals."""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.counts import negative_binomial_log_prob, poisson_log_prob


def multinomial_sample(total: Tensor, probs: Tensor) -> Tensor:
    """D counts ``(..., D)`` that add up to ``total`` ``(...)``, drawn by halving: log2(D) calls at any total."""
    size = probs.shape[-1]
    levels = [F.pad(probs, (0, (1 << (size - 1).bit_length()) - size))]
    while levels[-1].shape[-1] > 1:
        levels.append(levels[-1].unflatten(-1, (-1, 2)).sum(-1))
    counts = total.unsqueeze(-1)
    for level in reversed(levels[:-1]):
        left, right = level.unflatten(-1, (-1, 2)).unbind(-1)
        share = left / (left + right).clamp_min(torch.finfo(level.dtype).tiny)
        chosen = torch.binomial(counts, share)
        counts = torch.stack([chosen, counts - chosen], -1).flatten(-2)
    return counts[..., :size]


class _Composition(dist.TorchDistribution):
    """D counts given their total: ``total_count`` in draws and moments, the value's own sum in ``log_prob``."""

    arg_constraints = {"logits": constraints.real_vector, "total_count": constraints.nonnegative_integer}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, logits: Tensor, total_count: Tensor | float, validate_args: bool | None = None) -> None:
        *batch, size = logits.shape
        self.logits = logits
        self.total_count = torch.as_tensor(total_count, dtype=logits.dtype, device=logits.device).expand(batch)
        super().__init__(torch.Size(batch), torch.Size([size]), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: _Composition | None = None) -> _Composition:
        new = self._get_checked_instance(type(self), _instance)
        logits = self.logits.expand(torch.Size(batch_shape) + self.event_shape)
        _Composition.__init__(new, logits, self.total_count.expand(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        return self.total_count.unsqueeze(-1) * self.probs

    @property
    def probs(self) -> Tensor:
        """Expected shares, of shape ``(..., D)``."""
        return torch.softmax(self.logits, -1)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            return multinomial_sample(self.total_count.expand(shape[:-1]), self._shares(shape))

    def _given_total(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The counts in the dtype of the logits, their total, that or 1, and the logarithms of the expected shares."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.to(self.logits.dtype)
        total = value.sum(-1)
        # Where all counts are 0, any mean gives the same.
        return value, total, total.clamp_min(1), torch.log_softmax(self.logits, -1)


class Multinomial(_Composition):
    r"""Multinomial of a row x of D counts given their total N, with its coefficient.

    .. math::
        \log p(x \mid N) = \log N! - \sum_i \log x_i! + \sum_i x_i \log p_i

    computed as independent Poissons of means :math:`N p_i` given their sum, which is exact in float32 at totals of
    millions. Rows of one batch may have different totals; ``torch.distributions.Multinomial`` takes one whole number
    for all, refuses rows of another, and draws ``total_count`` single categories.

    Args:
        logits: unnormalised :math:`\log p`, of shape ``(*batch_shape, D)``.
        total_count: N of draws and moments, which broadcasts with ``batch_shape``; log_prob takes the value's own.

    >>> Multinomial(torch.zeros(2), 3).log_prob(torch.tensor([[1.0, 1.0], [2.0, 1.0]])).exp()  # 2 / 4 and 3 / 8
    tensor([0.5000, 0.3750])
    """

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.probs)

    def log_prob(self, value: Tensor) -> Tensor:
        value, total, some, log_probs = self._given_total(value)
        each = poisson_log_prob(value, some.unsqueeze(-1) * log_probs.exp(), some.log().unsqueeze(-1) + log_probs)
        return each.sum(-1) - poisson_log_prob(total, some, some.log())

    def _shares(self, shape: torch.Size) -> Tensor:
        return self.probs.expand(shape)


class DirichletMultinomial(_Composition):
    r"""Dirichlet-multinomial of a row x of D counts given their total N: a multinomial with :math:`p \sim` Dirichlet.

    .. math::
        \log p(x \mid N) = \log \frac{N!\, \Gamma(A)}{\Gamma(N + A)}
        + \sum_i \log \frac{\Gamma(x_i + \alpha_i)}{x_i!\, \Gamma(\alpha_i)}, \qquad A = \sum_i \alpha_i

    After Mosimann (1962), https://doi.org/10.1093/biomet/49.1-2.65. It is computed as independent negative binomials
    of inverse dispersions :math:`\alpha_i` given their sum, without cancellation, and goes to the multinomial as
    :math:`A \to \infty`.

    Args:
        log_concentration: :math:`\log \alpha`, of shape ``(*batch_shape, D)``.
        total_count: N of draws and moments, which broadcasts with ``batch_shape``; log_prob takes the value's own.

    >>> DirichletMultinomial(torch.zeros(2), 3).log_prob(torch.tensor([1.0, 2.0])).exp()  # uniform over 0, 1, 2, 3
    tensor(0.2500)
    """

    def __init__(
        self, log_concentration: Tensor, total_count: Tensor | float, validate_args: bool | None = None
    ) -> None:
        # They are logits too: the softmax of log a_i is a_i / A, the expected share.
        super().__init__(log_concentration, total_count, validate_args)

    @property
    def variance(self) -> Tensor:
        concentration = self.logits.exp().sum(-1, keepdim=True)
        spread = (self.total_count.unsqueeze(-1) + concentration) / (1 + concentration)
        return self.mean * (1 - self.probs) * spread

    def log_prob(self, value: Tensor) -> Tensor:
        value, total, some, log_probs = self._given_total(value)
        concentration = self.logits.exp()
        each = negative_binomial_log_prob(
            value, some.unsqueeze(-1) * log_probs.exp(), some.log().unsqueeze(-1) + log_probs, concentration
        )
        return each.sum(-1) - negative_binomial_log_prob(total, some, some.log(), concentration.sum(-1))

    def _shares(self, shape: torch.Size) -> Tensor:
        # The Dirichlet as a softmax of log-gammas, by G(a) = G(a + 1) U^(1/a): small concentrations do not underflow.
        concentration = self.logits.exp().expand(shape)
        gamma = torch._standard_gamma(concentration + 1)
        uniform = torch.rand_like(gamma).clamp_min(torch.finfo(gamma.dtype).tiny)
        return torch.softmax(gamma.log() + uniform.log() / concentration, -1)
