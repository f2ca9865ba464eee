"""The doubly reparameterised gradient."""

from __future__ import annotations

from torch import Tensor

from pyrovae.elbos.bound import Weights
from pyrovae.elbos.iwae import IWAE


class DReG(IWAE):
    r"""Doubly reparameterised gradient of the importance-weighted bound: the score of the guide is reparameterised too,

    .. math:: \nabla_\phi = \mathrm{E} \sum_k \tilde w_k^2 \, \partial_{z_k} \log w_k \, \partial_\phi z_k, \qquad
        \tilde w_k = \frac{w_k}{\sum_j w_j}.

    The mean is that of `IWAE`'s gradient, the variance lower: its signal-to-noise ratio rises with K for the guide,
    where IWAE's falls. The model's gradient is IWAE's. For training at K > 1, the one to take.

    Reference: Tucker, Lawson, Gu and Maddison, 2018, https://arxiv.org/abs/1810.04152
    """

    gradient = "path"

    def weights(self, log_weights: Tensor) -> Weights:
        normalized = log_weights.softmax(0)
        return Weights(normalized, normalized.square())
