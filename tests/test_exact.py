"""Every estimator against closed forms, on a model whose log p(x), posterior, ELBO and gradients are known."""

import math

import pyro
import pytest
import torch
from pyro import infer
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from scipy.stats import multivariate_normal
from torch.distributions import MultivariateNormal
from torch.nn.functional import softplus

from pyrovae import elbos, fit, likelihoods

TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}
DTYPES = [torch.float64, torch.float32]

# With K particles drawn at once, or in a loop. TraceMeanField_ELBO is not here: with the KL in closed form its single
# draws differ from log p(x), and only their mean is right (see below).
ESTIMATORS = {
    "Trace_ELBO": lambda **k: infer.Trace_ELBO(**k),
    "TraceGraph_ELBO": lambda **k: infer.TraceGraph_ELBO(**k),
    "TraceEnum_ELBO": lambda **k: infer.TraceEnum_ELBO(strict_enumeration_warning=False, **k),
    "TraceTMC_ELBO": lambda **k: infer.TraceTMC_ELBO(strict_enumeration_warning=False, **k),
    "RenyiELBO(alpha=0)": lambda **k: infer.RenyiELBO(alpha=0, **k),
    "RenyiELBO(alpha=0.5)": lambda **k: infer.RenyiELBO(alpha=0.5, **k),
    "RenyiELBO(alpha=2)": lambda **k: infer.RenyiELBO(alpha=2, **k),
}
JIT = {
    "JitTrace_ELBO": lambda **k: infer.JitTrace_ELBO(ignore_jit_warnings=True, **k),
    "JitTraceGraph_ELBO": lambda **k: infer.JitTraceGraph_ELBO(ignore_jit_warnings=True, **k),
    "JitTraceEnum_ELBO": lambda **k: infer.JitTraceEnum_ELBO(
        ignore_jit_warnings=True, strict_enumeration_warning=False, **k
    ),
}
PARTICLES = [dict(num_particles=1), dict(num_particles=4), dict(num_particles=4, vectorize_particles=True)]


def relative(got, expected):
    return abs(float(got) - float(expected)) / abs(float(expected))


def score(draws, expected):
    """How many standard errors the mean of ``draws`` is away from what was expected."""
    error = draws.std(0) / math.sqrt(len(draws))
    return ((draws.mean(0) - expected) / error).abs().max().item()


def test_the_truth_is_true(linear):
    """log p(x) and the posterior of the reference itself, from scipy and from Bayes' rule on the joint normal."""
    exact = linear()
    weight, bias, s = exact.truth.weight.numpy(), exact.truth.bias.numpy(), exact.truth.scale.item()
    covariance = weight @ weight.T + s**2 * torch.eye(len(bias)).numpy()
    expected = multivariate_normal(bias, covariance).logpdf(exact.rows.numpy())
    assert torch.allclose(exact.log_prob, torch.as_tensor(expected), rtol=1e-12, atol=0)
    gain = torch.as_tensor(weight.T) @ torch.linalg.inv(torch.as_tensor(covariance))
    assert torch.allclose(exact.loc, (exact.rows - exact.truth.bias) @ gain.T, rtol=1e-10, atol=1e-12)
    assert torch.allclose(exact.covariance, torch.eye(2) - gain @ torch.as_tensor(weight), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_encode_is_the_posterior_and_decode_the_likelihood(linear, dtype, shape):
    exact = linear(dtype=dtype, event_shape=shape)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    q = exact.vae.encode(exact.x)
    assert torch.allclose(q.mean.double(), exact.loc, rtol=tolerance, atol=tolerance)
    assert torch.allclose(q.variance.double(), exact.covariance.diagonal().expand(20, 2), rtol=tolerance, atol=0)
    z = torch.randn(4, 20, 2, dtype=dtype)
    p = exact.vae.decode(z)
    loc = z.double() @ exact.truth.weight.T + exact.truth.bias
    assert torch.allclose(p.mean.double().flatten(2), loc, rtol=tolerance, atol=10 * tolerance)
    expected = torch.distributions.Normal(loc, exact.truth.scale).log_prob(exact.rows).sum(-1)
    assert torch.allclose(p.log_prob(exact.x).double(), expected, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("particles", PARTICLES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_exact_posterior_makes_every_bound_log_p(linear, name, dtype, particles):
    exact = linear(dtype=dtype, event_shape=(1, 2, 3))
    expected = -exact.log_prob.sum()
    loss = ESTIMATORS[name](**particles)
    svi = SVI(exact.vae.model, exact.vae.guide, pyro.optim.SGD({"lr": 0.1}), loss)
    assert relative(svi.evaluate_loss(exact.x), expected) <= TOLERANCE[dtype]
    assert relative(svi.step(exact.x), expected) <= TOLERANCE[dtype]
    assert relative(svi.evaluate_loss(exact.x), expected) > 10 * TOLERANCE[dtype], "the step moved nothing"


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("particles", PARTICLES, ids=str)
@pytest.mark.parametrize("name", JIT)
def test_traced_estimators_as_well(linear, name, particles):
    exact = linear()
    loss = JIT[name](**particles)
    for _ in range(2):  # traced at the first call, replayed at the second
        value = loss.loss_and_grads(exact.vae.model, exact.vae.guide, exact.x)
        assert relative(value, -exact.log_prob.sum()) <= 1e-12


@pytest.mark.parametrize("particles", PARTICLES[1:], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_wake_theta_loss_of_reweighted_wake_sleep(linear, dtype, particles):
    exact = linear(dtype=dtype)
    loss = infer.ReweightedWakeSleep(insomnia=1.0, max_plate_nesting=1, **particles)
    theta, _ = loss.loss(exact.vae.model, exact.vae.guide, exact.x)
    assert relative(theta, -exact.log_prob.sum()) <= TOLERANCE[dtype]


def test_a_tail_adaptive_step_runs_and_moves_the_weights(linear):
    exact = linear(shift=0.3)
    before = [p.clone() for p in exact.vae.parameters()]
    loss = infer.TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    SVI(exact.vae.model, exact.vae.guide, pyro.optim.SGD({"lr": 1e-3}), loss).step(exact.x)
    assert all(
        torch.isfinite(p).all() and not torch.equal(p, b) for p, b in zip(exact.vae.parameters(), before, strict=True)
    )


@pytest.mark.parametrize("particles", PARTICLES, ids=str)
@pytest.mark.parametrize("name", ["Trace_ELBO", "TraceGraph_ELBO", "TraceEnum_ELBO"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("first", "last", "size"), [(0, 7, 20), (3, 4, 20), (0, 20, 1000)])
def test_a_batch_is_scaled_up_to_all_rows(linear, name, dtype, particles, first, last, size):
    exact = linear(dtype=dtype)
    loss = ESTIMATORS[name](max_plate_nesting=1, **particles)
    got = loss.loss(exact.vae.model, exact.vae.guide, exact.x[first:last], size=size)
    expected = -size / (last - first) * exact.log_prob[first:last].sum()
    assert relative(got, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_particles", [1, 7])
def test_every_log_weight_is_log_p_of_its_row(linear, dtype, num_particles):
    exact = linear(dtype=dtype)
    terms = elbos.terms(exact.vae.model, exact.vae.guide, exact.x, num_particles=num_particles)
    assert terms.log_weights.shape == terms.reconstruction.shape == terms.kl.shape == (num_particles, 20)
    error = (terms.log_weights.double() - exact.log_prob).abs() / exact.log_prob.abs()
    assert error.max() <= TOLERANCE[dtype]
    assert terms.kl.std() > 0.1, "one draw for all"


# A guide that is not the posterior: the ELBO, its split and its gradient in closed form, against many draws.

REPEATS = 400
# Rows as often in one call, so that as many draws of each row take fewer calls.
TILES = 8
SHIFTS = [(0.3, 1.6), (-0.4, 0.5)]


@pytest.fixture(params=SHIFTS, ids=str)
def wrong(linear, request):
    shift, stretch = request.param
    exact = linear(n=8, shift=shift, stretch=stretch)
    exact.elbo = exact.truth.elbo(exact.rows, exact.loc, exact.covariance)
    exact.reconstruction = exact.truth.reconstruction(exact.rows, exact.loc, exact.covariance)
    exact.kl = exact.truth.kl(exact.loc, exact.covariance)
    return exact


def test_closed_form_elbo_is_log_p_less_the_gap(wrong):
    """The reference ELBO itself: log p(x) - KL(q || posterior), each row, from torch's own KL of two normals."""
    mean, covariance = wrong.truth.posterior(wrong.rows)
    gap = torch.distributions.kl_divergence(
        MultivariateNormal(wrong.loc, wrong.covariance), MultivariateNormal(mean, covariance)
    )
    assert (gap > 1e-3).all()
    assert torch.allclose(wrong.elbo, wrong.log_prob - gap, rtol=1e-10, atol=0)
    assert torch.allclose(wrong.elbo, wrong.reconstruction - wrong.kl, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Trace_ELBO(),
        lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        lambda: TraceMeanField_ELBO(),
        lambda: TraceMeanField_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        lambda: infer.TraceGraph_ELBO(),
        lambda: infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    ],
    ids=["trace", "trace x3", "mean field", "mean field x3", "graph", "enum"],
)
def test_mean_of_the_estimate(wrong, make):
    loss = make()
    x = wrong.x.repeat(TILES, 1)
    values = [-loss.loss(wrong.vae.model, wrong.vae.guide, x) for _ in range(REPEATS // TILES)]
    assert score(torch.tensor(values, dtype=torch.float64), TILES * wrong.elbo.sum()) < 4


def test_mean_of_a_scaled_batch(wrong):
    loss = Trace_ELBO()
    x = wrong.x[:3].repeat(TILES, 1)
    values = [-loss.loss(wrong.vae.model, wrong.vae.guide, x, size=8 * TILES) for _ in range(REPEATS // TILES)]
    assert score(torch.tensor(values, dtype=torch.float64), 8 / 3 * TILES * wrong.elbo[:3].sum()) < 4


def test_split_of_the_terms(wrong):
    terms = elbos.terms(wrong.vae.model, wrong.vae.guide, wrong.x, num_particles=REPEATS)
    assert score(terms.log_weights, wrong.elbo) < 4
    assert score(terms.reconstruction, wrong.reconstruction) < 4
    assert score(terms.kl, wrong.kl) < 4


def test_split_of_the_history(wrong):
    """Each epoch of a fit that moves nothing is a repeat; its figures are in nats a row."""
    x, still = wrong.x.repeat(TILES, 1), dict(lr=1e-300, optimizer="sgd", progress=False)
    history = fit(wrong.vae, x, epochs=REPEATS // TILES, batch_size=4 * TILES, **still)
    draws = {key: torch.as_tensor(history[key].to_numpy(copy=True)) for key in ("elbo", "reconstruction", "kl")}
    assert score(draws["elbo"], wrong.elbo.mean()) < 4
    assert score(draws["reconstruction"], wrong.reconstruction.mean()) < 4
    assert score(draws["kl"], wrong.kl.mean()) < 4


def test_importance_weighted_bound_rises_with_particles_and_stays_below_log_p(wrong):
    """E[log mean of K weights] over rows: L_1 <= L_4 <= L_64 <= log p(x), each within three standard errors."""
    weights = elbos.terms(wrong.vae.model, wrong.vae.guide, wrong.x, num_particles=64 * REPEATS).log_weights
    total = {}
    for k in (1, 4, 64):
        groups = weights[: k * REPEATS].reshape(REPEATS, k, -1)
        values = (groups.logsumexp(1) - math.log(k)).sum(1)
        total[k] = values.mean(), values.std() / math.sqrt(REPEATS)
    for less, more in ((1, 4), (4, 64)):
        assert total[more][0] - total[less][0] > -3 * (total[more][1] + total[less][1])
    assert all(mean <= wrong.log_prob.sum() + 3 * error for mean, error in total.values())


def closed_form_elbo(vae, x, weight, bias, head, head_bias, s):
    """The ELBO of all rows, written out again and differentiable in every parameter."""
    loc, raw = (x @ head.T + head_bias).chunk(2, -1)
    sd = vae.posterior.piece.floor + softplus(raw)
    residual = (x - bias - loc @ weight.T).square().sum(-1)
    spread = (sd.square() * weight.square().sum(0)).sum(-1)  # tr(W S W') of a diagonal S
    reconstruction = -0.5 * x.shape[1] * math.log(2 * math.pi * s**2) - 0.5 / s**2 * (residual + spread)
    kl = 0.5 * (sd.square() + loc.square() - 1 - 2 * sd.log()).sum(-1)
    return (reconstruction - kl).sum()


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO()], ids=["Trace", "TraceMeanField"])
@pytest.mark.parametrize("rows", [8, 3], ids=["all rows", "3 of 8 rows"])
def test_mean_gradient_is_that_of_the_closed_form(wrong, loss, rows):
    vae, x = wrong.vae, wrong.x[:rows].repeat(TILES, 1)
    heads = [vae.likelihood.head.weight, vae.likelihood.head.bias, vae.posterior.head.weight, vae.posterior.head.bias]
    elbo = closed_form_elbo(vae, x, *heads, wrong.truth.scale.item())
    assert torch.allclose(elbo, TILES * wrong.elbo[:rows].sum(), rtol=1e-10)
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(8 / rows * elbo, heads)])
    draws = []
    for _ in range(REPEATS // TILES):
        value = loss.differentiable_loss(vae.model, vae.guide, x, size=8 * TILES)
        draws.append(-torch.cat([g.flatten() for g in torch.autograd.grad(value, heads)]))
    assert exact.abs().min() > 1e-4 * TILES
    assert score(torch.stack(draws), exact) < 4


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO()], ids=["Trace", "TraceMeanField"])
def test_model_gradient_at_the_exact_posterior_is_that_of_log_p(linear, loss):
    """By Fisher's identity, for W, b and a learned scale."""
    exact = linear(n=8, likelihood=likelihoods.Gaussian(scale="shared"))
    piece, head = exact.vae.likelihood.piece, exact.vae.likelihood.head
    with torch.no_grad():
        piece.raw_scale.copy_(torch.log(torch.expm1(exact.truth.scale - piece.floor)))
    # The gradient of log N(x; b, W W' + s^2 I) by autograd, as the one true answer.
    weight, bias, s = (v.clone().requires_grad_() for v in (exact.truth.weight, exact.truth.bias, exact.truth.scale))
    marginal = MultivariateNormal(bias, weight @ weight.T + s**2 * torch.eye(6, dtype=torch.float64))
    truth = torch.autograd.grad(marginal.log_prob(exact.rows).sum(), [weight, bias, s])
    closed = exact.truth.grad(exact.rows)
    for got, expected in zip((closed["weight"], closed["bias"], closed["scale"]), truth, strict=True):
        assert torch.allclose(got, expected, rtol=1e-9, atol=1e-9)
    slope = torch.sigmoid(piece.raw_scale.detach())  # d scale / d raw_scale
    expected = torch.cat([truth[0].flatten(), truth[1], (truth[2] * slope).reshape(1)])
    draws = []
    x = exact.x.repeat(TILES, 1)
    for _ in range(REPEATS // TILES):
        value = loss.differentiable_loss(exact.vae.model, exact.vae.guide, x)
        grads = torch.autograd.grad(value, [head.weight, head.bias, piece.raw_scale])
        draws.append(-torch.cat([g.flatten() for g in grads]))
    assert score(torch.stack(draws), TILES * expected) < 4


def test_training_reaches_the_maximum_likelihood(linear):
    """Bare SVI on a linear VAE comes within 0.02 nats a row of the closed-form maximum, and never passes it."""
    exact = linear(n=200, likelihood=likelihoods.Gaussian(scale="shared"))
    best = type(exact.truth).maximum_likelihood(exact.rows, 2).log_prob(exact.rows).mean().item()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(exact.rows.T, correction=0)).flip(0)
    noise = eigenvalues[2:].mean()
    expected = -0.5 * (6 * math.log(2 * math.pi) + eigenvalues[:2].log().sum() + 4 * noise.log() + 6)
    assert best == pytest.approx(expected.item(), rel=1e-12)
    svi = SVI(exact.vae.model, exact.vae.guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
    for _ in range(600):
        svi.step(exact.x)
    reached = elbos.terms(exact.vae.model, exact.vae.guide, exact.x, num_particles=500).log_weights.mean().item()
    assert best - 0.02 < reached < best + 0.005
