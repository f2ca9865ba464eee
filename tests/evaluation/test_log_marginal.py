"""The methods of log p(x): smoothed weights against raw ones and the truth, chains as `pyrovae.ais` has them."""

import sys

import pytest
import torch

import pyrovae
from pyrovae import log_marginal
from pyrovae.evaluation.importance import importance_terms
from pyrovae.evaluation.psis import smooth


@pytest.mark.parametrize("chunk", [4096, 400, 150])
def test_psis_smooths_all_weights_of_a_row(linear, chunk):
    case = linear(shift=0.3, stretch=0.7)
    options = dict(num_samples=400, chunk=chunk, progress=False)
    value, error = log_marginal(case.vae, case.x, method="psis", **options)
    weights = torch.cat(
        [terms.log_weights for _, terms in importance_terms(case.vae, case.x, None, 400, seed=0, chunk=chunk)], 1
    )
    assert torch.allclose(value.exp(), smooth(weights).log_weights.exp().mean(0), rtol=1e-10)
    raw = log_marginal(case.vae, case.x, **options)
    assert torch.equal(error, raw.standard_error) and (value != raw.value).all()


def test_psis_is_nearer_to_the_truth_and_its_error_says_how_near(linear):
    case = linear(n=600, stretch=0.65)  # k-hat is 0.55
    options = dict(num_samples=400, progress=False)
    smoothed, raw = (log_marginal(case.vae, case.x, method=method, **options) for method in ("psis", "importance"))
    ours, theirs = ((found.value - case.log_prob).square().mean().sqrt() for found in (smoothed, raw))
    assert ours < 0.85 * theirs
    assert 0.7 < smoothed.standard_error.mean() / ours < 1.4


def test_psis_of_the_exact_posterior_is_exact(linear):
    case = linear()
    value, error = log_marginal(case.vae, case.x, method="psis", num_samples=50)
    assert torch.allclose(value, case.log_prob, atol=1e-10) and error.max() < 1e-10


def test_ais_is_ais(linear, monkeypatch):
    case = linear(n=3, shift=1.0)
    asked = []

    def ais(vae, x, condition, **options):
        asked.append(options)
        return pyrovae.ais(vae, x, condition, num_steps=5, **options)

    monkeypatch.setattr(sys.modules["pyrovae.evaluation.log_marginal"], "ais", ais)
    for num_samples, chains in ((None, 16), (3, 3)):
        found = log_marginal(case.vae, case.x, method="ais", num_samples=num_samples, seed=4)
        expected = pyrovae.ais(case.vae, case.x, num_chains=chains, num_steps=5, seed=4)
        assert torch.equal(found.value, expected.value) and asked[-1]["num_chains"] == chains


def test_what_it_refuses(linear, tiny):
    case = linear(n=3)
    with pytest.raises(ValueError, match="num_samples: expected at least 25 .*got 24"):
        log_marginal(case.vae, case.x, method="psis", num_samples=24)
    with pytest.raises(ValueError, match="unknown method 'psi': expected one of ais, importance, psis"):
        log_marginal(case.vae, case.x, method="psi")
    with pytest.raises(ValueError, match="ais: expected no label"):
        log_marginal(tiny(label=2), torch.randn(2, 3), method="ais")
    for method in ("importance", "psis", "ais"):
        with pytest.raises(ValueError, match="num_samples: expected a whole number of at least 1, got 0"):
            log_marginal(case.vae, case.x, method=method, num_samples=0)
        with pytest.raises(ValueError, match="is a point"):
            log_marginal(tiny(posterior="delta"), torch.randn(2, 3), method=method)
