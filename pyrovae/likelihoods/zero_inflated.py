"""Zero-inflated likelihoods of counts."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import distributions
from pyrovae.likelihoods.counts import Counts
from pyrovae.likelihoods.negative_binomial import NegativeBinomial
from pyrovae.likelihoods.poisson import Poisson


class _ZeroInflated(Counts):
    """Another likelihood of counts with one number more for each element, the logit of an extra zero."""

    @property
    def numbers(self) -> int:
        return super().numbers + 1

    def law(self, mean: Tensor, *free: Tensor) -> TorchDistribution:
        *free, gate_logits = free
        return distributions.ZeroInflated(super().law(mean, *free), gate_logits)

    def initial(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        # Half of the zeros go to the gate, and the mean of the rest is raised to keep that of the data.
        gate = ((x == 0).to(x.dtype).mean(0) / 2).clamp_min(0.01).flatten()
        mean, *others = super().initial(x, condition).split(len(gate))
        return torch.cat([mean - torch.log1p(-gate), *others, torch.logit(gate)])


class ZeroInflatedPoisson(_ZeroInflated, Poisson):
    r"""Zero-inflated Poisson likelihood of counts with more zeros than a Poisson has.

    0 with probability :math:`\pi`, otherwise Poisson of mean :math:`e^{\eta}`:

    .. math::
        p(x) = \pi\, [x = 0] + (1 - \pi)\, \text{Poisson}(x; e^{\eta}), \qquad \pi = \sigma(g)

    For counts with more zeros than their mean explains, where something else than a low rate makes a zero (no device,
    no visit): Lambert (1992), https://doi.org/10.2307/1269547. The decoder gives :math:`\eta` and the gate's logit g
    for each element; the expected count is :math:`(1 - \pi) e^{\eta}`. The rest is as in `Poisson`.

    Args:
        exposure: the column of the condition that holds the logarithm of the exposure, which is added to
            :math:`\eta`; None: the same for all rows.

    Raises:
        ValueError: on use, if the condition has no such column.

    >>> likelihood = ZeroInflatedPoisson()
    >>> likelihood.build((1,))
    2
    >>> likelihood(torch.zeros(2)).log_prob(torch.zeros(1)).exp()  # 1/2 + exp(-1) / 2
    tensor(0.6839)
    """


class ZeroInflatedNegativeBinomial(_ZeroInflated, NegativeBinomial):
    r"""Zero-inflated negative binomial likelihood of counts with more zeros than a negative binomial has.

    0 with probability :math:`\pi`, otherwise negative binomial of mean :math:`e^{\eta}`:

    .. math::
        p(x) = \pi\, [x = 0] + (1 - \pi)\, \text{NB}(x; e^{\eta}, \theta), \qquad \pi = \sigma(g)

    The likelihood of scVI and DCA for single cells with drop-out: Eraslan et al. (2019),
    https://doi.org/10.1038/s41467-018-07931-2. The decoder gives :math:`\eta` and the gate's logit g for each element;
    the expected count is :math:`(1 - \pi) e^{\eta}`. Compare it with ``"negative_binomial"``, whose zeros are often
    enough. The rest is as in `NegativeBinomial`.

    Args:
        dispersion: where :math:`\theta` comes from: "shared", "per_dimension" or "network".
        exposure: the column of the condition that holds the logarithm of the exposure, which is added to
            :math:`\eta`; None: the same for all rows.

    Raises:
        ValueError: for another dispersion; on use, if the condition has no such column.

    >>> likelihood = ZeroInflatedNegativeBinomial()
    >>> likelihood.build((1,))
    2
    >>> likelihood(torch.zeros(2)).log_prob(torch.zeros(1)).exp().item()  # 1/2 + 1/2 * 1/2
    0.75
    """
