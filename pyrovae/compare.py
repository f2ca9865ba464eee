"""Models held against each other by log p(x) of rows that none of them was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.distributions import Columns
from pyrovae.evaluation import Evaluation, evaluate
from pyrovae.evaluation.evaluate import TRUSTED_K
from pyrovae.evaluation.importance import no_marginal
from pyrovae.inference_data import compare_pointwise
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd


def compare(
    models: Mapping[str, VAE],
    x: Any,  # noqa: ANN401 - whatever a user has
    condition: Any = None,  # noqa: ANN401
    *,
    num_samples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Compare VAEs by the expected log predictive density of held-out rows, through ``arviz.compare``:

    .. math:: \mathrm{elpd} = \sum_n \log p(x_n), \qquad
        \mathrm{dse} = \sqrt{N} \, \mathrm{sd}_n(\log p_a(x_n) - \log p_b(x_n))

    (Vehtari, Gelman & Gabry 2017, https://doi.org/10.1007/s11222-016-9696-4, without leaving anything out, because
    these rows were not seen). The densities are importance-sampling estimates (see `pyrovae.evaluate`), with a Monte
    Carlo error of their own. They are low for a model whose guide is poor, which its k-hats say: then use more samples,
    or compare by `pyrovae.ais`.

    Args:
        models: name -> VAE. All must be densities over the same values.
        x: rows that none of them has seen, ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, for those of the models that have one; name -> condition where they differ.
        num_samples: importance samples for each row.
        seed: of the draws.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        A DataFrame, the best model first: rank, elpd, se, elpd_diff (to the best), dse and weight (by stacking) of
        ``arviz.compare``, in nats, sums over rows; mc_se and mc_dse, Monte Carlo standard errors of elpd and elpd_diff;
        and share_k_hat_above_0.7.

    Raises:
        ValueError: for fewer than two models; for models over data of different shapes or on different supports,
            whose densities are no densities of the same thing; and for one without log p(x) of single rows.

    >>> import torch
    >>> vaes = {name: VAE((4,), 2, likelihood="gaussian") for name in ("a", "b")}
    >>> compare(vaes, torch.randn(30, 4), num_samples=50, progress=False).shape[0]
    2
    """
    if len(models) < 2:
        raise ValueError(f"compare: expected two or more models, got {len(models)}")
    _check_comparable(models)
    found: dict[str, Evaluation] = {}
    for name, vae in models.items():
        c = condition.get(name) if isinstance(condition, Mapping) else condition
        c = c if vae.condition_dim else None
        found[name] = evaluate(vae, x, c, num_samples=num_samples, seed=seed, progress=progress)
    return _tabulate(found)


def _tabulate(found: Mapping[str, Evaluation]) -> pd.DataFrame:
    """The table from evaluations of the same rows."""
    rows = {name: evaluation.rows for name, evaluation in found.items()}
    table = compare_pointwise({name: part["log_marginal"].to_numpy() for name, part in rows.items()})
    errors = {name: float(np.sqrt((part["log_marginal_standard_error"] ** 2).sum())) for name, part in rows.items()}
    table["mc_se"] = [errors[name] for name in table.index]
    best = table.index[0]
    table["mc_dse"] = [0.0 if name == best else float(np.hypot(errors[name], errors[best])) for name in table.index]
    table["share_k_hat_above_0.7"] = [float((rows[name]["k_hat"] > TRUSTED_K).mean()) for name in table.index]
    return table


def _check_comparable(models: Mapping[str, VAE]) -> None:
    """Raise a ValueError for models whose densities are not of the same thing."""
    (first, a), *others = models.items()
    for name, vae in models.items():
        if reason := no_marginal(vae):
            raise ValueError(f"compare: {name!r} has no log p(x) of single rows: {reason}")
        if getattr(vae.likelihood.piece, "relaxed", False):
            raise ValueError(f"compare: {name!r} has a relaxed Bernoulli, which is no density of its data")
    for name, b in others:
        if a.event_shape.numel() != b.event_shape.numel():
            raise ValueError(
                f"compare: expected models of rows of one shape, got {tuple(a.event_shape)} for {first!r} and "
                f"{tuple(b.event_shape)} for {name!r}"
            )
        ours, theirs = (_kind(vae) for vae in (a, b))
        if ours != theirs:
            raise ValueError(
                f"compare: {first!r} has a {ours} and {name!r} a {theirs}: a density and a probability, or densities "
                "over different values, cannot be compared. Expected likelihoods of one kind of data."
            )


def _kind(vae: VAE) -> str:
    """What the likelihood measures: a probability of whole numbers, or a density by length."""
    support = vae.likelihood.piece.support
    if isinstance(support, Columns):
        discrete = sorted(int(i) for columns, part in support.parts if part.is_discrete for i in columns)
        return f"probability of columns {discrete} and density of the others"
    return "probability" if support.is_discrete else "density"
