"""Missing cells from the others of their row."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent
from tqdm import tqdm

from pyrovae.checks import count, trusted
from pyrovae.distributions import OrderedLogistic, Product, expectation
from pyrovae.evaluation.importance import check_marginal, checked, rows_at_once
from pyrovae.mechanism import DRAWN
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE


def impute(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    condition: Any = None,  # noqa: ANN401
    *,
    num_samples: int = 1000,
    draws: int | None = None,
    seed: int = 0,
    chunk: int | None = None,
    progress: bool = True,
) -> Tensor:
    r"""Fill the missing cells (NaN) of rows x, each from the others of its row.

    With draws :math:`z_k \sim q(z \mid x_\text{obs})` weighted by :math:`w_k \propto p(x_\text{obs}, z_k) / q(z_k)`,

    .. math:: p(x_\text{mis} \mid x_\text{obs}) \approx \sum_k w_k \, p(x_\text{mis} \mid z_k),

    which is exact as K grows, however rough the encoder. With a mechanism, how likely cells of these values are to be
    missing is a factor of the weights of draws :math:`x_{\text{mis}, k} \sim p(x_\text{mis} \mid z_k)`,

    .. math:: w_k \propto p(x_\text{obs}, z_k) \, p(s \mid x_\text{obs}, x_{\text{mis}, k}) / q(z_k).

    A missing number gets the mean, a category the likeliest one, an ordered category the median: the guesses of least
    expected squared, 0/1 and absolute error. Or whole rows are drawn, ``draws`` of them, for multiple imputation.
    Mattei & Frellsen (2019), https://arxiv.org/abs/1812.02633; with a mechanism, Ipsen, Mattei & Frellsen (2021),
    https://arxiv.org/abs/2006.12871.

    Args:
        vae: a model that knows missing cells: ``VAE(..., missing="mask")``, or `pyrovae.likelihoods.Tabular`.
        x: data ``(N, *event_shape)`` with NaN in the missing cells.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        num_samples: K, the draws of z for each row.
        draws: how many times to draw each row's missing cells; None for the best guess at each.
        seed: of the draws; the random state of the user is left alone.
        chunk: draws times rows that go through the decoder at once; memory grows with it.
            None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        x with its missing cells filled, ``(N, *event_shape)``, or ``(draws, N, *event_shape)``.

    Raises:
        ValueError: for data that the model does not take, or a likelihood without missing cells.
        FloatingPointError: for a row whose observed cells have no finite density.

    >>> vae = VAE((2,), 1, likelihood="gaussian", missing="mask")
    >>> impute(vae, torch.tensor([[0.5, torch.nan]])).isnan().any()
    tensor(False)
    """
    if draws is not None:
        count(draws, "draws", 1)
    if not getattr(vae.likelihood.piece, "missing", False):
        raise ValueError(
            f"impute: expected a model that knows missing cells, got the likelihood "
            f"{type(vae.likelihood.piece).__name__}. Build the VAE with missing='mask', or with likelihood='tabular'."
        )
    check_marginal(vae, "impute")
    x, condition, chunk = checked(vae, x, condition, num_samples, chunk)
    filled = x.expand(*([] if draws is None else [draws]), *x.shape).clone()
    with (
        isolated(seed, validation=False),
        evaluating(vae),
        trusted(),
        tqdm(total=len(x), disable=not progress, unit="row", desc="imputation", delay=2) as bar,
    ):
        for rows, part, c in ordered(x, condition, rows_at_once(vae, len(x), num_samples, chunk)):
            guide, model, weights = _weighted(vae, part, c, num_samples, rows.start)
            if DRAWN in model:
                values = _resampled(model.nodes[DRAWN]["value"], weights, draws)
            elif draws is None:
                values = _best(model.nodes["x"]["fn"].expand(weights.shape), weights)
            else:
                values = _drawn(vae, guide, weights, c, draws)
            filled[rows if draws is None else (slice(None), rows)] = torch.where(torch.isnan(part), values.to(x), part)
            bar.update(len(part))
    return filled


def _weighted(
    vae: VAE, x: Tensor, condition: Tensor | None, num_samples: int, first: int
) -> tuple[Trace, Trace, Tensor]:
    """Draws of z from the guide, the model at them, and weights (K, B), which sum to 1 over draws."""
    with pyro.plate("particles", num_samples, dim=-2):
        guide = poutine.trace(vae.guide).get_trace(x, condition)
        model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x, condition)
    log_p, log_q = (
        sum(site["fn"].log_prob(site["value"]) for site in trace.nodes.values() if _is_variable(site))
        for trace in (model, guide)
    )
    log_weights = (log_p - log_q).expand(num_samples, len(x))
    weights = torch.softmax(log_weights, 0)
    wrong = ~torch.isfinite(weights).all(0)
    if wrong.any():
        row = first + int(wrong.nonzero()[0])
        raise FloatingPointError(f"expected a finite density of the observed cells, got nan or inf at row {row}")
    return guide, model, weights


def _is_variable(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and not poutine.util.site_is_subsample(site)


def _best(p: TorchDistribution, weights: Tensor) -> Tensor:
    """The best guess at each cell, (B, *event_shape), from a mixture of ``p`` over its first dim."""
    if isinstance(p, Product):
        return p.join([_best(part, weights[..., None]) for _, part in p.parts])
    if isinstance(p, Independent):
        return _best(p.base_dist, weights.reshape(weights.shape + (1,) * p.reinterpreted_batch_ndims))
    if not isinstance(p, dist.Categorical):
        return (weights * expectation(p)).sum(0)
    probabilities = (weights[..., None] * p.probs).sum(0)
    if isinstance(p, OrderedLogistic):
        return (probabilities.cumsum(-1) < 0.5).sum(-1).clamp_max(probabilities.shape[-1] - 1)
    return probabilities.argmax(-1)


def _resampled(rows: Tensor, weights: Tensor, draws: int | None) -> Tensor:
    """The mean of weighted rows (K, B, *event_shape), or so many of them, each chosen with its weight."""
    if draws is None:
        return (weights.reshape(weights.shape + (1,) * (rows.ndim - 2)) * rows).sum(0)
    chosen = _chosen(weights, draws)
    return rows[chosen, torch.arange(chosen.shape[1], device=chosen.device)]


def _drawn(vae: VAE, guide: Trace, weights: Tensor, condition: Tensor | None, draws: int) -> Tensor:
    """Rows (draws, B, *event_shape) from p(x | z), each at a z chosen with its weight."""
    chosen = _chosen(weights, draws)
    rows = torch.arange(chosen.shape[1], device=chosen.device)
    latents = {name: site["value"][chosen, rows] for name, site in guide.nodes.items() if _is_variable(site)}
    with pyro.plate("particles", draws, dim=-2):
        return poutine.condition(vae.model, latents)(None, condition, size=len(rows))


def _chosen(weights: Tensor, draws: int) -> Tensor:
    """So many indices of draws for each row, (draws, B), each chosen with its weight."""
    return dist.Categorical(weights.movedim(0, -1)).sample((draws,))
