"""Categorical likelihood."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import distributions
from pyrovae.likelihoods.classes import Classes


class Categorical(Classes):
    r"""Categorical likelihood of nominal classes: :math:`\log p(x) = \eta_x - \log \sum_k e^{\eta_k}`.

    Each element of a row is one of the classes 0 .. K-1, as a number; the decoder gives a logit for each class and
    element. For colours, codes and the like, as in Nazabal et al. (2020), https://arxiv.org/abs/1807.03653; where the
    classes have an order, take ``"ordinal"``. A network sees indicators, ``(B, classes, *event_shape)``. A class has
    no mean: the mode stands for it.

    Args:
        classes: K, a whole number of at least 2, for all elements; it must be given.

    Raises:
        ValueError: without classes, or below 2.

    >>> likelihood = Categorical(classes=4)
    >>> likelihood.build((3,))
    12
    >>> likelihood(torch.zeros(1, 12)).log_prob(torch.tensor([0.0, 1.0, 3.0]))  # -3 log 4
    tensor([-4.1589])
    """

    @property
    def numbers(self) -> int:
        return self.classes

    def forward(self, params: Tensor) -> TorchDistribution:
        return distributions.Categorical(torch.stack(self.split(params), -1)).to_event(len(self.event_shape))

    def initial(self, x: Tensor) -> Tensor:
        return self.frequencies(x).log().flatten()

    def features(self, x: Tensor) -> Tensor:
        """Indicators of the classes, in a shape for the networks that take the event's: more channels of an image,
        ``(B, C classes, H, W)``, more columns of anything else, ``(B, ..., D classes)``."""
        classes = torch.arange(self.classes, dtype=x.dtype, device=x.device)
        seen = (x.unsqueeze(-1) == classes).to(x.dtype)
        return seen.movedim(-1, 2).flatten(1, 2) if x.ndim == 4 else seen.flatten(-2)
