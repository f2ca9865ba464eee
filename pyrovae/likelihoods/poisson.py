"""Poisson likelihood."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import distributions
from pyrovae.likelihoods.counts import Counts


class Poisson(Counts):
    r"""Poisson likelihood of counts, :math:`\log p(x) = x \eta - e^{\eta} - \log x!`, by its log mean :math:`\eta`.

    For counts whose variance, given z, is their mean; where it is more, take ``"negative_binomial"``. Poisson counts of
    deep latent variables: Ranganath et al. (2015), https://arxiv.org/abs/1411.2581. The mean is :math:`e^{\eta}`
    up to :math:`e^{20}` and goes on linearly from there, so that nothing overflows; a network sees log(1 + x).

    With an ``exposure``, the mean is :math:`e^{\eta + o}`: o is that column of the condition, the logarithm of what a
    row was exposed to (hours, area, population). For single cells, scvi-tools puts the logarithm of the row's observed
    total there.

    Args:
        exposure: the column of the condition that holds the logarithm of the exposure; None: the same for all rows.

    Raises:
        ValueError: on use, if the condition has no such column.

    >>> import torch
    >>> likelihood = Poisson()
    >>> likelihood.build((3,))
    3
    >>> likelihood(torch.zeros(1, 3)).log_prob(torch.ones(3))  # a mean of 1: exp(-1) each
    tensor([-3.])
    """

    def law(self, mean: Tensor) -> TorchDistribution:
        return distributions.Poisson(mean)
