"""Score-function gradients with leave-one-out baselines, of the ELBO and of the importance-weighted bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.elbos.bound import Bound, Weights, log_mean_exp, sum_without_each
from pyrovae.elbos.iwae import IWAE


@dataclass(eq=False)
class ScoreFunction(Bound):
    r"""ELBO of K draws by the score function (REINFORCE), each draw's baseline the mean of the others,

    .. math:: \nabla_\phi = \mathrm{E} \frac1K \sum_k \Bigl( \log w_k - \frac{1}{K - 1} \sum_{j \ne k} \log w_j \Bigr)
        \nabla_\phi \log q(z_k \mid x).

    For latents that cannot be reparameterised; unbiased for any.

    References: Williams, 1992, https://doi.org/10.1007/BF00992696; Kool, van Hoof and Welling, 2019,
    https://openreview.net/forum?id=r1lgTGL5DE
    """

    gradient = "score"
    least = 2
    num_particles: int = 2

    def bound(self, log_weights: Tensor) -> Tensor:
        return log_weights.mean(0)

    def weights(self, log_weights: Tensor) -> Weights:
        count = len(log_weights)
        return Weights(torch.full_like(log_weights, 1 / count), score=(log_weights - log_weights.mean(0)) / (count - 1))


@dataclass(eq=False)
class VIMCO(IWAE):
    r"""Importance-weighted bound by the score function, with what the bound would be without a draw as its baseline,

    .. math:: \nabla_\phi = \mathrm{E} \sum_k \Bigl( \hat L - \hat L_{-k} - \tilde w_k \Bigr)
        \nabla_\phi \log q(z_k \mid x), \qquad
        \hat L_{-k} = \log \frac1K \Bigl( \sum_{j \ne k} w_j + \exp \frac{1}{K - 1} \sum_{j \ne k} \log w_j \Bigr).

    For latents that cannot be reparameterised, at K > 1; unbiased for any.

    Reference: Mnih and Rezende, 2016, https://arxiv.org/abs/1602.06725
    """

    gradient = "score"
    least = 2
    num_particles: int = 2

    def weights(self, log_weights: Tensor) -> Weights:
        normalized = log_weights.softmax(0)
        return Weights(normalized, score=self.bound(log_weights) - _without_each(log_weights) - normalized)


def _without_each(log_weights: Tensor) -> Tensor:
    """The bound with the k-th weight replaced by the geometric mean of the others, ``(K, *rows)``."""
    count = len(log_weights)
    none = log_weights.new_zeros(1, *log_weights.shape[1:])
    before = torch.cat([none, log_weights.cumsum(0)[:-1]])
    after = torch.cat([log_weights.flip(0).cumsum(0).flip(0)[1:], none])
    replaced = (before + after) / (count - 1)
    return log_mean_exp(torch.stack([sum_without_each(log_weights), replaced])) + math.log(2 / count)
