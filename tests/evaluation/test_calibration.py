"""Ranks, coverage and verdict of guides that are the posterior, or off by a known amount."""

import math

import numpy as np
import pytest
import torch
import xarray
from scipy.stats import chisquare, kstest, norm

import pyrovae
from pyrovae import Calibration
from pyrovae.distributions import inverse_scale

N = 10_000


def quiet(vae, *args, **settings):
    return pyrovae.sbc(vae, *args, progress=False, **settings)


def off(linear, shift=0.0, stretch=1.0):
    """A guide whose mean is off by so many sd of the posterior, of one unit."""
    sd = float(linear(k=1).covariance.sqrt())
    return linear(k=1, shift=shift * sd, stretch=stretch).vae


@pytest.mark.parametrize("k", [1, 2])
def test_the_posterior_passes(linear, k):
    found = quiet(linear(k=k).vae, N)
    assert found.calibrated and found.units["says"].eq("").all() and "No departure" in str(found)
    assert found.ranks.shape == (N, k) and found.ranks["unit"].values.tolist() == [f"z[{i}]" for i in range(k)]
    for column in found.ranks.values.T:
        assert chisquare(np.bincount(column, minlength=200)).pvalue > 1e-3
    assert (found.units["bias"].abs() < 4 / math.sqrt(12 * N)).all()
    covered = found.coverage.reset_index()
    assert covered["nominal"].unique().tolist() == [0.5, 0.8, 0.9, 0.95]
    error = np.sqrt(covered["nominal"] * (1 - covered["nominal"]) / N)
    assert ((covered["observed"] - covered["nominal"]).abs() < 4 * error).all()
    assert covered["standard_error"].to_numpy() == pytest.approx(error.to_numpy(), rel=0.05)
    assert covered["p_value"].min() > 1e-3


def test_correlations_are_seen_by_the_likelihood(linear):
    """Of correlated latents, a guide that is the product of their marginals; and one that is the posterior."""
    weight = torch.tensor([[0.8, 0.5], [0.5, 0.8]], dtype=torch.float64)
    case = linear(d=2, weight=weight)
    covariance = case.truth.posterior(case.x)[1]
    assert covariance[0, 1] ** 2 > 0.2 * covariance[0, 0] * covariance[1, 1]
    assert quiet(case.vae, N).calibrated
    found = quiet(case.vae, 2000, likelihood=True).units
    assert found["flagged"].to_dict() == {"z[0]": False, "z[1]": False, "log p(x | z)": True}
    found = quiet(linear().vae, 2000, likelihood=True)
    assert found.calibrated and found.ranks["unit"].values.tolist() == ["z[0]", "z[1]", "log p(x | z)"]


def test_p_values_of_the_posterior_are_uniform(linear):
    vae = linear(k=1).vae
    tables = [quiet(vae, 200, 39, seed=seed).units for seed in range(120)]
    for name in ("p_value", "bias_p_value"):
        assert kstest([table[name].iloc[0] for table in tables], "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("shift", "stretch", "says"),
    [(0.0, 0.9, "overconfident"), (0.0, 1.1, "underconfident"), (0.1, 1.0, "too high"), (-0.1, 1.0, "too low"),
     (0.5, 0.7, "too high and overconfident")],
)  # fmt: skip
def test_a_guide_that_is_off(linear, shift, stretch, says):
    found = quiet(off(linear, shift, stretch), N)
    unit = found.units.loc["z[0]"]
    assert not found.calibrated and unit["flagged"] and unit["p_value"] < 1e-6
    # Intervals that are a little aside hold a little less.
    assert unit["says"] in (f"the guide is {says}", f"the guide is {says} and overconfident")
    assert "NOT calibrated: the ranks of 1 of 1 units" in str(found) and str(found).endswith(unit["says"])
    assert chisquare(np.bincount(found.ranks.values[:, 0], minlength=200)).pvalue < 1e-3
    # In sd of the posterior, around its mean, the guide is N(shift, stretch^2).
    for (_, nominal), row in found.coverage.iterrows():
        reach = stretch * norm.isf((1 - nominal) / 2)
        exact = norm.cdf(shift + reach) - norm.cdf(shift - reach)
        assert row["observed"] == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / N))
    bias = (norm.cdf(-shift / math.hypot(1, stretch)) - 0.5) * 199 / 200
    assert unit["bias"] == pytest.approx(bias, abs=4 / math.sqrt(12 * N))
    assert (unit["bias_p_value"] < 1e-6) == (shift != 0)


def test_how_often_the_verdict_fails_uniform_ranks():
    """Five units each, and one in twenty at the level of all of them together."""
    rng, repeats = np.random.default_rng(0), 400
    failed = [
        not Calibration(xarray.DataArray(rng.integers(0, 40, (300, 5)), dims=("simulation", "unit")), 39).calibrated
        for _ in range(repeats)
    ]
    assert np.mean(failed) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / repeats))


def test_signs_of_heaped_ranks_are_even():
    """The p-value of the bias takes the spread of ranks as it is."""
    heaped = np.random.default_rng(0).beta(0.5, 0.5, (300, 600))
    ranks = xarray.DataArray((40 * heaped).astype(int), dims=("simulation", "unit"))
    units = Calibration(ranks, 39).units
    assert units["p_value"].median() < 1e-6 and kstest(units["bias_p_value"], "uniform").pvalue > 1e-3


def test_curves_leave_the_band_where_units_are_flagged(linear):
    found = quiet(linear(k=2, stretch=0.93).vae, 1500)
    curves = found.curves()
    outside = ((curves["difference"] < curves["lower"]) | (curves["difference"] > curves["upper"])).any("rank")
    assert outside.values.tolist() == found.units["flagged"].tolist()
    expected = np.mean(found.ranks.values[:, 1] <= 20) - 21 / 200
    assert curves["difference"].sel(rank=20, unit="z[1]").item() == pytest.approx(expected)


def prior_for_a_posterior(vae):
    """Let the data say nothing of the latents, and the guide be the prior."""
    layers = [vae, *([vae.prior.vae] if vae.prior.has("deep") else [])]
    one = inverse_scale(torch.tensor(1.0), vae.posterior.piece.floor) if hasattr(vae.posterior.piece, "floor") else 0.0
    with torch.no_grad():
        for layer in layers:
            layer.likelihood.head.weight.zero_()
            layer.likelihood.head.bias.zero_()
            layer.posterior.head.weight.zero_()
            layer.posterior.head.bias.zero_()
            layer.posterior.head.bias[layer.latent_dim :] = one
        if vae.y is not None:
            vae.y.posterior.head.weight.zero_()
            vae.y.posterior.head.bias.zero_()
    return vae


@pytest.mark.parametrize(
    ("settings", "units"),
    [({"label": 3}, ["z[0]", "z[1]", "y[0]", "y[1]", "y[2]"]),
     ({"prior": "one_hot", "posterior": "categorical"}, ["z[0]", "z[1]"]),
     ({"condition_dim": 2}, ["z[0]", "z[1]"])],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("chunk", [4000, 10**6])
def test_labels_ties_and_conditions(tiny, settings, units, chunk):
    """Exact, and then with one latent moved."""
    vae = prior_for_a_posterior(tiny(**settings))
    condition = torch.randn(2000, 2) if "condition_dim" in settings else None
    found = quiet(vae, 2000, 39, condition, chunk=chunk)
    assert found.ranks["unit"].values.tolist() == units and found.calibrated
    with torch.no_grad():
        vae.posterior.head.bias[1] += 0.5
    moved = quiet(vae, 2000, 39, condition, chunk=chunk).units
    assert moved.loc["z[1]", "says"].startswith("the guide is too high")
    assert not moved.loc[[unit for unit in units if unit[0] == "y"], "flagged"].any()


@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
def test_all_layers_are_ranked(tiny, inference):
    vae = tiny(latent_dim=[3, 2], inference=inference)
    found = quiet(vae, 30, 39, likelihood=True)
    assert found.ranks["unit"].values.tolist() == ["z1[0]", "z1[1]", "z1[2]", "z2[0]", "z2[1]", "log p(x | z)"]
    with torch.no_grad():
        vae.prior.vae.posterior.head.bias[0] += 100
    ranks = quiet(vae, 30, 39).ranks
    assert (ranks.sel(unit="z2[0]") == 0).all() and (ranks.sel(unit="z2[1]") > 0).any()


def test_nothing_of_the_users_moves(linear):
    vae = linear(k=1).vae.train()
    state, before = torch.get_rng_state(), [p.clone() for p in vae.parameters()]
    first, second = (quiet(vae, 40, 39, seed=5) for _ in range(2))
    assert first.ranks.equals(second.ranks) and not first.ranks.equals(quiet(vae, 40, 39, seed=6).ranks)
    assert torch.equal(torch.get_rng_state(), state) and vae.training
    assert all(torch.equal(p, old) for p, old in zip(vae.parameters(), before, strict=True))


def test_many_units_are_printed_from_the_worst(tiny):
    vae = tiny(latent_dim=12)
    with torch.no_grad():
        vae.posterior.head.bias[7] += 5
    lines = str(quiet(vae, 100, 39)).splitlines()
    assert lines[3].startswith("z[7] ") and lines[-1] == "... and 2 units with greater p-values" and len(lines) == 14


def test_what_sbc_refuses(tiny):
    for settings, message in (
        ({"posterior": "delta"}, "sbc: expected .* but the posterior .Delta. is a point"),
        ({"prior": "gp", "condition_dim": 1}, "sbc: expected independent rows .* depend on one another"),
    ):
        with pytest.raises(ValueError, match=message):
            pyrovae.sbc(tiny(**settings), condition=torch.randn(1000, 1) if "condition_dim" in settings else None)
    vae = tiny()
    for name, settings in (
        ("num_simulations: expected a whole number of at least 1, got 0", {"num_simulations": 0}),
        ("num_draws: expected a whole number of at least 19, got 18", {"num_draws": 18}),
        ("chunk", {"chunk": 0}),
        ("alpha: expected a probability above 0 and below 1, such as 0.05, got 5", {"alpha": 5}),
        ("condition: expected None", {"condition": torch.zeros(1000, 1)}),
    ):
        with pytest.raises(ValueError, match=name):
            pyrovae.sbc(vae, **settings)
    with pytest.raises(ValueError, match="condition: expected 1000 rows"):
        pyrovae.sbc(tiny(condition_dim=1), condition=torch.zeros(7, 1))
    with pytest.raises(ValueError, match="the label is drawn with z"):
        pyrovae.sbc(tiny(label=3), 3, condition=torch.tensor([0, 1, 2]))
    with torch.no_grad():
        vae.posterior.head.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="expected finite draws of z, got nan"):
        pyrovae.sbc(vae, 3)


def test_ranks_from_elsewhere():
    good = xarray.DataArray(np.zeros((5, 2), int), dims=("simulation", "unit"))
    assert not Calibration(xarray.concat([good] * 9, "simulation"), 39).calibrated
    for ranks in (good.T, good.values, good + 0.5, good - 1, good + 40, good[:0]):
        with pytest.raises(ValueError, match="ranks: expected"):
            Calibration(ranks, 39)
