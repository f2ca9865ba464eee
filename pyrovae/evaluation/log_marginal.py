"""Estimates of log p(x)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.evaluation.importance import CHUNK, checked, importance_terms, no_marginal
from pyrovae.registry import choose
from pyrovae.vae import VAE

METHODS = ("importance",)


class LogMarginal(NamedTuple):
    """log p(x_n) in nats for each row n, and the Monte Carlo standard error of each; both of shape ``(N,)``."""

    value: Tensor
    standard_error: Tensor


def log_mean_weight(log_weights: Tensor) -> LogMarginal:
    r"""From log-weights ``(K, N)``: :math:`\log \frac1K \sum_k w_k` and its standard error by the delta method,

    .. math:: \text{se} = \frac{1}{\sqrt K} \sqrt{\frac{1}{K - 1} \sum_k (w_k / \bar w - 1)^2}

    which is the coefficient of variation of the weights over :math:`\sqrt K`; 0 for a single draw.

    >>> log_mean_weight(torch.tensor([[1.0], [1.0]]))
    LogMarginal(value=tensor([1.]), standard_error=tensor([0.]))
    """
    count = len(log_weights)
    value = torch.logsumexp(log_weights, 0) - math.log(count)
    squares = (torch.exp(log_weights - value) - 1).square().sum(0)
    return LogMarginal(value, (squares / (count * max(count - 1, 1))).sqrt())


def log_marginal(
    vae: VAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    num_samples: int = 5000,
    method: str = "importance",
    seed: int = 0,
    chunk: int = CHUNK,
    progress: bool = True,
) -> LogMarginal:
    r"""Estimate log p(x) of each row by importance sampling with the guide as proposal:

    .. math:: \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}, \qquad z_k \sim q(z \mid x).

    The estimate is low on average, by about half its squared standard error, and rises to log p(x) with K: the
    ``L_5000`` of Burda, Grosse & Salakhutdinov (2015), https://arxiv.org/abs/1509.00519. Where k-hat is above 0.7
    (see `pyrovae.evaluate`) its standard error says too little.

    Args:
        vae: the model.
        x: data ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        num_samples: K.
        method: "importance".
        seed: of the draws; the random state of the user is left alone.
        chunk: draws times rows that go through the decoder at once; memory grows with it.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        ``(value, standard_error)``, each ``(N,)``, in nats.

    Raises:
        ValueError: for data that the model does not take, an unknown method, or a model without a log p(x) of single
            rows (a posterior that is a point, a prior that joins the rows).
        FloatingPointError: for a density that overflows.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> value, standard_error = log_marginal(vae, torch.randn(3, 4), num_samples=100)
    >>> value.shape
    torch.Size([3])
    """
    choose(method, METHODS, "method")
    if reason := no_marginal(vae):
        raise ValueError(f"log_marginal: expected independent rows and a posterior with a density, but {reason}")
    x, condition = checked(vae, x, condition, num_samples, chunk)
    parts = [
        log_mean_weight(terms.log_weights)
        for _, terms in importance_terms(vae, x, condition, num_samples, seed=seed, chunk=chunk, progress=progress)
    ]
    return LogMarginal(*(torch.cat(part) for part in zip(*parts, strict=True)))
