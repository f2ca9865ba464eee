"""Logistic-normal prior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions import LogisticNormal as _LogisticNormal
from pyrovae.distributions import positive
from pyrovae.priors.unconditional import Unconditional


class LogisticNormal(Unconditional):
    r"""Logistic-normal prior of proportions, by default Laplace's approximation of a symmetric Dirichlet.

    .. math::
        z = \operatorname{stick}(u), \quad u \sim \mathcal{N}(\mu, \operatorname{diag} \sigma^2), \qquad
        \mu_k = 0, \quad \sigma_k^2 = \frac{1}{\alpha} \Bigl(1 + \frac{1}{D - k}\Bigr), \quad k = 1, \dots, D - 1

    For topics, where a Dirichlet is wanted but its draws are hard to differentiate: ProdLDA (Srivastava & Sutton
    2017, https://arxiv.org/abs/1703.01488). That paper pushes D normals through a softmax, which has no density on
    the simplex. Here D - 1 normals go through torch's stick-breaking bijection, and the density is that of the first
    D - 1 proportions, as torch's Dirichlet has it. The fractions that break a Dirichlet's stick are independent beta
    variables, Beta(:math:`\alpha, (D - k) \alpha`), so the Laplace approximation of each in its logit is the
    approximation of the whole. A normal posterior that is carried to the simplex has a KL in closed form.

    Args:
        concentration: :math:`\alpha` of the Dirichlet, a positive number.
        learned: train :math:`\mu` and :math:`\sigma`, from these values.
        floor: the least :math:`\sigma`, where learned.

    Raises:
        ValueError: when built, for a single part.

    >>> prior = LogisticNormal()
    >>> prior.build((2,))
    0
    >>> prior(None).log_prob(torch.full((2,), 0.5))  # log 4 - log(4 pi) / 2
    tensor(0.1208)
    """

    support = constraints.simplex

    def __init__(self, concentration: float = 1.0, learned: bool = False, floor: float = 1e-3) -> None:
        super().__init__(learned, floor)
        self.concentration = positive(concentration, "logistic_normal concentration: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        parts = event_shape[-1]
        self.at_least_two(parts)
        variance = (1 + 1 / torch.arange(parts - 1, 0, -1)) / self.concentration
        self.hold("loc", torch.zeros(parts - 1), self.learned)
        self.hold_positive("scale", variance.sqrt(), self.learned)
        return super().build(event_shape)

    def forward(self, params: Tensor | None = None) -> dist.TorchDistribution:
        return _LogisticNormal(self.loc, self.positive_value("scale"))
