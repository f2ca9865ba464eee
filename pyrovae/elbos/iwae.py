"""The importance-weighted bound."""

from __future__ import annotations

from torch import Tensor

from pyrovae.elbos.bound import Bound, log_mean_exp


class IWAE(Bound):
    r"""Importance-weighted bound: the logarithm of a mean of K weights,

    .. math:: L_K = \mathrm{E} \log \frac1K \sum_{k=1}^K w_k, \qquad w_k = \frac{p(x, z_k)}{q(z_k \mid x)}.

    It rises with K from the ELBO (K = 1) to log p(x). The gradient is that of the formula, unbiased; its
    signal-to-noise ratio falls for the guide as K rises (Rainforth et al. 2018, https://arxiv.org/abs/1802.04537):
    `DReG` has the same mean without that.

    Reference: Burda, Grosse and Salakhutdinov, 2015, https://arxiv.org/abs/1509.00519
    """

    def bound(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(log_weights)
