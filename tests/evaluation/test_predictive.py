"""Predictive p-values against closed forms, and what a replicated data set is."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest, norm

import pyrovae


def quiet(*args, **settings):
    return pyrovae.predictive_check(*args, progress=False, **settings)


def test_prior_p_values_are_uniform(linear):
    """Of data that the model has drawn, whatever the statistic."""
    case = linear(n=20, k=1)
    statistics = {"mean": torch.mean, "sd": torch.std, "corner": lambda x: x[3, 1]}
    values = [
        quiet(
            case.vae, case.truth.sample(20, seed=seed), statistics, kind="prior", num_replicates=99, seed=seed
        ).p_values
        for seed in range(100)
    ]
    for name in statistics:
        assert kstest([value[name] for value in values], "uniform").pvalue > 1e-3


def test_a_variance_that_is_doubled(linear):
    case = linear(n=200, k=1)
    x = case.x.mean(0) + math.sqrt(2) * (case.x - case.x.mean(0))
    planted, good = (quiet(case.vae, rows, kind="prior", num_replicates=400) for rows in (x, case.x))
    assert planted.p_values["sd"] == pytest.approx(0.5 / 401) and 0.05 < planted.p_values["mean"] < 0.95
    assert planted.table["extreme"].loc[["mean", "sd"]].tolist() == [False, True]
    assert not good.table["extreme"].any()
    text = str(planted)
    assert "400 data sets from the prior" in text and "LOOK sd" in text and "ok   mean" in text


@pytest.mark.parametrize("stretch", [1.0, 1.02])
def test_posterior_p_values_in_closed_form(linear, stretch):
    """What z cannot say, the part of x that is at right angles to W, is noise that is drawn anew; the mean of a column
    is that of x seen through the posterior."""
    case = linear(n=20, k=1)
    weight, scale = case.truth.weight, case.truth.scale
    across = torch.linalg.svd(weight).U[:, 1:]
    x = case.truth.bias + stretch * (case.x - case.truth.bias)
    statistics = {
        "noise": lambda x: (x @ across - case.truth.bias @ across).square().sum(),
        "mean": lambda x: x[:, 2].mean(),
    }
    found = quiet(case.vae, x, statistics, num_replicates=2000)
    loc, covariance = case.truth.posterior(x)
    centre = float((case.truth.bias + loc @ weight.T)[:, 2].mean())
    spread = float((weight[2] ** 2 * covariance[0, 0] + scale**2).sum() / 20) ** 0.5
    exact = {
        "noise": chi2.sf(statistics["noise"](x) / scale**2, x.shape[0] * across.shape[1]),
        "mean": norm.sf(float(x[:, 2].mean()), centre, spread),
    }
    for name, p in exact.items():
        assert 0.01 < p < 0.99
        assert found.p_values[name] == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 2000) + 1e-3)
    assert found.table.loc["mean", "mean"] == pytest.approx(centre, abs=4 * spread / math.sqrt(2000))
    assert found.table.loc["mean", "sd"] == pytest.approx(spread, rel=4 / math.sqrt(4000))


@pytest.mark.parametrize("chunk", [4, 30, 4096])
def test_rows_stay_in_their_place(linear, chunk):
    case = linear(n=20, k=1)
    statistics = {str(row): (lambda x, row=row: x[row].sum()) for row in range(20)}
    found = quiet(case.vae, case.x, statistics, num_replicates=100, chunk=chunk).replicated
    loc, covariance = case.truth.posterior(case.x)
    expected = (case.truth.bias + loc @ case.truth.weight.T).sum(1)
    sd = math.sqrt(float(case.truth.weight.sum() ** 2 * covariance[0, 0] + 6 * case.truth.scale**2))
    assert found.mean().to_numpy() == pytest.approx(expected.numpy(), abs=4.5 * sd / math.sqrt(100))
    assert len(found.drop_duplicates()) == len(found) == 100


def test_ties_and_bounds(tiny):
    """A p-value is never 0 or 1, and one half where all is the same."""
    statistics = {"same": lambda x: 1.0, "cells": lambda x: x.numel()}
    found = quiet(tiny(), torch.randn(5, 3), {**statistics, "mean": torch.mean}, num_replicates=9)
    assert found.p_values[["same", "cells"]].tolist() == [0.5, 0.5]
    far = quiet(tiny(), torch.full((5, 3), 1e6), {"first": lambda x: x[0, 0]}, num_replicates=9, kind="prior")
    assert far.p_values["first"] == pytest.approx(0.05)


def test_missing_cells_are_missing_in_what_is_drawn(tiny):
    x = torch.randn(6, 3)
    x[::2, 1] = torch.nan
    seen = []
    quiet(tiny(missing="mask"), x, {"gone": lambda x: seen.append(x) or 0.0}, num_replicates=4)
    assert len(seen) == 5 and all(torch.equal(data.isnan(), x.isnan()) for data in seen)
    assert not torch.equal(seen[1][~x.isnan()], x[~x.isnan()])
    found = quiet(tiny(missing="mask"), x, num_replicates=4)
    assert found.observed["mean"] == pytest.approx(float(x.nanmean()))


@pytest.mark.parametrize("kind", ["prior", "posterior"])
@pytest.mark.parametrize(
    "settings",
    [{"posterior": "delta"}, {"posterior": "iaf"}, {"latent_dim": [3, 2]}, {"label": 3}, {"likelihood": "poisson"},
     {"prior": "one_hot", "posterior": "categorical"}, {"prior": "gp", "condition_dim": 1}],
    ids=str,
)  # fmt: skip
def test_every_kind_of_vae(tiny, settings, kind):
    vae = tiny(**settings).train()
    x = torch.randn(12, 3).square().round()
    condition = torch.randn(12, 1) if "condition_dim" in settings else None
    state, before = torch.get_rng_state(), [p.clone() for p in vae.parameters()]
    first, second = (quiet(vae, x, None, condition, kind=kind, num_replicates=5) for _ in range(2))
    assert first.replicated.equals(second.replicated) and first.replicated.nunique().loc["mean"] == 5
    assert np.isfinite(first.replicated.to_numpy()).all() and first.kind == kind
    assert torch.equal(torch.get_rng_state(), state) and vae.training
    assert all(torch.equal(p, old) for p, old in zip(vae.parameters(), before, strict=True))


def test_labels_that_are_there_are_kept(tiny):
    """In rows of a class, x is drawn from that class."""
    vae = tiny(label=2)
    with torch.no_grad():
        vae.likelihood.head.weight.zero_()
        vae.likelihood.head.bias.zero_()
        vae.likelihood.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    seen = []
    quiet(vae, torch.randn(4, 3), None, torch.tensor([0, 1, 1, -1]), num_replicates=3)
    labels = seen[-1][1].reshape(-1, 4, 2)
    assert (labels[:, 0] == torch.tensor([1.0, 0.0])).all() and (labels[:, 1:3] == torch.tensor([0.0, 1.0])).all()


def test_what_it_refuses(tiny):
    vae, x = tiny(), torch.randn(5, 3)
    for message, arguments, settings in (
        ("kind", (x,), {"kind": "both"}),
        ("num_replicates: expected a whole number of at least 1, got 0", (x,), {"num_replicates": 0}),
        ("chunk", (x,), {"chunk": 0}),
        ("statistics: expected a dict of functions .* got an empty one", (x, {}), {}),
        ("statistics: expected a dict of functions .* got {'mean': 3}", (x, {"mean": 3}), {}),
        (r"expected columns to give one finite number for rows \(5, 3\), got shape \(3,\)",
         (x, {"columns": lambda x: x.mean(0)}), {}),
        ("expected log to give one finite number .* got nan", (x, {"log": lambda x: x.min().log()}), {}),
        ("x: expected shape", (torch.randn(5, 4),), {}),
        ("condition: expected None", (x, None, torch.zeros(5, 1)), {}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            pyrovae.predictive_check(vae, *arguments, **settings)
