"""Comparison of models by held-out log p(x): against sums and an optimum made by hand; what must be refused."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

import pyrovae
from pyrovae import VAE
from pyrovae.inference_data import compare_pointwise

COLUMNS = ["rank", "elpd", "se", "elpd_diff", "dse", "weight"]


@pytest.mark.parametrize("level", [0.0, -1e5])
def test_pointwise(level):
    """Also of numbers so low that their exponentials are all 0, as those of images are."""
    rng = np.random.default_rng(0)
    a, b = level + rng.normal(-3, 1, 200), level + rng.normal(-3.1, 1, 200)
    table = compare_pointwise({"b": b, "a": a})
    assert table.columns.tolist() == COLUMNS
    best, other = ("a", "b") if a.sum() > b.sum() else ("b", "a")
    first, second = (a, b) if best == "a" else (b, a)
    assert table.index.tolist() == [best, other] and table["rank"].tolist() == [0, 1]
    assert table["elpd"].tolist() == pytest.approx([first.sum(), second.sum()], rel=1e-12)
    assert table["se"].tolist() == pytest.approx([np.sqrt(200) * v.std() for v in (first, second)], rel=1e-9)
    assert table["elpd_diff"].tolist() == pytest.approx([0, second.sum() - first.sum()], rel=1e-6, abs=1e-9)
    assert table["dse"].tolist() == pytest.approx([0, np.sqrt(200) * (first - second).std()], rel=1e-6, abs=1e-9)
    # Stacking (Yao et al. 2018): the weights whose mixture has the greatest sum of log-densities.
    gap = second - first
    best_weight = minimize_scalar(lambda w: -np.log1p(w * np.expm1(gap)).sum(), bounds=(0, 1), method="bounded").x
    assert table["weight"].tolist() == pytest.approx([1 - best_weight, best_weight], abs=1e-3)


def test_exact_densities(linear):
    """Of guides that are exact or a little off, the model is the same and so is its density."""
    case, wrong = linear(n=100, k=1), linear(n=100, k=1, stretch=1.3)
    table = pyrovae.compare({"exact": case.vae, "wrong": wrong.vae}, case.x, num_samples=500, progress=False)
    assert table["elpd"].to_numpy() == pytest.approx(float(case.log_prob.sum()), abs=4 * table.loc["wrong", "mc_se"])
    assert table.loc["exact", "mc_se"] < 1e-6 < table.loc["wrong", "mc_se"]
    worst = table.index[1]
    assert table.loc[worst, "mc_dse"] == pytest.approx(np.hypot(*table["mc_se"]))
    assert abs(table.loc[worst, "elpd_diff"]) < 4 * table.loc[worst, "mc_dse"]
    assert table["share_k_hat_above_0.7"].tolist() == [0, 0]


def test_a_better_model_is_found(linear):
    case = linear(n=200)
    other = linear(n=200)
    with torch.no_grad():
        other.vae.likelihood.head.bias.add_(0.5)
    table = pyrovae.compare({"off": other.vae, "truth": case.vae}, case.x, progress=False)
    assert table.index.tolist() == ["truth", "off"]
    assert table.loc["off", "elpd_diff"] < -4 * table.loc["off", "dse"] and table.loc["truth", "weight"] > 0.9


def test_a_condition_of_its_own_for_each_model():
    torch.manual_seed(0)
    vae = VAE((4,), 2, likelihood="gaussian", condition_dim=2)
    x, first, second = torch.randn(20, 4), torch.randn(20, 2), torch.randn(20, 2)
    table = pyrovae.compare({"a": vae, "b": vae}, x, {"a": first, "b": second}, num_samples=50, progress=False)
    for name, condition in (("a", first), ("b", second)):
        alone = pyrovae.evaluate(vae, x, condition, num_samples=50, progress=False).rows["log_marginal"]
        assert table.loc[name, "elpd"] == pytest.approx(alone.sum())
    with pytest.raises(ValueError, match=r"condition: expected shape \(B, 2\), got None"):
        pyrovae.compare({"a": vae, "b": vae}, x, {"a": first}, num_samples=50, progress=False)


def test_what_cannot_be_compared():
    def make(likelihood="gaussian", event_shape=(4,), **settings):
        return VAE(event_shape, 2, likelihood=likelihood, **settings)

    x = torch.rand(5, 4)
    with pytest.raises(ValueError, match="expected two or more models, got 1"):
        pyrovae.compare({"a": make()}, x)
    with pytest.raises(ValueError, match=r"rows of one shape, got \(4,\) for 'a' and \(3,\) for 'b'"):
        pyrovae.compare({"a": make(), "b": make(event_shape=(3,))}, x)
    for other in ("bernoulli", "poisson", "categorical(classes=3)"):
        with pytest.raises(ValueError, match="'a' has a density and 'b' a probability"):
            pyrovae.compare({"a": make(), "b": make(other)}, x)
    with pytest.raises(
        ValueError, match="'b' has no log p\\(x\\) of single rows: the posterior \\(Delta\\) is a point"
    ):
        pyrovae.compare({"a": make(), "b": make(posterior="delta")}, x)
    with pytest.warns(UserWarning, match="relaxed"):
        relaxed = make("bernoulli(relaxed=True)")
    with pytest.raises(ValueError, match="'b' has a relaxed Bernoulli, which is no density"):
        pyrovae.compare({"a": make("continuous_bernoulli"), "b": relaxed}, x)
    pyrovae.compare({"a": make(), "b": make("beta")}, x.clamp(0.1, 0.9), num_samples=20, progress=False)


def test_only_those_with_a_condition_get_it(tiny):
    x, c = torch.randn(20, 3), torch.randn(20, 2)
    models = {"plain": tiny(likelihood="gaussian"), "conditional": tiny(likelihood="gaussian", condition_dim=2)}
    assert set(pyrovae.compare(models, x, c, num_samples=30, progress=False).index) == set(models)
    with pytest.raises(ValueError, match="condition: expected shape"):
        pyrovae.compare(models, x, num_samples=30)
