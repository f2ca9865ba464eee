"""Householder flow posterior."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Transform

from pyrovae.distributions import householder
from pyrovae.posteriors.flow import GAIN, FlowPosterior


class Householder(FlowPosterior):
    r"""Householder flow posterior: a normal with axes of its own for each row.

    .. math:: q(z \mid x) = \mathcal{N}(z; Q \mu, Q \operatorname{diag} \sigma^2 \, Q^\top)

    Q(x) is a product of T reflections, each by a vector from the encoder: D of them reach every orthogonal matrix, and
    so every full covariance. It keeps volumes, and its inverse is as cheap as itself. Tomczak & Welling (2016),
    https://arxiv.org/abs/1611.09630.

    Args:
        transforms: T, the number of reflections; an even number starts near Q = I.
        floor: the least scale.

    >>> import torch
    >>> posterior = Householder(transforms=4)
    >>> posterior(torch.randn(3, posterior.build((2,)))).event_shape
    torch.Size([2])
    """

    def extra(self, size: int) -> int:
        return self.transforms * size

    def bend(self, numbers: Tensor) -> Sequence[Transform]:
        # Two reflections by the same vector cancel.
        return [householder.Householder(1 + GAIN * numbers.unflatten(-1, (self.transforms, -1)))]
