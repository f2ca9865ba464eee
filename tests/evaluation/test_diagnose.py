"""Gaps against closed forms; each check flags what was planted and nothing else."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae import VAE, likelihoods
from pyrovae.datasets import LinearGaussian

QUICK = {"num_samples": 200, "gap_rows": 4, "progress": False}


def kl_normals(mean, covariance, other_mean, other_covariance):
    """KL of two multivariate normals."""
    p, q = (
        torch.distributions.MultivariateNormal(*pair) for pair in ((mean, covariance), (other_mean, other_covariance))
    )
    return torch.distributions.kl_divergence(p, q)


def test_amortisation_gap(linear):
    """The family holds the exact posterior, up to the correlation that it has not; the encoder's mean is off."""
    case = linear(n=6, shift=0.3, stretch=1.3)
    gaps = pyrovae.inference_gaps(case.vae, case.x, num_samples=20_000, steps=400, progress=False)
    mean, covariance = case.truth.posterior(case.x)
    precision = torch.linalg.inv(covariance)
    # The best normal without correlations has the precision's diagonal (Bishop 2006, section 10.1.2).
    best = torch.diag(1 / precision.diagonal())
    inference = kl_normals(case.loc, case.covariance, mean, covariance).numpy()
    approximation = kl_normals(mean, best, mean, covariance).numpy()
    assert gaps["log_marginal"].to_numpy() == pytest.approx(case.log_prob.numpy(), abs=0.01)
    assert gaps["inference"].to_numpy() == pytest.approx(inference, abs=0.05)
    assert gaps["approximation"].to_numpy() == pytest.approx(approximation, abs=0.02)
    assert gaps["amortisation"].to_numpy() == pytest.approx(inference - approximation, abs=0.05)
    assert (gaps["amortisation"] > 0.2).all()
    assert (gaps["inference"] - gaps["approximation"] - gaps["amortisation"]).abs().max() < 1e-9


def test_approximation_gap():
    """A posterior whose latents are correlated, given to a guide without correlations."""
    weight = torch.tensor([[0.8, 0.3], [0.3, 0.8]], dtype=torch.float64)
    truth = LinearGaussian(weight, torch.zeros(2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    x = truth.sample(5, seed=0)
    vae = VAE(
        (2,), 2, likelihood=likelihoods.Gaussian(scale=0.5), encoder=nn.Identity(), decoder=nn.Identity()
    ).double()
    with torch.no_grad():
        vae.likelihood.head.weight.copy_(weight)
        vae.likelihood.head.bias.zero_()
    gaps = pyrovae.inference_gaps(vae, x, num_samples=20_000, steps=600, progress=False)
    mean, covariance = truth.posterior(x)
    precision = torch.linalg.inv(covariance)
    expected = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert expected > 0.1
    assert gaps["approximation"].to_numpy() == pytest.approx(np.full(5, float(expected)), abs=0.03)


def test_refuses_what_cannot_be_fitted_to_a_row(tiny):
    x = torch.randn(5, 3)
    for settings in ({"posterior": "delta"}, {"latent_dim": [3, 2]}, {"prior": "one_hot", "posterior": "categorical"}):
        with pytest.raises(ValueError, match="inference_gaps: expected a posterior that can be fitted to a row, but"):
            pyrovae.inference_gaps(tiny(likelihood="gaussian", **settings), x)
    with pytest.raises(ValueError, match="steps"):
        pyrovae.inference_gaps(tiny(likelihood="gaussian"), x, steps=0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_information(linear, scale):
    """Of row and code of the exact posterior: 1/2 log det(I + W'W / sigma^2)."""
    case = linear(n=300, k=1, scale=scale)
    gram = case.truth.weight.T @ case.truth.weight / scale**2
    exact = 0.5 * float(torch.logdet(torch.eye(1, dtype=torch.float64) + gram))
    found = pyrovae.diagnose(case.vae, case.x, **QUICK).checks.loc["posterior_collapse", "value"]
    assert found == pytest.approx(exact, abs=4 / math.sqrt(300)) and 0.2 < exact < 3


def test_nothing_is_flagged_where_all_is_exact(linear):
    """Ten sets of rows of the model itself, its guide the posterior (but for a weak correlation)."""
    flagged = []
    for seed in range(10):
        case = linear(n=400)
        x = case.truth.sample(400, seed=seed)
        flagged += pyrovae.diagnose(case.vae, x, seed=seed, **QUICK).flagged
    assert not flagged


@pytest.fixture
def fitted():
    """Makes a small VAE of data with two factors, trained for a moment, and the data."""

    def make(seed, **training):
        torch.manual_seed(seed)
        x = torch.randn(200, 2) @ torch.randn(2, 6) + 0.3 * torch.randn(200, 6)
        vae = VAE((6,), 3, likelihood="gaussian(scale=shared)", encoder="mlp(hidden=[16])", decoder="mlp(hidden=[16])")
        pyrovae.fit(vae, x, epochs=30, batch_size=50, lr=5e-3, seed=seed, progress=False, **training)
        return vae, x

    return make


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_collapse_is_flagged_and_a_healthy_fit_is_not(fitted, count):
    """Planted by a weight of the KL that leaves z nothing to say, each time; healthy fits never."""
    flagged = {"healthy": 0, "collapsed": 0}
    for seed in range(count):
        for kind, beta in (("healthy", 1.0), ("collapsed", 200.0)):
            vae, x = fitted(seed, beta=beta)
            found = pyrovae.diagnose(vae, x, **{**QUICK, "num_samples": 50, "gap_rows": 1})
            flagged[kind] += "posterior_collapse" in found.flagged
    assert flagged == {"healthy": 0, "collapsed": count}


def test_a_guide_that_says_the_same_of_every_row_has_collapsed(linear):
    """Its KL to the prior is large all the same."""
    case = linear(n=200, shift=2.0)
    with torch.no_grad():
        case.vae.posterior.head.weight.zero_()
    found = pyrovae.diagnose(case.vae, case.x, **QUICK)
    assert "posterior_collapse" in found.flagged and found.evaluation.summary()["kl"] > 1
    assert {"amortisation_gap", "k_hat", "aggregate_posterior"} <= set(found.flagged)


def test_variance_collapse(linear):
    case = linear(n=200, scale=1e-4)
    assert {"likelihood_variance", "posterior_variance"} <= set(pyrovae.diagnose(case.vae, case.x, **QUICK).flagged)


def test_codes_elsewhere_than_the_prior(linear):
    case = linear(n=400, shift=1.0)
    found = pyrovae.diagnose(case.vae, case.x, **QUICK)
    row = found.checks.loc["aggregate_posterior"]
    # Two normals of sd 1, whose means are 1 apart, differ by Phi(1/2) - Phi(-1/2) = 0.383.
    assert row["flagged"] and row["value"] == pytest.approx(0.383, abs=0.08)


def test_rows_without_a_density(linear):
    case = linear(n=50, dtype=torch.float32)
    x = case.x.clone()
    x[[3, 7]] = 1e38
    found = pyrovae.diagnose(case.vae, x, **QUICK)
    assert found.flagged == ["non_finite"] and found.checks.loc["non_finite", "value"] == pytest.approx(2 / 50)
    assert len(found.evaluation.rows) == 48
    with pytest.raises(ValueError, match="expected rows with a finite log"):
        pyrovae.diagnose(case.vae, x[[3, 7]], **QUICK)


@pytest.mark.parametrize(
    "settings",
    [{"posterior": "delta"}, {"posterior": "planar"}, {"latent_dim": [3, 2]}, {"label": 3}, {"missing": "mask"},
     {"prior": "one_hot", "posterior": "categorical"}, {"prior": "gp(inducing=3)", "condition_dim": 1},
     {"likelihood": "poisson"}],
    ids=str,
)  # fmt: skip
def test_every_kind_of_vae(tiny, settings):
    vae = tiny(**{"likelihood": "gaussian", **settings})
    x = torch.randn(30, 3)
    if "missing" in settings:
        x[::3, 1] = torch.nan
    if "likelihood" in settings:
        x = x.square().round()
    condition = torch.randn(30, 1) if "condition_dim" in settings else None
    state, before = torch.get_rng_state(), {name: p.clone() for name, p in vae.named_parameters()}
    found = pyrovae.diagnose(vae, x, condition, **QUICK)
    assert torch.equal(torch.get_rng_state(), state) and vae.training
    assert all(torch.equal(p, before[name]) for name, p in vae.named_parameters())
    assert found.checks["threshold"].notna().all() and len(found.units) == (vae.latent_dim)
    defined = found.checks["value"].notna()
    assert defined["non_finite"] and defined["aggregate_posterior"]
    assert defined["likelihood_variance"] == ("likelihood" not in settings)
    assert defined["posterior_collapse"] == (settings.get("posterior") != "delta")
    assert defined["posterior_variance"] == (defined["posterior_collapse"] and found.units["active"].any())
    text = str(found)
    assert all(name in text for name in found.checks.index)
    assert text.count("LOOK") == text.count("Try: ") == len(found.flagged)
