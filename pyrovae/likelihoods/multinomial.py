"""Multinomial likelihood."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import distributions
from pyrovae.likelihoods.composition import Composition


class Multinomial(Composition):
    r"""Multinomial likelihood of a row of D counts given their total N, with its coefficient.

    .. math::
        \log p(x \mid z, N) = \log N! - \sum_i \log x_i! + \sum_i x_i \log p_i, \qquad p = \text{softmax}(\eta)

    For bags of words and other compositions: with the prior ``"dirichlet"`` or ``"logistic_normal"`` it is a neural
    topic model, Srivastava & Sutton (2017), https://arxiv.org/abs/1703.01488. Each row's N is its own sum. A network
    sees log(1 + D x / N) and log(1 + N).

    Args:
        total_count: the total of each row that is drawn; None: the rounded mean total of the training rows.

    Raises:
        ValueError: for a total_count below 1, or an event of another shape than ``(D,)``.

    >>> import torch
    >>> likelihood = Multinomial()
    >>> likelihood.build((2,))
    2
    >>> likelihood(torch.zeros(1, 2)).log_prob(torch.tensor([1.0, 1.0])).exp()  # two tosses, one head
    tensor([0.5000])
    """

    def forward(self, params: Tensor) -> TorchDistribution:
        return distributions.Multinomial(params, self.total)
