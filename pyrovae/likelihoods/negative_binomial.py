"""Negative binomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.likelihoods.counts import Counts, bounded
from pyrovae.registry import choose

MODES = ("shared", "per_dimension", "network")
RANGE = (-2.0, 5.0)
"""Log inverse dispersions from which training starts: beyond them gradients are slow to bring them back."""


class NegativeBinomial(Counts):
    r"""Negative binomial likelihood of counts that vary more than Poisson ones.

    Its mean is :math:`\mu = e^{\eta}`, its variance :math:`\mu + \mu^2/\theta`:

    .. math::
        \log p(x) = \log \frac{\Gamma(x + \theta)}{\Gamma(\theta)\, x!}
        + \theta \log \frac{\theta}{\theta + \mu} + x \log \frac{\mu}{\theta + \mu}

    For counts that vary more than a Poisson, such as those of genes in single cells: Lopez et al. (2018),
    https://doi.org/10.1038/s41592-018-0229-2. The inverse dispersion :math:`\theta` is one number for all elements
    (``"shared"``), one for each (``"per_dimension"``), or comes from the decoder for each row and element
    (``"network"``). It goes to the Poisson as :math:`\theta \to \infty`. Mean and :math:`\theta` are exponentials up
    to :math:`e^{20}` and go on linearly from there, so that nothing overflows; a network sees log(1 + x).

    Args:
        dispersion: where :math:`\theta` comes from, one of the names above.
        exposure: the column of the condition that holds the logarithm of the exposure, which is added to
            :math:`\eta`; None: the same for all rows. For single cells, scvi-tools puts the logarithm of the row's
            observed total there.

    Raises:
        ValueError: for another dispersion; on use, if the condition has no such column.

    >>> likelihood = NegativeBinomial()
    >>> likelihood.build((3,))
    3
    >>> likelihood(torch.zeros(1, 3)).log_prob(torch.ones(3)).exp().item()  # theta = mu = 1: 1/4 each
    0.015625
    """

    def __init__(
        self,
        dispersion: Literal["shared", "per_dimension", "network"] = "per_dimension",
        exposure: int | None = None,
    ) -> None:
        super().__init__(exposure)
        self.dispersion = choose(str(dispersion), MODES, "dispersion")

    @property
    def numbers(self) -> int:
        return super().numbers + (self.dispersion == "network")

    def build(self, event_shape: Sequence[int]) -> int:
        count = super().build(event_shape)
        if self.dispersion != "network":
            shape = self.event_shape if self.dispersion == "per_dimension" else ()
            self.raw_theta = nn.Parameter(torch.zeros(shape))
        return count

    def law(self, mean: Tensor, *free: Tensor) -> TorchDistribution:
        raw = free[0] if free else self.raw_theta
        return distributions.NegativeBinomial(mean, bounded(raw).exp())

    def initial(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        numbers = super().initial(x, condition)
        # By moments: the variance exceeds the mean by mean^2 / theta. Where it does not, theta is the largest.
        mean = (numbers.reshape(self.event_shape) + self.offset(condition)).exp().expand_as(x)
        square, excess = mean.square().mean(0), ((x - mean).square() - mean).mean(0)
        if self.dispersion == "shared":
            square, excess = square.mean(), excess.mean()
        raw = torch.log(square / excess.clamp_min(torch.finfo(x.dtype).tiny)).clamp(*RANGE)
        if self.dispersion == "network":
            return torch.cat([numbers, raw.flatten()])
        with torch.no_grad():
            self.raw_theta.copy_(raw)
        return numbers
