"""Dirichlet prior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions import positive
from pyrovae.priors.unconditional import Unconditional


class Dirichlet(Unconditional):
    r"""Dirichlet prior of proportions.

    .. math::
        p(z) = \frac{\Gamma(\sum_d \alpha_d)}{\prod_d \Gamma(\alpha_d)} \prod_d z_d^{\alpha_d - 1}

    For z that says in what parts a row is made of D topics or sources, as in latent Dirichlet allocation (Blei, Ng &
    Jordan 2003, https://www.jmlr.org/papers/v3/blei03a.html). The density is that of the first D - 1 proportions.
    A concentration below 1 puts most weight on few parts; 1 is uniform on the simplex.

    Args:
        concentration: :math:`\alpha_d` of each part, a positive number.
        learned: train the concentration of each part, from this value.
        floor: the least concentration, where learned.

    Raises:
        ValueError: when built, for a single part.

    >>> prior = Dirichlet()
    >>> prior.build((3,))
    0
    >>> prior(None).log_prob(torch.tensor([0.2, 0.3, 0.5]))  # log 2
    tensor(0.6931)
    """

    support = constraints.simplex

    def __init__(self, concentration: float = 1.0, learned: bool = False, floor: float = 1e-3) -> None:
        super().__init__(learned, floor)
        self.concentration = positive(concentration, "dirichlet concentration: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        self.at_least_two(event_shape[-1])
        self.hold_positive("alpha", torch.full(tuple(event_shape), self.concentration), self.learned)
        return super().build(event_shape)

    def forward(self, params: Tensor | None = None) -> dist.TorchDistribution:
        return dist.Dirichlet(self.positive_value("alpha"))
