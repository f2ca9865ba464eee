"""Dirichlet-multinomial likelihood."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import distributions
from pyrovae.likelihoods.composition import Composition
from pyrovae.likelihoods.counts import bounded


class DirichletMultinomial(Composition):
    r"""Dirichlet-multinomial likelihood of a row of D counts given their total N: a multinomial that varies more.

    .. math::
        \log p(x \mid z, N) = \log \frac{N!\, \Gamma(A)}{\Gamma(N + A)}
        + \sum_i \log \frac{\Gamma(x_i + \alpha_i)}{x_i!\, \Gamma(\alpha_i)}, \qquad
        \alpha = e^{\eta},\; A = \sum_i \alpha_i

    For counts that come in bursts (a word once used is used again) and for compositions of microbes: Mosimann (1962),
    https://doi.org/10.1093/biomet/49.1-2.65; of words, Madsen et al. (2005), https://doi.org/10.1145/1102351.1102420.
    The shares are :math:`\alpha / A`; it goes to the multinomial as A grows. Each row's N is its own sum. A network
    sees log(1 + D x / N) and log(1 + N); :math:`\alpha` is an exponential up to :math:`e^{20}` and linear from there.

    Args:
        total_count: the total of each row that is drawn; None: the rounded mean total of the training rows.

    Raises:
        ValueError: for a total_count below 1, or an event of another shape than ``(D,)``.

    >>> likelihood = DirichletMultinomial()
    >>> likelihood.build((2,))
    2
    >>> likelihood(torch.zeros(1, 2)).log_prob(torch.tensor([1.0, 2.0])).exp()  # uniform over 0, 1, 2, 3
    tensor([0.2500])
    """

    def forward(self, params: Tensor) -> TorchDistribution:
        return distributions.DirichletMultinomial(bounded(params), self.total)

    def initial(self, x: Tensor) -> Tensor:
        log_shares = super().initial(x)
        # By moments: Pearson's statistic over D - 1 has mean (N + A) / (1 + A).
        total = x.sum(-1, keepdim=True)
        expected = total.clamp_min(1) * log_shares.exp()
        ratio = ((x - total * log_shares.exp()).square() / expected).sum(-1).mean() / max(x.shape[-1] - 1, 1)
        concentration = (total.mean() - ratio) / (ratio - 1).clamp_min(1e-6)
        return log_shares + torch.log(concentration.clamp(1e-1, 1e4))
