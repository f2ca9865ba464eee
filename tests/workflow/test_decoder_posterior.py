"""Posteriors over decoder weights against Bayesian linear regression, numpy and torch's own Hessians."""

import warnings
from types import SimpleNamespace

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.func import functional_call

import pyrovae
from pyrovae import VAE, decoder_posterior, likelihoods, posteriors
from pyrovae.workflow.decoder_weights import METHODS
from pyrovae.workflow.decoder_weights.curvature import Batch, HeadDensity
from pyrovae.workflow.decoder_weights.laplace import _factor
from pyrovae.workflow.decoder_weights.swag import Moments
from pyrovae.workflow.decoder_weights.task import Task
from pyrovae.workflow.decoder_weights.variational import model

SIGMA, PRIOR = 0.7, 1.5
QUICK = {"laplace": {}, "swag": {"steps": 10}, "mean_field": {"steps": 3}, "low_rank": {"steps": 3}}


def fit(vae, x, condition=None, **arguments):
    return decoder_posterior(vae, x, condition, **{"prior_scale": PRIOR, "progress": False, **arguments})


class Powers(nn.Module):
    """The first column and its square."""

    def forward(self, x):
        return torch.cat([x[:, :1], x[:, :1] ** 2], -1)


def regression(n=40, columns=3, sd=1e-9):
    """A linear decoder of two latents, which are correlated over rows and, but for ``sd``, known; and the exact
    posterior of its weights, which start a standard deviation from its mean. Rows of ``mean`` and of the weights are
    columns of x, the last number the bias."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, columns))
    vae = VAE(
        (columns,), 2, likelihood=likelihoods.Gaussian(scale=SIGMA), posterior=posteriors.Normal(floor=sd),
        encoder=Powers(), decoder=nn.Identity(),
    ).double()  # fmt: skip
    slope = np.array([[1.0, 0.0], [0.8, 0.6]])
    with torch.no_grad():
        vae.posterior.head.weight.copy_(torch.tensor(np.concatenate([slope, 0 * slope])))
        vae.posterior.head.bias.copy_(torch.tensor([0.0, 0.5, -60.0, -60.0]))
    z = np.c_[x[:, :1], x[:, :1] ** 2] @ slope.T + [0.0, 0.5]
    design = np.c_[z, np.ones(n)]
    second = design.T @ design + n * sd**2 * np.diag([1, 1, 0])
    precision = second / SIGMA**2 + np.eye(3) / PRIOR**2
    covariance = np.linalg.inv(precision)
    mean = (covariance @ design.T @ x / SIGMA**2).T
    start = torch.tensor(mean + np.sqrt(np.diag(covariance)))
    with torch.no_grad():
        vae.likelihood.head.weight.copy_(start[:, :2])
        vae.likelihood.head.bias.copy_(start[:, 2])
    return SimpleNamespace(
        vae=vae, x=torch.tensor(x), design=design, precision=precision, covariance=covariance, mean=mean
    )


def rows(values):
    """From the order of the weights ``(..., P)``, those of the matrix and then the biases, to ``(..., P / 3, 3)``."""
    values = np.asarray(values)
    count = values.shape[-1] // 3
    matrix, bias = values[..., : 2 * count], values[..., 2 * count :]
    return np.concatenate([matrix.reshape(*values.shape[:-1], count, 2), bias[..., None]], -1)


# Against the exact posterior of a linear regression


def test_laplace_is_the_posterior_of_a_linear_regression():
    exact = regression()
    posterior = fit(exact.vae, exact.x, method="laplace")
    np.testing.assert_allclose(rows(posterior.weights.mean), exact.mean, atol=1e-7)
    np.testing.assert_allclose(rows(posterior.weights.variance), [np.diag(exact.covariance)] * 3, rtol=1e-6)
    draws = rows(posterior.weights.sample(torch.Size([40_000]))).reshape(-1, 9)
    # Columns of x are independent: blocks on the diagonal.
    truth = np.kron(np.eye(3), exact.covariance)
    sd = np.sqrt(np.diag(truth))
    np.testing.assert_allclose(np.cov(draws.T) / np.outer(sd, sd), truth / np.outer(sd, sd), atol=0.03)
    assert len(posterior.history) == 2  # a single step of Newton's method, and the look at where it led


def test_laplace_integrates_z_out():
    exact = regression(sd=0.5)
    posterior = fit(exact.vae, exact.x, method="laplace", num_particles=200, batch_size=40)
    np.testing.assert_allclose(rows(posterior.weights.mean), exact.mean, atol=0.02)
    np.testing.assert_allclose(rows(posterior.weights.variance), [np.diag(exact.covariance)] * 3, rtol=0.03)
    known = np.diag(regression().covariance)
    assert (known / np.diag(exact.covariance)).max() > 1.5  # so that z plugged in would not pass


@pytest.mark.parametrize("batch_size", [40, 10])
def test_mean_field_has_the_means_and_the_conditional_variances(batch_size):
    exact = regression()
    posterior = fit(exact.vae, exact.x, method="mean_field", batch_size=batch_size, steps=600, lr=0.01)
    sd = np.sqrt(np.diag(exact.covariance))
    assert (np.abs(rows(posterior.weights.mean) - exact.mean) / sd).max() < 0.25
    ratio = rows(posterior.weights.variance) * np.diag(exact.precision)
    assert abs(np.log(ratio).mean()) < 0.12 and abs(np.log(ratio)).max() < 0.45
    assert (np.diag(exact.covariance) * np.diag(exact.precision)).max() > 2  # the marginal ones would not pass


def test_low_rank_has_the_covariance():
    exact = regression(columns=1)
    posterior = fit(exact.vae, exact.x, method="low_rank", rank=2, steps=600, lr=0.01)
    sd = np.sqrt(np.diag(exact.covariance))
    assert (np.abs(posterior.weights.mean.numpy() - exact.mean[0]) / sd).max() < 0.25
    found = posterior.weights.covariance_matrix.numpy() / np.outer(sd, sd)
    np.testing.assert_allclose(found, exact.covariance / np.outer(sd, sd), atol=0.25)
    assert (exact.covariance / np.outer(sd, sd)).min() < -0.5


def test_batches_count_as_the_rows_they_stand_for():
    exact = regression()
    task = Task(
        vae=exact.vae.requires_grad_(False), x=exact.x, condition=None, names=("head.weight", "head.bias"),
        prior_scale=PRIOR, steps=1, lr=0.0, batch_size=8, num_particles=1, rank=0, tick=lambda: None,
    )  # fmt: skip
    weights, z = torch.randn(9).double(), torch.randn(40, 2).double()

    def log_joint(index):
        fixed = poutine.condition(model, {"weights": weights, "z": z[index]})
        return poutine.trace(fixed).get_trace(task, index).log_prob_sum()

    mean = z @ weights[:6].view(3, 2).T + weights[6:]
    terms = (weights, 0.0, PRIOR), (z, 0.0, 1.0), (exact.x, mean, SIGMA)
    truth = sum(torch.distributions.Normal(loc, scale).log_prob(value).sum() for value, loc, scale in terms)
    torch.testing.assert_close(log_joint(torch.arange(40)), truth)
    batches = [log_joint(index) for index in torch.randperm(40).split(8)]
    torch.testing.assert_close(torch.stack(batches).mean(), log_joint(torch.arange(40)))
    assert torch.stack(batches).std() > 1


def test_an_epoch_has_every_row_once():
    task = Task(None, torch.zeros(10, 1), None, (), 1.0, 1, 0.0, 4, 1, 0, lambda: None)
    batches = [index for index, _ in zip(task.batches(), range(6), strict=False)]
    assert [len(index) for index in batches] == [4, 4, 2] * 2
    first, second = torch.cat(batches[:3]).tolist(), torch.cat(batches[3:]).tolist()
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_more_rows_leave_less_uncertainty():
    few, many = (fit(r.vae, r.x, method="laplace").weights.variance for r in (regression(100), regression(1000)))
    assert ((few / many) > 7).all() and ((few / many) < 13).all()


# SWAG


def test_moments_of_a_path():
    path = np.random.default_rng(0).normal(3.0, 1e-3, size=(30, 4))
    moments = Moments(torch.tensor(path[0]), rank=5)
    for weights in path[1:]:
        moments.add(torch.tensor(weights))
    deviations = np.stack([path[i] - path[: i + 1].mean(0) for i in range(25, 30)], -1)
    truth = 0.5 * np.diag(path.var(0)) + 0.5 * deviations @ deviations.T / 4
    normal = moments.normal()
    np.testing.assert_allclose(normal.mean, path.mean(0))
    np.testing.assert_allclose(normal.covariance_matrix, truth, rtol=1e-6)
    draws = normal.sample(torch.Size([20_000])).numpy()
    sd = np.sqrt(np.diag(truth))
    np.testing.assert_allclose(np.cov(draws.T) / np.outer(sd, sd), truth / np.outer(sd, sd), atol=0.05)


def test_sgd_of_all_rows_goes_to_the_mode():
    exact = regression()
    with torch.no_grad():
        exact.vae.likelihood.head.weight.copy_(torch.tensor(exact.mean[:, :2]))
        exact.vae.likelihood.head.bias.copy_(torch.tensor(exact.mean[:, 2]))
    stays = fit(exact.vae, exact.x, method="swag", steps=50, batch_size=40, lr=0.1)
    np.testing.assert_allclose(rows(stays.weights.mean), exact.mean, atol=1e-6)
    moves = fit(exact.vae, exact.x, method="swag", steps=50, batch_size=4, lr=0.1)
    assert (moves.weights.variance > 1e6 * stays.weights.variance).all()


# What is predicted


def test_predictions_hold_the_uncertainty_of_the_weights():
    exact = regression()
    posterior = fit(exact.vae, exact.x, method="laplace")
    few = exact.design[:4]
    of_weights = np.einsum("nf,fg,ng->n", few, exact.covariance, few)[:, None]
    for mean, noise in ((True, 0.0), (False, SIGMA**2)):
        found = posterior.reconstruct(exact.x[:4], num_draws=1200, mean=mean)
        assert found.dims == ("draw", "row", "column") and found.shape == (1200, 4, 3)
        np.testing.assert_allclose(found.var("draw"), np.tile(of_weights + noise, 3), rtol=0.18)
        np.testing.assert_allclose(found.mean("draw"), few @ exact.mean.T, atol=0.1)
    drawn = posterior.predictive(num_rows=30, num_draws=500)
    truth = SIGMA**2 + (exact.mean[:, :2] ** 2).sum(1) + np.trace(exact.covariance)
    np.testing.assert_allclose(drawn.var(("draw", "row")), truth, rtol=0.07)
    # Rows of a draw share its weights.
    between = drawn.mean("row").var("draw")
    own = exact.covariance[2, 2] + (truth - exact.covariance[2, 2]) / 30
    np.testing.assert_allclose(between, own, rtol=0.25)


def test_log_marginal_averages_densities_over_weights(linear):
    exact = linear(n=5)
    posterior = fit(exact.vae, exact.truth.sample(50, seed=1), method="laplace")
    value, error = posterior.log_marginal(exact.x, num_draws=15, num_samples=2000, seed=3)
    draws = posterior.sample(15, seed=3)
    truth = torch.stack(
        [
            torch.distributions.MultivariateNormal(
                bias, weight @ weight.T + exact.truth.scale**2 * torch.eye(6, dtype=torch.float64)
            ).log_prob(exact.x)
            for weight, bias in zip(draws["likelihood.head.weight"], draws["likelihood.head.bias"], strict=True)
        ]
    )
    torch.testing.assert_close(value, truth.logsumexp(0) - np.log(15), atol=0.05, rtol=0)
    density = (truth - value).exp()
    torch.testing.assert_close(error, density.std(0) / 15**0.5, atol=0.02, rtol=0.1)
    assert truth.std(0).min() > 0.1


def test_a_draw_is_a_vae():
    exact = regression()
    posterior = fit(exact.vae, exact.x, method="laplace")
    vae, values = posterior.draw(seed=5), posterior.sample(1, seed=5)
    assert set(values) == {"likelihood.head.weight", "likelihood.head.bias"} == set(posterior.names)
    for name, value in values.items():
        assert torch.equal(vae.get_parameter(name), value[0])
        assert not torch.equal(vae.get_parameter(name), exact.vae.get_parameter(name))
    assert torch.isfinite(pyrovae.log_marginal(vae, exact.x[:2], num_samples=10).value).all()


# Hessians


@pytest.mark.parametrize(
    "likelihood, shape, decoder, size",
    [
        ("bernoulli", (3,), "mlp(hidden=[4])", (3, 5)),
        ("negative_binomial", (3,), "mlp(hidden=[4])", (3, 5)),
        ("negative_binomial(dispersion=network)", (3,), "mlp(hidden=[4])", (3, 10)),
        ("categorical(classes=3)", (2, 2), "mlp(hidden=[4])", (4, 15)),
        ("multinomial", (3,), "mlp(hidden=[4])", (1, 15)),
        ("gaussian(scale=network)", (2, 4, 4), "conv", (2, 66)),
    ],
)
def test_hessian_of_a_head(likelihood, shape, decoder, size):
    vae = VAE(shape, 2, likelihood=likelihood, encoder="mlp(hidden=[4])", decoder=decoder).double().eval()
    decoder, z = vae.likelihood, torch.randn(5, 2).double()
    with torch.no_grad():
        decoder.head.weight.normal_(0, 0.3)
        x = decoder(z).sample().double()
    density = HeadDensity(decoder, [Batch(x[:3], None, z[:3]), Batch(x[3:], None, z[3:])], 0.5)
    here = torch.cat([decoder.head.weight, decoder.head.bias[:, None]], -1).detach()
    count, width = here.shape

    def total(flat):
        weights = {"head.weight": flat.view(count, width)[:, :-1], "head.bias": flat.view(count, width)[:, -1]}
        return 0.5 * functional_call(decoder, weights, (z,)).log_prob(x).sum()

    value, gradient, hessian = density.derivatives(here)
    assert hessian.shape == (*size, size[1])
    torch.testing.assert_close(value, total(here.flatten()))
    torch.testing.assert_close(density.value(here), value)
    torch.testing.assert_close(
        density.from_blocks(gradient).flatten(), torch.autograd.functional.jacobian(total, here.flatten())
    )
    # Where each weight lies in the blocks.
    index = density.to_blocks(torch.arange(here.numel()).view(count, width))
    whole = torch.zeros(here.numel(), here.numel(), dtype=torch.float64)
    for members, block in zip(index, hessian, strict=True):
        whole[members[:, None], members] = block
    torch.testing.assert_close(whole, torch.autograd.functional.hessian(total, here.flatten()))


def test_wrong_curvatures_leave_the_precision_of_the_prior():
    basis, values = torch.linalg.qr(torch.randn(3, 3).double()).Q, torch.tensor([[-5.0, 1, 2], [1, 2, 3]]).double()
    factor = _factor(basis @ torch.diag_embed(values) @ basis.T, 0.5)
    for each, truth in zip(factor, ([0.5, 1.5, 2.5], [1.5, 2.5, 3.5]), strict=True):
        torch.testing.assert_close(torch.linalg.eigvalsh(each @ each.T), torch.tensor(truth).double())


def test_newton_finds_the_mode_of_a_logistic_regression():
    known = {"posterior": posteriors.Normal(floor=1e-9), "encoder": nn.Identity(), "decoder": nn.Identity()}
    vae = VAE((2,), 1, likelihood="bernoulli", **known).double()
    with torch.no_grad():
        vae.posterior.head.weight.copy_(torch.tensor([[2.0, -1.0], [0.0, 0.0]]))
        vae.posterior.head.bias.copy_(torch.tensor([0.3, -60.0]))
    x = (torch.rand(60, 2) < 0.4).double()
    z = (x @ torch.tensor([2.0, -1.0]).double() + 0.3)[:, None]
    posterior = fit(vae, x, method="laplace")
    from sklearn.linear_model import LogisticRegression

    for column in range(2):
        design = np.c_[z, np.ones(60)]
        truth = LogisticRegression(C=PRIOR**2, fit_intercept=False, tol=1e-10).fit(design, x[:, column]).coef_[0]
        index = [column, 2 + column]
        np.testing.assert_allclose(posterior.weights.mean[index], truth, atol=1e-3)
        p = 1 / (1 + np.exp(-design @ truth))
        covariance = np.linalg.inv(design.T @ (design * (p * (1 - p))[:, None]) + np.eye(2) / PRIOR**2)
        np.testing.assert_allclose(posterior.weights.variance[index], np.diag(covariance), rtol=1e-2)
    with pytest.warns(UserWarning, match="take more steps"):
        fit(vae, x, method="laplace", steps=1)


# Around it


@pytest.mark.parametrize("method", METHODS)
def test_what_is_the_users_stays(tiny, same, method):
    vae, x = tiny(), torch.randn(20, 3)
    before, state, store = tiny(), torch.get_rng_state(), dict(pyro.get_param_store().items())
    vae.train()
    posterior = fit(vae, x, method=method, seed=1, **QUICK[method])
    again, other = (fit(vae, x, method=method, seed=seed, **QUICK[method]) for seed in (1, 2))
    posterior.predictive(2, num_draws=2)
    posterior.reconstruct(x, num_draws=2)
    posterior.log_marginal(x, num_draws=2, num_samples=2)
    assert same(vae, before) and vae.training and all(p.requires_grad for p in vae.parameters())
    assert torch.equal(state, torch.get_rng_state()) and dict(pyro.get_param_store().items()) == store
    ours, theirs, others = (p.sample(3, seed=4) for p in (posterior, again, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(not torch.equal(ours[name], others[name]) for name in ours)
    assert all(ours[name].shape == (3, *vae.get_parameter(name).shape) for name in posterior.names)
    assert torch.equal(ours[name := posterior.names[0]], posterior.sample(3, seed=4)[name])
    assert not torch.equal(ours[name], posterior.sample(3, seed=5)[name])
    assert any("network" in name for name in posterior.names) == (method != "laplace")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"latent_dim": [2, 2]},
        {"condition_dim": 2},
        {"missing": "mask"},
        {"likelihood": "negative_binomial"},
        {"likelihood": "gaussian(scale=optimal)", "prior": "vamp(5)"},
    ],
    ids=str,
)
def test_swaps(method, arguments):
    arguments = dict(arguments)
    if arguments.get("prior"):
        arguments["prior"] = "vamp(components=5)"
    vae = VAE((3,), **{"latent_dim": 2, "likelihood": "gaussian", "decoder": "mlp(hidden=[4])", **arguments})
    x = torch.poisson(torch.full((12, 3), 2.0))
    if vae.missing:
        x[::2, 0] = torch.nan
    condition = torch.randn(12, 2) if vae.condition_dim else None
    with warnings.catch_warnings():
        # Newton's method from weights without training.
        warnings.filterwarnings("ignore", "laplace: the mode")
        posterior = fit(vae, x, condition, method=method, **QUICK[method])
    assert posterior.reconstruct(x, condition, num_draws=2).shape == (2, 12, 3)
    assert posterior.predictive(12, condition, num_draws=2, mean=True).notnull().all()
    value, error = posterior.log_marginal(x, condition, num_draws=2, num_samples=5)
    assert value.shape == error.shape == (12,) and torch.isfinite(value).all()


def test_the_head_alone(tiny):
    vae, x = tiny(), torch.randn(20, 3)
    posterior = fit(vae, x, method="mean_field", weights="head", steps=2)
    assert posterior.names == ("likelihood.head.weight", "likelihood.head.bias")
    vae.likelihood.network.requires_grad_(False)
    assert fit(vae, x, method="swag", steps=2).names == posterior.names
    assert repr(posterior).startswith("DecoderPosterior('mean_field', 27 weights of likelihood.head.weight")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"method": "vb"}, "unknown method 'vb'"),
        ({"method": "laplace", "weights": "all"}, "weights: expected 'head'"),
        ({"method": "laplace", "lr": 0.1}, "lr: expected None"),
        ({"method": "mean_field", "rank": 3}, "rank: expected None"),
        ({"method": "swag", "rank": 1}, "rank: expected a whole number of at least 2"),
        ({"method": "swag", "steps": 1}, "steps: expected a whole number of at least 2"),
        ({"weights": "encoder"}, "unknown weights"),
        ({"prior_scale": 0.0}, "prior_scale: expected a finite number above 0"),
        ({"lr": -1.0}, "lr: expected a finite number above 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_particles": 0}, "num_particles"),
        ({"seed": -1}, "seed"),
    ],
)
def test_refused_arguments(tiny, arguments, words):
    with pytest.raises(ValueError, match=words):
        fit(tiny(), torch.randn(10, 3), **arguments)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"posterior": "delta"}, "is a point"),
        ({"prior": "gp", "condition_dim": 1}, "depend on one another"),
        ({"label": 2}, "expected no label"),
        ({"missing": "mask", "mechanism": "self_masking"}, "expected no mechanism"),
        ({"likelihood": "laplace"}, "second derivative is 0"),
    ],
)
def test_refused_models(tiny, arguments, words):
    with pytest.raises(ValueError, match=words):
        fit(tiny(**arguments), torch.randn(10, 3), method="laplace")


def test_refused_weights_and_data(tiny):
    vae, x = tiny(), torch.randn(10, 3)
    with pytest.raises(ValueError, match="expected a VAE, got Linear"):
        fit(nn.Linear(1, 1), x)
    with pytest.raises(ValueError, match=r"expected shape \(N, 3\)"):
        fit(vae, x[:, :2])
    with pytest.raises(ValueError, match="take a gradient, got none"):
        fit(tiny().requires_grad_(False), x)
    with pytest.raises(ValueError, match="at most 134,217,728 numbers, got 20,000 blocks of 101 x 101"):
        fit(tiny((20_000,), decoder="mlp(hidden=[100])"), torch.randn(4, 20_000), method="laplace")
    shared = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="network.weight, which is another part's too"):
        fit(tiny(latent_dim=3, encoder=shared, decoder=shared), x)
    with pytest.raises(FloatingPointError, match="Try a lower lr"):
        fit(vae, x, method="swag", lr=1e20, steps=20)
    posterior = fit(vae, x, method="laplace")
    with pytest.raises(ValueError, match="num_draws"):
        posterior.log_marginal(x, num_draws=1)
    with pytest.raises(ValueError, match="num_rows"):
        posterior.predictive(0)
