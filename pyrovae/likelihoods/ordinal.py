"""Ordinal likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.distributions import inverse_scale, positive, to_scale
from pyrovae.likelihoods.classes import Classes


class Ordinal(Classes):
    r"""Ordinal likelihood by cumulative logits, proportional odds: :math:`P(x \le k) = \sigma(c_k - \eta)`.

    For ratings, grades and stages, as classes 0 .. K-1 in their order: McCullagh (1980),
    https://doi.org/10.1111/j.2517-6161.1980.tb01109.x. The decoder gives one number :math:`\eta` for each element. The
    cutpoints :math:`c_1 < \dots < c_{K-1}` are learned for each element, the same for all rows, in order by
    construction: their gaps are softplus of free numbers, and their centre is 0, because :math:`\eta` has a bias. A
    network sees the rank on a scale from -1 to 1, which keeps the order and the shape. The expected rank is its mean.

    Args:
        classes: K, a whole number of at least 2, for all elements; it must be given.
        floor: the least gap between cutpoints.

    Raises:
        ValueError: without classes, or below 2; for a floor that is not above 0.

    >>> likelihood = Ordinal(classes=3)
    >>> likelihood.build((1,))
    1
    >>> likelihood(torch.zeros(1)).base_dist.probs.detach()  # cutpoints -1/2 and 1/2
    tensor([[0.3775, 0.2449, 0.3775]])
    """

    def __init__(self, classes: int | None = None, floor: float = 1e-3) -> None:
        super().__init__(classes)
        self.floor = positive(floor, "ordinal floor: expected")

    def build(self, event_shape: Sequence[int]) -> int:
        count = super().build(event_shape)
        gaps = torch.ones(*self.event_shape, self.classes - 2)
        self.raw_gaps = nn.Parameter(inverse_scale(gaps, self.floor))
        return count

    @property
    def cutpoints(self) -> Tensor:
        """Ascending, of mean 0, ``(*event_shape, classes - 1)``."""
        above = to_scale(self.raw_gaps, self.floor).cumsum(-1)
        cutpoints = torch.cat([above.new_zeros(*self.event_shape, 1), above], -1)
        return cutpoints - cutpoints.mean(-1, keepdim=True)

    def forward(self, params: Tensor) -> TorchDistribution:
        (predictor,) = self.split(params)
        return distributions.OrderedLogistic(predictor, self.cutpoints).to_event(len(self.event_shape))

    def initial(self, x: Tensor) -> Tensor:
        cumulative = self.frequencies(x)[:-1].cumsum(0).movedim(0, -1)
        cutpoints = torch.logit(cumulative, eps=1e-6)
        with torch.no_grad():
            self.raw_gaps.copy_(inverse_scale(cutpoints.diff(), self.floor))
        return -cutpoints.mean(-1).flatten()

    def features(self, x: Tensor) -> Tensor:
        """Ranks from -1 to 1."""
        return 2 * x / (self.classes - 1) - 1
