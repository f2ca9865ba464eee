"""Several layers of latents, against the closed forms of a linear-Gaussian chain z2 -> z1 -> x."""

import copy
import itertools
import math
from types import SimpleNamespace

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive
from scipy import stats
from torch import nn

import pyrovae
from pyrovae import VAE, elbos, hierarchy, plots
from pyrovae.distributions import inverse_scale
from pyrovae.evaluation.units import unit_variances

FLOAT64 = torch.float64
ROWS, D, K = 12, 4, 2
ABOVE, NOISE, SCALE = torch.tensor([1.5, -0.7], dtype=FLOAT64), 0.6, 0.5  # z1 = ABOVE z2 + SHIFT + NOISE e
SHIFT = torch.tensor([0.3, -1.0], dtype=FLOAT64)


def exact(inference, stretch=1.0, move=0.0):
    """A VAE of two layers whose guide is the exact posterior, or has its sds stretched and its means moved."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.linalg.qr(torch.randn(D, K, generator=generator, dtype=FLOAT64)).Q * torch.tensor([2.0, 0.8])
    bias = torch.randn(D, generator=generator, dtype=FLOAT64)
    z2 = torch.randn(ROWS, K, generator=generator, dtype=FLOAT64)
    z1 = ABOVE * z2 + SHIFT + NOISE * torch.randn(ROWS, K, generator=generator, dtype=FLOAT64)
    x = z1 @ weight.T + bias + SCALE * torch.randn(ROWS, D, generator=generator, dtype=FLOAT64)
    vae = VAE(
        (D,), (K, K), likelihood=f"gaussian(scale={SCALE})", inference=inference,
        encoder=[nn.Identity(), nn.Identity()], decoder=[nn.Identity(), nn.Identity()],
    ).double()  # fmt: skip
    above, eye = vae.prior.vae, torch.eye(K, dtype=FLOAT64)

    def put(part, slope, intercept, sd=None):
        floor = part.piece.floor
        numbers = [] if sd is None else [inverse_scale(sd, floor)]
        with torch.no_grad():
            part.head.weight.copy_(torch.cat([slope] + [torch.zeros_like(slope)] * len(numbers)))
            part.head.bias.copy_(torch.cat([intercept, *numbers]))

    put(vae.likelihood, weight, bias)
    put(above.likelihood, ABOVE * eye, SHIFT, NOISE * torch.ones(K, dtype=FLOAT64))
    precision = weight.square().sum(0) / SCALE**2  # of what x says of z1
    if inference == "bottom_up":
        marginal = ABOVE.square() + NOISE**2
        variance = 1 / (precision + 1 / marginal)
        slope = variance[:, None] * weight.T / SCALE**2
        put(vae.posterior, slope, variance * SHIFT / marginal - slope @ bias + move, stretch * variance.sqrt())
        seen = torch.full((K,), NOISE**2, dtype=FLOAT64)  # z2 sees z1 itself
    else:
        slope = weight.T / SCALE**2 / precision[:, None]
        put(vae.posterior, slope, -slope @ bias + move, stretch * precision.rsqrt())
        seen = NOISE**2 + 1 / precision  # z2 sees what x says of z1
    variance = 1 / (1 + ABOVE.square() / seen)
    slope = variance * ABOVE / seen * eye
    put(above.posterior, slope, -slope @ SHIFT + move, stretch * variance.sqrt())
    covariance = (weight * (ABOVE.square() + NOISE**2)) @ weight.T + SCALE**2 * torch.eye(D, dtype=FLOAT64)
    normal = stats.multivariate_normal((weight @ SHIFT + bias).numpy(), covariance.numpy())
    gain = torch.linalg.inv(covariance) @ weight
    mean_z1 = SHIFT + (x - weight @ SHIFT - bias) @ gain * (ABOVE.square() + NOISE**2)
    mean_z2 = (x - weight @ SHIFT - bias) @ gain * ABOVE
    marginal = ABOVE.square() + NOISE**2
    return SimpleNamespace(
        vae=vae, x=x, log_prob=torch.tensor(normal.logpdf(x.numpy())), normal=normal,
        means={"z1": mean_z1, "z2": mean_z2},
        variances={"z1": 1 / (precision + 1 / marginal), "z2": 1 - ABOVE.square() / (marginal + 1 / precision)},
    )  # fmt: skip


DIRECTIONS = ["bottom_up", "top_down"]
# The others have no value that is log p(x) draw by draw, or want one site.
VALUES = [
    "elbo", "graph_elbo", "iwae", "stl", "dreg", "gdreg", "renyi", "miwae(groups=2)", "piwae(groups=2)", "ciwae",
    "vimco", "rws", "tvo", "tail_adaptive", "jackknife", "score_function", "cubo",
]  # fmt: skip


@pytest.mark.parametrize("inference", DIRECTIONS)
@pytest.mark.parametrize("name", VALUES)
def test_at_the_exact_posterior_every_bound_is_log_p(name, inference):
    case = exact(inference)
    side = -1 if name != "cubo" else 1
    loss = elbos.make(name, 4).loss(case.vae.model, case.vae.guide, case.x)
    assert side * loss == pytest.approx(float(case.log_prob.sum()), rel=1e-10)


@pytest.mark.parametrize("inference", DIRECTIONS)
@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_annealing_finds_log_p_where_the_guide_is_wrong(start, inference):
    case = exact(inference, stretch=1.6, move=0.4)
    value, error = pyrovae.ais(
        case.vae, case.x, num_steps=40, num_chains=48, leapfrog=4, start=start, seed=1, progress=False
    )
    # Weights are unbiased for p(x): on its scale they agree over rows.
    ratio = (value - case.log_prob).exp()
    assert abs(ratio.mean() - 1) < 3 * error.square().sum().sqrt() / len(ratio)
    assert (value - case.log_prob).abs().max() < 4 * error.max() + 0.05


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_annealing_from_the_exact_posterior_has_constant_weights(inference):
    case = exact(inference)
    value, error = pyrovae.ais(case.vae, case.x, num_steps=3, num_chains=4, leapfrog=2, progress=False)
    assert torch.allclose(value, case.log_prob, atol=1e-9) and error.max() < 1e-9


def test_a_sandwich_holds_log_p():
    case = exact("bottom_up", stretch=1.6, move=0.4)
    x, lower, upper = found = pyrovae.bdmc(case.vae, 200, num_steps=20, num_chains=8, leapfrog=3, progress=False)
    log_p = torch.tensor(case.normal.logpdf(x.numpy()))
    for below, above in ((lower, log_p), (log_p, upper)):
        difference = above - below
        assert difference.mean() > -3 * difference.std() / math.sqrt(len(x))
    assert 0 < found.gap.mean() < 0.5
    # The rows are those of the model.
    assert (
        stats.kstest(
            np.linalg.solve(np.linalg.cholesky(case.normal.cov), (x.numpy() - case.normal.mean).T).ravel(), "norm"
        ).pvalue
        > 1e-3
    )


def test_a_layer_that_is_a_point_has_no_log_p():
    vae, x = VAE((4,), [3, 2], posterior=["normal", "delta"], likelihood="gaussian"), torch.randn(3, 4)
    for method in ("importance", "psis", "ais"):
        with pytest.raises(ValueError, match="posterior .Delta. is a point, which has no density"):
            pyrovae.log_marginal(vae, x, num_samples=30, method=method)
    evaluation = pyrovae.evaluate(vae, x, num_samples=30)
    assert "Delta" in evaluation.undefined
    assert evaluation.rows[["elbo", "kl", "log_marginal", "k_hat"]].isna().all(axis=None)
    assert np.isfinite(evaluation.rows["reconstruction"]).all()


def test_annealing_where_the_top_is_positive_is_the_integral():
    torch.manual_seed(3)
    vae = VAE((2,), [1, 1], prior="gamma(concentration=2.0)", likelihood="gaussian(scale=0.7)").double()
    x = torch.tensor([[0.5, -0.3], [1.5, 0.2]], dtype=torch.float64)
    z1, z2 = torch.linspace(-9, 9, 1201, dtype=torch.float64), torch.linspace(1e-6, 25, 1201, dtype=torch.float64)
    with torch.no_grad():
        above = vae.prior.vae
        top = above.prior(None, None).log_prob(z2[:, None])
        middle = above.decode(z2[:, None, None]).log_prob(z1[:, None])  # (z2, z1)
        bottom = torch.stack([vae.decode(z1[:, None]).log_prob(row) for row in x])  # (row, z1)
    joint = top[:, None] + middle + bottom[:, None]
    log_p = joint.flatten(1).logsumexp(1) + torch.log((z1[1] - z1[0]) * (z2[1] - z2[0]))
    value, error = pyrovae.ais(vae, x, num_steps=30, num_chains=128, leapfrog=3, progress=False)
    assert ((value - log_p).abs() < 4 * error + 0.01).all()


# Of the guide chains know where to start and how far to go at first: each in one direction.
@pytest.mark.parametrize(
    ("method", "inference"),
    [*itertools.product(["guide", "sir"], DIRECTIONS), *zip(["hmc", "nuts"], DIRECTIONS, strict=True)],
)
def test_draws_of_the_posterior_are_those_of_the_closed_form(method, inference):
    case = exact(inference, **({} if method == "guide" else {"stretch": 1.5, "move": 0.3}))
    settings = {"num_samples": 200, "num_chains": 1} if method == "nuts" else {"num_samples": 500, "num_chains": 4}
    x = case.x[: 1 if method == "nuts" else 4]
    idata = pyrovae.sample_posterior(
        case.vae, x, method=method, warmup=150, leapfrog=5, chunk=3000, seed=1, progress=False, **settings
    )
    worth = idata["sample_stats"]["importance_ess"].values.sum(0) if method == "sir" else np.inf
    for site in ("z1", "z2"):
        draws = idata["posterior"][site]
        assert draws.dims == ("chain", "draw", "row", f"{site}_latent")
        z, mean = draws.values, case.means[site][: len(x)].numpy()
        centred = xr.Dataset({"a": (draws.dims, z - mean), "b": (draws.dims, (z - mean) ** 2)})
        for name, expected in (("a", 0.0), ("b", case.variances[site].numpy())):
            values = centred[[name]]
            size = az.ess(values, method="mean")[name].values
            size = np.minimum(size, np.reshape(worth, (-1, 1)))
            error = values[name].values.std((0, 1)) / np.sqrt(size)
            assert (np.abs(values[name].values.mean((0, 1)) - expected) < 4.5 * error).all(), (site, name)
    lp = idata["sample_stats"]["lp"].values
    assert lp.shape == (settings["num_chains"], settings["num_samples"], len(x)) and np.isfinite(lp).all()


@pytest.mark.parametrize("inference", DIRECTIONS)
@pytest.mark.parametrize("name", ["stl", "dreg"])
def test_at_the_exact_posterior_the_guide_does_not_move(name, inference):
    """Draw by draw: all that x and the layers above say is in q, so log w has no slope in any z."""
    vae, x = exact(inference).vae, exact(inference).x
    guide = [*vae.posterior.parameters(), *vae.prior.vae.posterior.parameters()]
    for estimator, still in (("iwae", False), (name, True)):
        vae.zero_grad()
        elbos.make(estimator, 3).differentiable_loss(vae.model, vae.guide, x).backward()
        assert (max(p.grad.abs().max() for p in guide) < 1e-9) == still


@pytest.mark.parametrize("inference", DIRECTIONS)
@pytest.mark.parametrize("name", ["dreg", "vimco"])
def test_mean_gradients_of_a_rough_guide_are_those_of_the_bound(name, inference):
    case = exact(inference, stretch=1.3, move=0.1)
    vae, x = case.vae, case.x[:1]
    parameters = [vae.posterior.head.bias, vae.prior.vae.posterior.head.bias, vae.prior.vae.likelihood.head.bias]

    def gradients(estimator, repeats=6000):
        torch.manual_seed(0)
        elbo = elbos.make(estimator, 3)
        rows = x.expand(repeats, -1)
        # A gradient a repeat: each row has parameters of its own.
        own = [p.detach().expand(repeats, -1).clone().requires_grad_() for p in parameters]
        heads = [vae.posterior.head, vae.prior.vae.posterior.head, vae.prior.vae.likelihood.head]

        def moved(b):
            return lambda module, inputs, y: y - module.bias + b.repeat(len(y) // repeats, 1)

        hooks = [head.register_forward_hook(moved(b)) for head, b in zip(heads, own, strict=True)]
        loss = elbo.differentiable_loss(vae.model, vae.guide, rows)
        for hook in hooks:
            hook.remove()
        return torch.cat(torch.autograd.grad(loss, own), -1)

    ours, plain = gradients(name), gradients("iwae")
    difference = ours.mean(0) - plain.mean(0)
    error = (ours.var(0) / len(ours) + plain.var(0) / len(plain)).sqrt()
    assert (difference / error).abs().max() < 4.5
    assert (plain.mean(0) / (plain.std(0) / math.sqrt(len(plain)))).abs().max() > 10  # there is something to see


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_log_marginal_of_a_rough_guide(inference):
    case = exact(inference, stretch=1.3, move=0.2)
    value, error = pyrovae.log_marginal(case.vae, case.x, num_samples=20_000, progress=False)
    assert ((value - case.log_prob) / error).abs().max() < 4 and error.max() < 0.05


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_units_of_each_layer(inference):
    case = exact(inference)
    found = unit_variances(case.vae, case.x)
    assert list(found) == ["z1", "z2"]
    for site, mean in case.means.items():
        torch.testing.assert_close(found[site], mean.var(0, correction=0), rtol=0.1, atol=0.02)
    evaluation = pyrovae.evaluate(case.vae, case.x, num_samples=50, progress=False)
    assert evaluation.units["site"].tolist() == ["z1", "z1", "z2", "z2"]
    summary = evaluation.summary()
    assert summary["active_units"] == summary["active_units_z1"] + summary["active_units_z2"] == 4
    assert "active units               4  of 4: 2 of 2 in z1, 2 of 2 in z2" in str(evaluation)
    assert summary["elbo"] == pytest.approx(float(case.log_prob.mean()), rel=1e-9)


def test_units_that_say_nothing_are_not_active():
    """A layer above that does not look at what is below has variance 0, whatever the noise of its draws."""
    case = exact("bottom_up")
    with torch.no_grad():
        case.vae.prior.vae.posterior.head.weight.zero_()
    found = unit_variances(case.vae, case.x)
    assert found["z2"].max() < 1e-12 < 0.1 < found["z1"].min()


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_draws_have_the_moments_of_the_chain(inference):
    case = exact(inference)
    torch.manual_seed(0)
    for z in (case.vae.sample_latent(40_000), Predictive(case.vae.model, num_samples=1)(size=40_000)["z1"][0]):
        torch.testing.assert_close(z.mean(0), SHIFT, atol=0.04, rtol=0)
        torch.testing.assert_close(z.var(0), ABOVE.square() + NOISE**2, atol=0, rtol=0.05)
    draws = Predictive(case.vae.guide, num_samples=4000, parallel=True)(case.x)
    for site, mean in case.means.items():
        z = draws[site]
        score = (z.mean(0) - mean) / (z.std(0) / math.sqrt(len(z)))
        assert score.abs().max() < 4.5


def test_sites_and_handlers():
    case = exact("top_down")
    assert case.vae.sites == ("z1", "z2") and VAE((3,), 2).sites == ("z",)
    known = poutine.condition(case.vae.model, {"z2": torch.zeros(ROWS, K, dtype=FLOAT64)})
    trace = poutine.trace(known).get_trace(case.x)
    assert trace.nodes["z1"]["fn"].mean.allclose(SHIFT)
    torch.manual_seed(0)
    mcmc = MCMC(NUTS(case.vae.model, max_tree_depth=4), num_samples=60, warmup_steps=40, disable_progbar=True)
    mcmc.run(case.x[:2])
    assert ((mcmc.get_samples()["z1"].mean(0) - case.means["z1"][:2]).abs() < 0.5).all()


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_three_layers_train_and_are_saved(inference, tmp_path, same):
    torch.manual_seed(0)
    x = torch.bernoulli(torch.rand(80, 1, 8, 8).round() * 0.9)
    vae = VAE(
        (1, 8, 8), [6, 4, 2], prior="vamp(components=5)", encoder="conv(channels=[3, 3])", inference=inference,
        decoder=["mlp(hidden=[16])", "mlp(hidden=[8])", None],
    )  # fmt: skip
    assert vae.sites == ("z1", "z2", "z3") and [v.latent_dim for v in hierarchy.above(vae)] == [4, 2]
    before = copy.deepcopy(vae.state_dict())
    history = pyrovae.fit(vae, x, epochs=4, validation=x, elbo="dreg", num_particles=3, lr=5e-3, progress=False)
    assert history["objective"].iloc[-1] > history["objective"].iloc[0]
    assert all(not torch.equal(value, before[key]) for key, value in vae.state_dict().items() if value.ndim)
    loaded = pyrovae.load(pyrovae.save(vae, tmp_path))
    assert same(loaded, vae) and loaded.sites == vae.sites and loaded.inference == inference
    ours, theirs = (pyrovae.log_marginal(v, x, num_samples=20, progress=False).value for v in (vae, loaded))
    assert torch.equal(ours, theirs)
    idata = pyrovae.to_inference_data(vae, x, num_samples=3)
    assert idata["posterior"]["z3"].shape == idata["posterior"]["z3"].shape == (1, 3, 80, 2)
    assert np.isfinite(idata["sample_stats"]["log_weight"].values).all()
    assert vae.sample(5).shape == vae.reconstruct(x[:5]).shape == (5, 1, 8, 8)
    for plot in (plots.plot_traversal, plots.plot_latent):
        assert plot(vae, x).axes


@pytest.mark.parametrize("condition_on", [("encoder", "decoder"), ("encoder",)])
def test_layers_and_a_condition(condition_on):
    torch.manual_seed(0)
    x, c = torch.randn(30, 3), torch.randn(30, 2)
    vae = VAE((3,), [3, 2], likelihood="gaussian", prior="conditional", condition_dim=2, condition_on=condition_on)
    pyrovae.fit(vae, x, c, epochs=2, progress=False)
    assert all(p.grad is not None for p in vae.parameters())
    assert not torch.equal(vae.sample_latent(2, c[:1]).mean(0), vae.sample_latent(2, c[1:2]).mean(0))
    assert vae.sample(4, c[:4]).shape == (4, 3)


def test_a_vae_is_a_prior():
    """The layers above may be a VAE of any kind: one built apart, of other pieces."""
    torch.manual_seed(0)
    above = VAE((2,), 3, likelihood="laplace", prior="mixture(components=2)", posterior="full_rank")
    vae = VAE((4,), 2, likelihood="gaussian", prior=above, posterior="student_t")
    optim = pyrovae.training.optimizers.Joint(torch.optim.Adam(vae.parameters(), 1e-3))
    assert math.isfinite(SVI(vae.model, vae.guide, optim, elbos.IWAE(5)).step(torch.randn(9, 4)))
    with pytest.raises(ValueError, match="top_down: expected layers of independent normals"):
        VAE((4,), [2, 2], posterior="student_t", inference="top_down", likelihood="gaussian").guide(torch.randn(3, 4))


def test_what_is_refused():
    x = torch.randn(5, 4)
    with pytest.raises(ValueError, match=r"a VAE whose data are z, event_shape \(3,\), got \(2,\)"):
        VAE((4,), 3, prior=VAE((2,), 2, likelihood="gaussian"))
    with pytest.raises(ValueError, match="expected a VAE of condition_dim 0 or 0, got 2"):
        VAE((4,), 3, prior=VAE((3,), 2, likelihood="gaussian", condition_dim=2))
    with pytest.raises(ValueError, match="encoder: expected one for each of the 2 layers, got 1"):
        VAE((4,), [3, 2], encoder=["mlp"])
    with pytest.raises(ValueError, match="posterior: expected a name, or a list of 2"):
        VAE((4,), [3, 2], posterior=pyrovae.posteriors.Normal())
    with pytest.raises(ValueError, match="unknown inference 'up'"):
        VAE((4,), [3, 2], inference="up")
    with pytest.raises(ValueError, match="latent_dim: expected a whole number of at least 1, got 0"):
        VAE((4,), [3, 0])
    with pytest.raises(ValueError, match="latent_dim: expected a whole number of at least 1, got 0"):
        VAE((4,), [])
    with pytest.raises(ValueError, match="refined: expected one layer of latents"):
        VAE((4,), [3, 2], posterior="refined(steps=1)", likelihood="gaussian")
    vae = VAE((4,), [3, 2], likelihood="gaussian")
    with pytest.raises(ValueError, match="ais: expected several layers of numbers or positive numbers, got one on the"):
        pyrovae.ais(VAE((4,), [3, 2], prior="dirichlet", likelihood="gaussian"), torch.zeros(2, 4), num_steps=2)
    with pytest.raises(ValueError, match="expected a model with one latent site, got 'z1', 'z2'"):
        pyrovae.fit(vae, x, elbo="free_bits", epochs=1, progress=False)
