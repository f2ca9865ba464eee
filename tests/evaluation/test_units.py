"""KL of single latent units against formulas in NumPy, and against the KL of rows."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import kl_divergence

import pyrovae
from pyrovae.evaluation.units import unit_kls


def moved(vae):
    """The VAE with weights that make its posteriors differ from row to row and from the prior."""
    with torch.no_grad():
        for part in (vae.posterior, vae.prior, vae.likelihood):
            for parameter in part.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return vae


def normal_kl(mean, sd, loc=0.0, scale=1.0):
    """KL(N(mean, sd^2) || N(loc, scale^2))."""
    return np.log(scale / sd) + (sd**2 + (mean - loc) ** 2) / (2 * scale**2) - 0.5


def test_normal_units_in_closed_form(tiny):
    vae, x = moved(tiny(latent_dim=3)).double(), torch.randn(1500, 3, dtype=torch.float64)
    with torch.no_grad():
        q = vae.eval().encode(x)
        expected = normal_kl(q.mean.numpy(), q.stddev.numpy()).mean(0)
        whole = kl_divergence(q, vae.prior()).mean()
    found = unit_kls(vae, x)["z"].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert found.sum() == pytest.approx(float(whole), rel=1e-10) and np.ptp(found) > 0.01


def test_the_kl_of_a_linear_model(linear):
    case = linear(shift=0.3, stretch=1.2)
    expected = normal_kl(case.loc.numpy(), case.covariance.diagonal().sqrt().numpy()).mean(0)
    units = pyrovae.evaluate(case.vae, case.x, num_samples=50).units
    np.testing.assert_allclose(units["kl"], expected, rtol=1e-6)
    assert units["kl"].sum() == pytest.approx(float(case.truth.kl(case.loc, case.covariance).mean()), rel=1e-6)


def test_a_conditional_prior_is_that_of_the_row(tiny):
    vae = moved(tiny(prior="conditional", condition_dim=2))
    x, c = torch.randn(50, 3), torch.randn(50, 2)
    with torch.no_grad():
        q, p = vae.encode(x, c), vae.prior(c, c)
        expected = normal_kl(*(np.asarray(part) for part in (q.mean, q.stddev, p.mean, p.stddev))).mean(0)
    np.testing.assert_allclose(unit_kls(vae, x, c)["z"], expected, rtol=1e-4)
    rolled = unit_kls(vae, x, c.roll(1, 0))["z"]
    assert not np.allclose(rolled, expected, rtol=1e-3)


@pytest.mark.parametrize(
    "pieces",
    [
        dict(prior="student_t", posterior="student_t"),
        dict(prior="gamma", posterior="normal"),
        dict(prior="uniform", posterior="normal"),
    ],
    ids=str,
)
def test_without_a_closed_form_over_draws(tiny, pieces):
    vae, x = tiny(**pieces), torch.randn(400, 3)
    found = pyrovae.evaluate(vae, x, num_samples=2000, progress=False)
    error = found.rows["kl"].std() / math.sqrt(100 * len(x)) + 0.01
    assert found.units["kl"].sum() == pytest.approx(found.rows["kl"].mean(), abs=4 * error)
    assert (found.units["kl"] > 0.01).all()


@pytest.mark.parametrize(
    "settings", [dict(latent_dim=[2, 3]), dict(latent_dim=[2, 3], inference="top_down"), dict(label=3)], ids=str
)
def test_more_sites_than_one(tiny, settings):
    vae, x = moved(tiny(**settings)), torch.randn(90, 3)
    labels = torch.arange(90) % 3 if "label" in settings else None
    found = pyrovae.evaluate(vae, x, labels, num_samples=2000, progress=False)
    assert found.units["site"].tolist() == (["z1"] * 2 + ["z2"] * 3 if labels is None else ["z"] * 2)
    # A label that is given has a KL of its own, the surprise -log p(y).
    expected = found.rows["kl"].mean() - (0.0 if labels is None else math.log(3))
    assert found.units["kl"].sum() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    "pieces",
    [
        dict(posterior="full_rank"),
        dict(prior="mixture(components=2)"),
        dict(posterior="delta"),
        dict(prior="dirichlet", posterior="dirichlet"),
        dict(prior="gp", condition_dim=1),
    ],
    ids=str,
)
def test_what_is_no_product_has_none(tiny, pieces):
    condition = torch.randn(6, 1) if "condition_dim" in pieces else None
    units = pyrovae.evaluate(tiny(**pieces), torch.randn(6, 3), condition, num_samples=30).units
    assert units["kl"].isna().all() and units["variance"].notna().all()
