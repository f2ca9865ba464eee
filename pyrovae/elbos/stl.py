"""Sticking the landing."""

from __future__ import annotations

from torch import Tensor

from pyrovae.elbos.bound import Weights
from pyrovae.elbos.iwae import IWAE


class STL(IWAE):
    r"""Sticking the landing: the importance-weighted bound, whose gradient leaves the score of the guide out,

    .. math:: \nabla_\phi \approx \sum_k \tilde w_k \, \partial_{z_k} \log w_k \, \partial_\phi z_k, \qquad
        \tilde w_k = \frac{w_k}{\sum_j w_j}.

    At K = 1 it is unbiased, because the score has mean zero, and vanishes draw by draw where q is the posterior. At
    K > 1 it is biased (Tucker et al. 2018, https://arxiv.org/abs/1810.04152): take `DReG` there.

    Reference: Roeder, Wu and Duvenaud, 2017, https://arxiv.org/abs/1703.09194
    """

    gradient = "path"

    def weights(self, log_weights: Tensor) -> Weights:
        normalized = log_weights.softmax(0)
        return Weights(normalized, normalized)
