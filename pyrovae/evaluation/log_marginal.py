"""Estimates of log p(x)."""

from __future__ import annotations

from contextlib import closing

import torch
from torch import Tensor

from pyrovae.checks import count
from pyrovae.evaluation.ais import ais
from pyrovae.evaluation.importance import check_marginal, checked, importance_terms
from pyrovae.evaluation.psis import TOO_FEW, smooth
from pyrovae.evaluation.shares import Share, by_shares
from pyrovae.evaluation.weights import LogMarginal, log_mean_weight
from pyrovae.registry import choose
from pyrovae.vae import VAE

DRAWS = {"importance": 5000, "psis": 5000, "ais": 16}
"""The methods, and the weights of each row unless told otherwise."""


def log_marginal(
    vae: VAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    num_samples: int | None = None,
    method: str = "importance",
    seed: int = 0,
    chunk: int | None = None,
    n_jobs: int = 1,
    progress: bool = True,
) -> LogMarginal:
    r"""Estimate log p(x) of each row by importance sampling with the guide as proposal:

    .. math:: \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}, \qquad z_k \sim q(z \mid x).

    - "importance": just so. The estimate is low on average, by about half its squared standard error, and rises to
      log p(x) with K: the ``L_5000`` of Burda, Grosse & Salakhutdinov (2015), https://arxiv.org/abs/1509.00519.
    - "psis": the largest weights are smoothed first (Vehtari et al. 2024, https://jmlr.org/papers/v25/19-556.html; see
      `pyrovae.evaluation.psis.smooth`). The noise of a few great weights goes, and so does the bound: the mean of
      smoothed weights may be on either side of p(x).
    - "ais": `pyrovae.ais`, for rows of which the guide is far from the posterior; it has more options than these.

    Standard errors are those of independent weights, by the delta method. That of "psis" is that of the weights as they
    were before, which is about the size of its error, bias included, up to a k-hat of 0.6. Where k-hat is above 0.7
    (see `pyrovae.evaluate`) those of "importance" and "psis" say too little.

    Args:
        vae: the model.
        x: data ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        num_samples: K, the weights of each row: draws, at least 25 of them for "psis", or the chains of "ais". None is
            5,000 draws or 16 chains.
        method: "importance", "psis" or "ais".
        seed: of the draws; the random state of the user is left alone.
        chunk: draws times rows that go through the decoder at once; memory grows with it, in each thread.
            None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
        n_jobs: processes that share the rows and the cores, -1 for one on each core, or jobs of a cluster (see
            `pyrovae.training.sweep`), with the same draws; each process takes seconds to start, and memory of its own.
            Importance sampling that takes long is compiled, and threads, one on each core, share the rows already
            where the posterior draws normal or uniform numbers: processes save time where it draws others.
        progress: show a progress bar where it takes more than two seconds; with several jobs, that of the first.

    Returns:
        ``(value, standard_error)``, each ``(N,)``, in nats.

    Raises:
        ValueError: for data that the model does not take, an unknown method, or a model without a log p(x) of single
            rows (a posterior that is a point, a prior that joins the rows); for too few draws for "psis", or a z that
            "ais" does not take.
        FloatingPointError: for a density that overflows.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> value, standard_error = log_marginal(vae, torch.randn(3, 4), num_samples=100)
    >>> value.shape
    torch.Size([3])
    """
    choose(method, DRAWS, "method")
    num_samples = DRAWS[method] if num_samples is None else count(num_samples, "num_samples", 1)
    check_marginal(vae, "log_marginal")
    if method == "ais":
        return ais(vae, x, condition, num_chains=num_samples, seed=seed, chunk=chunk, n_jobs=n_jobs, progress=progress)
    if method == "psis" and num_samples < TOO_FEW:
        raise ValueError(
            f"num_samples: expected at least {TOO_FEW} to fit a tail to, got {num_samples}. Draw more, or use "
            'method="importance".'
        )
    x, condition, chunk = checked(vae, x, condition, num_samples, chunk)

    def estimates(share: Share) -> list[LogMarginal]:
        found = []
        every = importance_terms(vae, x, condition, num_samples, seed=seed, chunk=chunk, share=share, progress=progress)
        with closing(every):
            for _, terms in every:
                raw = log_mean_weight(terms.log_weights)
                smoothed = log_mean_weight(smooth(terms.log_weights).log_weights) if method == "psis" else raw
                found.append(LogMarginal(smoothed.value, raw.standard_error))
        return found

    return LogMarginal(*(torch.cat(part) for part in zip(*by_shares(estimates, n_jobs), strict=True)))
