"""Cells missing not at random: bounds, gradients and imputation against quadrature over the missing cells."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from scipy import stats
from scipy.special import expit, log_expit
from torch import nn

import pyrovae
from pyrovae import VAE, elbos
from pyrovae.datasets import LinearGaussian
from pyrovae.distributions import inverse_scale
from pyrovae.mechanism import SelfMasking

NAN, FLOAT64 = math.nan, torch.float64
W, B, SCALE = np.array([1.2, -0.7, 0.9]), np.array([0.3, -0.2, 0.1]), 0.6
INTERCEPT, SLOPE = np.array([-0.5, 0.4, -1.0]), np.array([1.5, -2.0, 0.8])
STRETCH = 0.8  # the guide's standard deviation
X = np.array([[0.5, 1.0, -0.3], [NAN, 0.7, 1.1], [-0.4, NAN, 0.2], [NAN, -0.9, NAN], [NAN, NAN, 1.4]])
S = np.isnan(X)


def exact(w=W, b=B, intercept=INTERCEPT, slope=SLOPE):
    """log p(x_obs, s), and mean and sd of the missing cells given those, by sums over a fine grid."""
    covariance = np.outer(w, w) + SCALE**2 * np.eye(3)
    log_prob, mean, sd = [], X.copy(), np.zeros(X.shape)
    for row, (x, s) in enumerate(zip(X, S, strict=True)):
        axis = np.linspace(-12, 12, 401 if s.sum() == 2 else 4001)
        grids = np.meshgrid(*[axis] * s.sum(), indexing="ij")
        cells = np.broadcast_to(x, (*grids[0].shape, 3) if grids else (3,)).copy()
        cells[..., s] = np.stack(grids, -1) if grids else 0
        logits = intercept + (slope * cells if slope.ndim == 1 else cells @ slope.T)
        density = stats.multivariate_normal(b, covariance).pdf(cells) * expit(np.where(s, logits, -logits)).prod(-1)
        total = density.sum()
        log_prob.append(math.log(total) + s.sum() * math.log(axis[1] - axis[0]))
        for d, grid in zip(np.flatnonzero(s), grids, strict=True):
            mean[row, d] = (density * grid).sum() / total
            sd[row, d] = math.sqrt((density * grid**2).sum() / total - mean[row, d] ** 2)
    return np.array(log_prob), mean, sd


def exact_elbo(w=W, b=B, intercept=INTERCEPT, slope=SLOPE, loc=0.0):
    """The ELBO of each row where q(z) = N(loc, STRETCH), by closed forms and sums over a grid of each missing cell."""
    axis = np.linspace(-12, 12, 4001)
    kl = 0.5 * (STRETCH**2 + loc**2 - 1) - math.log(STRETCH)
    centre, spread = w * loc + b, np.sqrt(w**2 * STRETCH**2 + SCALE**2)
    result = []
    for x, s in zip(X, S, strict=True):
        value = -kl
        for d in range(3):
            if s[d]:
                value += (
                    stats.norm(centre[d], spread[d]).pdf(axis) * log_expit(intercept[d] + slope[d] * axis)
                ).sum() * (axis[1] - axis[0])
            else:
                value += stats.norm(centre[d], SCALE).logpdf(x[d]) - 0.5 * (w[d] * STRETCH / SCALE) ** 2
                value += log_expit(-intercept[d] - slope[d] * x[d])
        result.append(value)
    return np.array(result)


def known(mechanism="self_masking", intercept=INTERCEPT, slope=SLOPE):
    """The VAE of these numbers, with a rough guide, and its rows."""
    scale = f"gaussian(scale={SCALE})"
    vae = VAE((3,), 1, likelihood=scale, decoder=nn.Identity(), missing="zero", mechanism=mechanism).double()
    with torch.no_grad():
        vae.likelihood.head.weight.copy_(torch.tensor(W)[:, None])
        vae.likelihood.head.bias.copy_(torch.tensor(B))
        vae.posterior.head.weight.zero_()
        vae.posterior.head.bias[1:] = inverse_scale(torch.tensor(STRETCH, dtype=FLOAT64), vae.posterior.piece.floor)
        if mechanism is not None:
            vae.mechanism.logits.intercept.copy_(torch.tensor(intercept))
            vae.mechanism.logits.weight.copy_(torch.tensor(slope))
    return vae, torch.tensor(X)


def test_log_marginal_is_exact_and_the_elbo_below_it():
    vae, x = known()
    expected = exact()[0]
    found = pyrovae.log_marginal(vae, x, num_samples=100_000, seed=1, progress=False)
    error = found.standard_error.numpy()
    assert error.max() < 0.02 and (np.abs(found.value.numpy() - expected) < 4 * error).all()
    terms = elbos.terms(vae.model, vae.guide, x, num_particles=20_000)
    elbo, error = terms.log_weights.mean(0).numpy(), terms.log_weights.std(0).numpy() / math.sqrt(20_000)
    assert (np.abs(elbo - exact_elbo()) < 4 * error + 1e-9).all() and (exact_elbo() < expected).all()
    evaluation = pyrovae.evaluate(vae, x, num_samples=20_000, progress=False)
    assert (
        np.abs(evaluation.rows["log_marginal"] - expected) < 4 * evaluation.rows["log_marginal_standard_error"]
    ).all()


def test_a_module_of_ones_own():
    """A linear one, in which every cell may make every other go missing."""
    slope = np.array([[1.0, -0.5, 0.0], [0.3, -1.0, 0.8], [-0.7, 0.0, 0.4]])
    vae, x = known(None)
    linear = nn.Linear(3, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(slope))
        linear.bias.copy_(torch.tensor(INTERCEPT))
    own = VAE((3,), 1, likelihood=f"gaussian(scale={SCALE})", decoder=nn.Identity(), missing="zero", mechanism=linear)
    own.double().load_state_dict(vae.state_dict(), strict=False)
    log_prob, mean, _ = exact(slope=slope)
    found = pyrovae.log_marginal(own, x, num_samples=50_000, progress=False)
    assert (np.abs(found.value.numpy() - log_prob) < 4 * found.standard_error.numpy()).all()
    np.testing.assert_allclose(pyrovae.impute(own, x, num_samples=50_000, progress=False), mean, atol=0.04)


def test_imputation_is_exact():
    vae, x = known()
    _, mean, sd = exact()
    filled = pyrovae.impute(vae, x, num_samples=100_000, seed=2, progress=False).numpy()
    np.testing.assert_allclose(filled, mean, atol=0.03)
    at_random = pyrovae.impute(known(None)[0], x, num_samples=100_000, seed=2, progress=False).numpy()
    assert (np.abs(at_random - mean)[S] > 0.1).all()
    draws = pyrovae.impute(vae, x, num_samples=20_000, draws=8000, seed=3, progress=False).numpy()
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.08, atol=1e-12)


def test_a_mechanism_without_slope_is_missing_at_random():
    """The same bound, draw for draw, plus log p(s), which is then known."""
    bounds = []
    for mechanism in ("self_masking", None):
        vae, x = known(mechanism, slope=np.zeros(3))
        torch.manual_seed(0)
        bounds.append(elbos.terms(vae.model, vae.guide, x, num_particles=5).log_weights.numpy())
    log_s = stats.bernoulli(expit(INTERCEPT)).logpmf(S).sum(-1)
    np.testing.assert_allclose(bounds[0], bounds[1] + log_s, rtol=1e-10)


def exact_log_prob(**at):
    return exact(**at)[0]


@functools.cache
def slopes(function):
    """Derivatives of the sum over rows by w, b, a and the slope of the mechanism, by central differences."""
    at, step, result = {"w": W, "b": B, "intercept": INTERCEPT, "slope": SLOPE}, 1e-4, []
    for name, d in itertools.product(at, range(3)):
        ends = []
        for sign in (1, -1):
            moved = at[name].copy()
            moved[d] += sign * step
            ends.append(function(**{name: moved}).sum())
        result.append((ends[0] - ends[1]) / (2 * step))
    return np.array(result)


def gradients(name, particles, repeats):
    """Gradients by the same numbers from an estimator, ``(repeats, 12)``, and by the guide's mean, ``(repeats,)``."""
    vae, x = known()
    rows, of_guide = [], []
    for seed in range(repeats):
        torch.manual_seed(seed)
        vae.zero_grad()
        elbos.make(name, particles).loss_and_grads(vae.model, vae.guide, x)
        moved = [vae.likelihood.head.weight, vae.likelihood.head.bias, *vae.mechanism.logits.parameters()]
        rows.append(-torch.cat([p.grad.flatten() for p in moved]).numpy())
        of_guide.append(-float(vae.posterior.head.bias.grad[0]))
    return np.array(rows), np.array(of_guide)


@pytest.mark.parametrize("name", ["elbo", "graph_elbo", "mean_field_elbo", "score_function"])
def test_gradients_of_the_elbo(name):
    found, of_guide = gradients(name, 2000, 12)
    error = found.std(0, ddof=1) / math.sqrt(len(found))
    # One of 60 numbers may be far off by chance with so few repeats.
    assert (np.abs(found.mean(0) - slopes(exact_elbo)) < 5 * error + 1e-6).all()
    expected = (exact_elbo(loc=1e-4).sum() - exact_elbo(loc=-1e-4).sum()) / 2e-4
    assert abs(of_guide.mean() - expected) < 5 * of_guide.std(ddof=1) / math.sqrt(len(of_guide))


@pytest.mark.parametrize("name", ["iwae", "dreg", "gdreg", "stl", "vimco", "rws", "rws(doubly=True)"])
def test_gradients_of_many_draws_are_those_of_log_p(name):
    found, _ = gradients(name, 4000, 6)
    np.testing.assert_allclose(found.mean(0), slopes(exact_log_prob), atol=0.06)


@pytest.mark.parametrize("name", [name for name in elbos.FAMILY if name not in ("enum_elbo", "factor_vae")])
def test_every_estimator(name):
    vae, x = known()
    estimator = elbos.make(name, 4)
    if getattr(estimator, "num_rows", len(x)) is None:
        estimator.num_rows = len(x)
    assert math.isfinite(estimator.loss_and_grads(vae.model, vae.guide, x))
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters() if p.grad is not None)
    # The upper bound trains the guide alone.
    assert name == "cubo" or vae.mechanism.logits.weight.grad.abs().min() > 0


def test_the_decoder_runs_once():
    vae, x = known()
    calls = []
    vae.likelihood.register_forward_hook(lambda *_: calls.append(1))
    draws = elbos.make("dreg", 4)
    draws.max_plate_nesting = 1
    draws.loss_and_grads(vae.model, vae.guide, x)
    assert len(calls) == 1


# As any Pyro model


def test_without_data_all_is_drawn():
    vae, _ = known()
    draws = Predictive(vae.model, num_samples=20)(size=300)
    assert set(draws) == {"z", "x", "missing"} and not draws["x"].isnan().any()
    x = stats.multivariate_normal(B, np.outer(W, W) + SCALE**2 * np.eye(3)).rvs(100_000, random_state=0)
    expected = expit(INTERCEPT + SLOPE * x).mean(0)
    np.testing.assert_allclose(draws["missing"].mean((0, 1)), expected, atol=0.03)
    assert vae.sample(4).shape == (4, 3) and not vae.sample(4).isnan().any()


def test_nuts_and_another_guide_have_the_missing_cells_as_a_site():
    vae, x = known()
    z, cells = torch.randn(5, 1, dtype=FLOAT64), torch.randn(5, 3, dtype=FLOAT64)
    at = poutine.condition(vae.model, {"z": z, "x_missing": cells})
    found = poutine.trace(at).get_trace(x).log_prob_sum().detach()
    of_cell = stats.norm(z.numpy() * W + B, SCALE)
    full = np.where(S, cells.numpy(), X)
    expected = stats.norm.logpdf(z).sum() + np.nansum(of_cell.logpdf(X)) + of_cell.logpdf(cells).sum()
    expected += stats.bernoulli(expit(INTERCEPT + SLOPE * full)).logpmf(S).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    mcmc = MCMC(NUTS(vae.model), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(x)
    assert mcmc.get_samples()["x_missing"].shape == (5, 5, 3)
    guide = AutoNormal(poutine.block(vae.model, hide=["missing"]))
    assert math.isfinite(Trace_ELBO().loss(vae.model, guide, x))
    assert set(poutine.trace(guide).get_trace(x).nodes) >= {"z", "x_missing"}


def test_export():
    vae, x = known()
    idata = pyrovae.to_inference_data(vae, x, num_samples=50)
    assert set(idata["prior_predictive"]) == {"x", "missing"} and set(idata["posterior"]) == {"z"}
    parts = idata["log_likelihood"]
    z = torch.tensor(idata["posterior"]["z"].values[0])
    log_ratio = (vae.prior().log_prob(z) - vae.encode(x).log_prob(z)).detach().numpy()
    weights = idata["sample_stats"]["log_weight"].values[0]
    np.testing.assert_allclose(parts["x"].values[0] + parts["missing"].values[0] + log_ratio, weights, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "elbo"), [({"latent_dim": [2, 1]}, "iwae"), ({"latent_dim": 1, "label": 2}, "enum_elbo")], ids=str
)
def test_layers_and_labels(arguments, elbo):
    x = torch.randn(30, 3)
    x[::2, 1] = NAN
    vae = VAE((3,), likelihood="student_t", missing="mask", mechanism="self_masking(sign=-1)", **arguments)
    labels = torch.arange(30) % 3 - 1 if vae.label else None
    pyrovae.fit(vae, x, labels, epochs=2, elbo=elbo, progress=False)
    assert math.isfinite(pyrovae.evaluate(vae, x, labels, num_samples=20, progress=False).summary()["log_marginal"])
    assert not pyrovae.impute(vae, x, labels, num_samples=20, draws=2).isnan().any()
    assert (vae.mechanism.logits.slope < 0).all()


@pytest.mark.parametrize("likelihood", ["log_normal", "gamma", "beta", "continuous_bernoulli", "laplace"])
def test_likelihoods_of_continuous_cells(likelihood):
    x = torch.rand(8, 2, 3).clamp(0.05, 0.95)
    x[1, 0, 2] = x[3, 1, 1] = NAN
    vae = VAE((2, 3), 1, likelihood=likelihood, missing="zero", mechanism="self_masking")
    loss = elbos.make("iwae", 3).differentiable_loss(vae.model, vae.guide, x)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in vae.parameters())
    filled = pyrovae.impute(vae, x, num_samples=20)
    assert (filled > 0).all() and torch.equal(filled[~x.isnan()], x[~x.isnan()])


@pytest.mark.parametrize("mechanism", ["self_masking", "self_masking(sign=-1)", nn.Linear(3, 3)], ids=str)
def test_save_and_load(mechanism, tmp_path, same):
    x = torch.tensor(X).float()
    vae = VAE((3,), 1, likelihood="gaussian", missing="mask", mechanism=mechanism)
    pyrovae.fit(vae, x, epochs=2, progress=False)
    own = None if isinstance(mechanism, str) else nn.Linear(3, 3)
    loaded = pyrovae.load(pyrovae.save(vae, tmp_path), mechanism=own)
    assert same(vae, loaded)
    ours, theirs = (pyrovae.log_marginal(v, x, num_samples=20, progress=False).value for v in (vae, loaded))
    assert torch.equal(ours, theirs)
    if own is not None:
        with pytest.raises(ValueError, match=r"its mechanism is a torch.*Linear, .* pass load\(..., mechanism=...\)"):
            pyrovae.load(tmp_path)


def test_the_intercept_starts_at_the_shares():
    vae = VAE((3,), 1, likelihood="gaussian", missing="zero", mechanism="self_masking")
    vae.initialize(torch.tensor(X))
    share = vae.mechanism.logits.intercept.sigmoid().detach().numpy()
    np.testing.assert_allclose(share, (S.sum(0) + 0.5) / 6, rtol=1e-5)
    vae.initialize(torch.tensor(X[:1]))
    np.testing.assert_allclose(share, vae.mechanism.logits.intercept.sigmoid().detach().numpy())


def test_a_mechanism_fills_in_what_a_random_one_cannot():
    """Of two columns the values above the mean are gone: at random, the fit fills in values from below it."""
    full = LinearGaussian.random(4, 1, scale=0.5, seed=3).sample(1000, seed=4).float()
    full = (full - full.mean(0)) / full.std(0)
    gone = (full > 0) & (torch.arange(4) < 2)
    x = torch.where(gone, NAN, full)
    errors = {}
    for mechanism in (None, "self_masking"):
        torch.manual_seed(0)
        vae = VAE((4,), 1, likelihood="gaussian", encoder="mlp(hidden=[16])", decoder=nn.Identity(), missing="mask",
                  mechanism=mechanism)  # fmt: skip
        pyrovae.fit(
            vae, x, epochs=30, batch_size=100, lr=2e-2, schedule="cosine", elbo="iwae", num_particles=5, progress=False
        )
        filled = pyrovae.impute(vae, x, num_samples=500, progress=False)
        errors[mechanism] = float((filled - full)[gone].square().mean().sqrt())
    assert errors["self_masking"] < 0.6 * errors[None], errors


# Mistakes


class Row(nn.Module):
    def forward(self, x):
        return x.sum(-1)


def test_what_is_refused():
    def vae(**arguments):
        return VAE((3,), 1, **{"likelihood": "gaussian", "missing": "mask", **arguments})

    with pytest.raises(
        ValueError, match="mechanism: expected a VAE of which missing cells are known, got missing=None"
    ):
        vae(missing=None, mechanism="self_masking")
    with pytest.raises(ValueError, match="unknown mechanism 'self_mask'.*Did you mean 'self_masking'"):
        vae(mechanism="self_mask")
    with pytest.raises(ValueError, match="self_masking sign: expected 1, -1 or None, got 2"):
        vae(mechanism="self_masking(sign=2)")
    with pytest.raises(ValueError, match=r"a logit of being missing for each cell, \(2, 3\), got \(2,\)"):
        vae(mechanism=Row())
    with pytest.raises(ValueError, match=r"mechanism: expected a module that takes \(2, 3\), got RuntimeError"):
        vae(mechanism=nn.Linear(4, 3))
    with pytest.raises(ValueError, match="mechanism: expected a module that takes"):
        vae(mechanism=SelfMasking((4,)))
    with pytest.raises(ValueError, match="mechanism: expected a name or a module, got int"):
        vae(mechanism=3)
    with pytest.raises(ValueError, match="write SelfMasking()"):
        vae(mechanism=SelfMasking)
    for likelihood in ("bernoulli", "poisson", "categorical(classes=3)"):
        with pytest.raises(ValueError, match="mechanism: expected a likelihood of continuous cells, got"):
            vae(likelihood=likelihood, mechanism="self_masking")
    made, x = known()
    with pytest.raises(ValueError, match="ais: expected no mechanism"):
        pyrovae.ais(made, x)
    with pytest.raises(ValueError, match="outlier_scores: .* it has more latent sites than z"):
        pyrovae.outlier_scores(made, x, x)
    with pytest.raises(ValueError, match="feed: expected a model that observes one site"):
        elbos.ReweightedWakeSleep(4, wake=0.5).loss_and_grads(made.model, made.guide, x)
