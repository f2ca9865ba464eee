"""A VAE's decoder inside of other Pyro models: names, plates, frozen weights, and posteriors in closed form."""

import copy

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn

from pyrovae import VAE, as_prior

NOISE = 0.4
SEEN = [0, 2, 3]


@pytest.fixture
def part(linear):
    """A linear-Gaussian VAE, a model of some columns of its mean, and the exact posterior of z given these."""
    exact = linear(n=1, d=6, k=2)
    field = as_prior(exact.vae)
    y = exact.rows[0, SEEN]

    def model(y):
        mean = field("field")
        pyro.sample("y", dist.Normal(mean[..., SEEN], NOISE).to_event(1), obs=y)

    weight, bias = exact.truth.weight[SEEN], exact.truth.bias[SEEN]
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + weight.T @ weight / NOISE**2)
    return exact.vae, model, y, covariance @ weight.T @ (y - bias) / NOISE**2, covariance


def test_nuts_finds_the_posterior_of_a_part(part):
    _, model, y, mean, covariance = part
    mcmc = MCMC(NUTS(model), num_samples=200, warmup_steps=120, disable_progbar=True)
    mcmc.run(y)
    z = mcmc.get_samples()["field_z"]
    centred = (z - mean).numpy()
    products = (centred[:, :, None] * centred[:, None] - covariance.numpy()).reshape(-1, 4)[:, [0, 1, 3]]
    for values in np.concatenate([centred, products], 1).T:
        size = float(az.ess(np.stack([values[:100], values[100:]]), method="mean"))
        assert size > 50 and abs(values.mean()) < 4 * values.std() / size**0.5


def test_an_autoguide_finds_it_too_and_no_weight_moves(part, same):
    vae, model, y, mean, covariance = part
    before = copy.deepcopy(vae)
    guide = AutoMultivariateNormal(model)
    optim = pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.97})
    svi = SVI(model, guide, optim, Trace_ELBO(num_particles=256, vectorize_particles=True))
    for step in range(300):
        svi.step(y)
        if step >= 150:
            optim.step()
    found = guide.get_posterior()
    sd = covariance.diagonal().sqrt()
    assert ((found.mean - mean).abs() < 0.03 * sd).all()
    assert ((found.covariance_matrix - covariance).abs() < 0.05 * sd[:, None] * sd).all()
    assert same(vae, before) and all(p.grad is None and p.requires_grad for p in vae.parameters())
    assert all(name.startswith("AutoMultivariateNormal") for name in pyro.get_param_store())


def log_joint(model, z, *arguments):
    trace = poutine.trace(poutine.condition(model, {"field_z": z})).get_trace(*arguments)
    return trace.log_prob_sum()


def test_compressed_sensing_and_inpainting_are_the_densities_written_out(linear):
    exact = linear(n=1, d=6, k=2)
    field, measure = as_prior(exact.vae), torch.randn(3, 6, dtype=torch.float64)
    mask = torch.tensor([True, False, True, True, False, False])

    def compressed(y):
        pyro.sample("y", dist.Normal(field("field") @ measure.T, NOISE).to_event(1), obs=y)

    def inpainted(x):
        with pyro.plate("columns", 6), poutine.mask(mask=mask):
            pyro.sample("x", dist.Normal(mean, NOISE), obs=x)

    def inpainting(x):
        nonlocal mean
        mean = field("field")
        inpainted(x)

    mean = None
    z, x = torch.randn(2, dtype=torch.float64), exact.rows[0]
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
    decoded = exact.truth.weight @ z + exact.truth.bias
    y = measure @ x
    expected = prior + torch.distributions.Normal(measure @ decoded, NOISE).log_prob(y).sum()
    assert torch.allclose(log_joint(compressed, z, y), expected, atol=1e-10)
    expected = prior + torch.distributions.Normal(decoded, NOISE).log_prob(x)[mask].sum()
    assert torch.allclose(log_joint(inpainting, z, x), expected, atol=1e-10)


def test_plates_and_particles_give_the_shape(tiny):
    field = as_prior(tiny(event_shape=(1, 4, 4), likelihood="bernoulli"))

    def model():
        one = field("one")
        with pyro.plate("rows", 5, dim=-1):
            rows = field("rows")
            with pyro.plate("groups", 3, dim=-2):
                both = field("both")
        return one, rows, both

    one, rows, both = model()
    assert (one.shape, rows.shape, both.shape) == ((1, 4, 4), (5, 1, 4, 4), (3, 5, 1, 4, 4))
    assert len(rows.flatten(1).unique(dim=0)) == 5 and len(both.flatten(2).unique(dim=0)) == 3
    trace = poutine.trace(model).get_trace()
    assert [name for name in trace.nodes if name.endswith("_z")] == ["one_z", "rows_z", "both_z"]
    with pyro.plate("particles", 7, dim=-3):
        one, rows, both = model()
    assert (one.shape[-3:], rows.shape[-4:], both.shape) == ((1, 4, 4), (5, 1, 4, 4), (7, 3, 5, 1, 4, 4))
    assert len(one) == len(rows) == 7
    draws = Predictive(model, num_samples=11, parallel=False)()
    assert draws["both_z"].shape == (11, 3, 5, 2) and len(draws["one_z"].flatten(1).unique(dim=0)) == 11


def test_draws_are_those_of_the_vae(linear):
    exact = linear(d=4, k=2)

    def model():
        with pyro.plate("rows", 20_000):
            return as_prior(exact.vae)("field")

    y = model()
    covariance = exact.truth.weight @ exact.truth.weight.T
    assert torch.allclose(torch.cov(y.T), covariance, atol=5 * covariance.max().item() * (2 / 20_000) ** 0.5)
    assert torch.allclose(y.mean(0), exact.truth.bias, atol=5 * (covariance.max().item() / 20_000) ** 0.5)


@pytest.mark.parametrize("prior", ["gamma", "dirichlet", "flow", "vamp", "mixture", "hyperspherical"])
def test_z_has_the_prior_and_the_support_of_the_vae(tiny, prior):
    posterior = "power_spherical" if prior == "hyperspherical" else "normal"
    vae = tiny(prior=prior, posterior=posterior)
    field = as_prior(vae)
    trace = poutine.trace(lambda: field("field")).get_trace()
    site = trace.nodes["field_z"]
    z = site["value"]
    support = vae.prior.example().support
    assert support.check(z).all() and str(site["fn"].support) == str(support)
    trace.compute_log_prob()
    with torch.no_grad():
        assert torch.allclose(site["log_prob"], vae.prior(None, None).log_prob(z), atol=1e-5)
        assert torch.allclose(trace.nodes["_RETURN"]["value"], vae.decode(z).mean, atol=1e-6)


@pytest.mark.parametrize("prior", ["normal(learned=True)", "flow"])
def test_frozen_weights_take_no_gradient_and_keep_their_mode(tiny, prior):
    decoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
    vae = tiny(prior=prior, decoder=decoder).train()
    vae.posterior.eval()
    modes = [m.training for m in vae.modules()]
    field = as_prior(vae)

    def model(y):
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Normal(field("field"), 1.0).to_event(1), obs=y)

    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    y, buffers = torch.randn(4, 3), copy.deepcopy(list(vae.buffers()))
    for _ in range(2):
        svi.step(y)
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    assert all(p.grad is None for p in field.vae.parameters())
    assert [m.training for m in vae.modules()] == modes and any(modes) and not all(modes)
    assert all(torch.equal(a, b) for a, b in zip(buffers, vae.buffers(), strict=True))
    assert all(name.startswith("AutoNormal") for name in pyro.get_param_store())
    z = torch.randn(4, 2)
    means = [poutine.trace(poutine.condition(model, {"field_z": z})).get_trace(y) for _ in range(2)]
    assert torch.equal(*(t.nodes["y"]["fn"].base_dist.loc for t in means)), "dropout is on"
    with torch.no_grad():
        vae.likelihood.head.bias.add_(1.0)
    after = poutine.trace(poutine.condition(model, {"field_z": z})).get_trace(y)
    assert torch.equal(after.nodes["y"]["fn"].base_dist.loc, means[0].nodes["y"]["fn"].base_dist.loc)


def test_weights_are_trained_when_asked(tiny):
    vae, other = tiny(), tiny(seed=1)
    before = copy.deepcopy(vae)
    field, second = as_prior(vae, train=True), as_prior(other, train=True)

    def model(y):
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Normal(field("a") + second("b"), 1.0).to_event(1), obs=y)

    svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(torch.randn(4, 3))
    names = [name for name in pyro.get_param_store() if name.startswith("vae_")]
    assert len(names) == len(set(names)) == len([*vae.parameters(), *other.parameters()])
    head, old = vae.likelihood.head.weight, before.likelihood.head.weight
    assert not torch.equal(head, old) and not torch.equal(
        other.likelihood.head.weight, tiny(seed=1).likelihood.head.weight
    )


def test_layers_and_two_fields_have_names_of_their_own(tiny):
    field = as_prior(tiny(latent_dim=[3, 2]))
    assert field.sites("a") == ("a_z1", "a_z2")

    def model():
        with pyro.plate("rows", 5):
            return field("a") - field("b")

    trace = poutine.trace(model).get_trace()
    assert {"a_z1", "a_z2", "b_z1", "b_z2"} <= set(trace.nodes)
    assert trace.nodes["a_z1"]["value"].shape == (5, 3) and trace.nodes["a_z2"]["value"].shape == (5, 2)
    assert trace.nodes["_RETURN"]["value"].shape == (5, 3) and torch.isfinite(trace.log_prob_sum())


def test_a_class_is_summed_out_around_a_field(linear):
    exact = linear(d=3, k=2)
    field = as_prior(exact.vae)
    shift = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    y = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    z = torch.tensor([0.5, -1.0], dtype=torch.float64)

    def model():
        k = pyro.sample("k", dist.Categorical(torch.ones(3, dtype=torch.float64)), infer={"enumerate": "parallel"})
        loc = field("field") + shift[k][..., None]
        pyro.sample("y", dist.Normal(loc, NOISE).to_event(1), obs=y)

    def guide():
        pyro.sample("field_z", dist.Delta(z, event_dim=1))

    loss = TraceEnum_ELBO(max_plate_nesting=0).loss(model, guide)
    decoded = exact.truth.weight @ z + exact.truth.bias
    each = torch.distributions.Normal(decoded + shift[:, None], NOISE).log_prob(y).sum(-1) - np.log(3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum() + each.logsumexp(0)
    assert -loss == pytest.approx(expected.item(), abs=1e-9)


def test_conditions_and_labels(tiny):
    vae = tiny(condition_dim=3)
    field, z = as_prior(vae), torch.randn(5, 2)

    def at(condition, field=field):
        def model():
            with pyro.plate("rows", 5):
                return field("field", condition)

        return poutine.condition(model, {"field_z": z})()

    classes = torch.tensor([0, 2, 1, 1, 0])
    with torch.no_grad():
        expected = vae.decode(z, classes).mean
        assert torch.allclose(at(classes), expected) and torch.allclose(at(torch.eye(3)[classes]), expected)
        assert torch.allclose(at(torch.eye(3)[1]), vae.decode(z, torch.eye(3)[[1]]).mean)
        assert torch.allclose(at(1), at(torch.eye(3)[1])) and not torch.allclose(at(1), at(2))
        labelled = tiny(label=3)
        assert torch.allclose(at(classes, as_prior(labelled)), labelled.decode(z, classes).mean)
    slope = torch.randn(5, 3, requires_grad=True)
    assert torch.autograd.grad(at(slope).sum(), slope)[0].abs().sum() > 0
    image = VAE((3,), 2, likelihood="gaussian", condition_shape=(1, 4, 4))
    pictures = torch.rand(5, 1, 4, 4)
    with torch.no_grad():
        assert torch.allclose(at(pictures, as_prior(image)), image.eval().decode(z, pictures).mean, atol=1e-6)


def test_the_likelihood_itself(tiny):
    vae = tiny(likelihood="bernoulli")
    field, x = as_prior(vae, gives="likelihood"), torch.tensor([[1.0, 0.0, 1.0]] * 4)

    def model():
        with pyro.plate("rows", 4):
            pyro.sample("x", field("field"), obs=x)

    z = torch.randn(4, 2)
    found = poutine.trace(poutine.condition(model, {"field_z": z})).get_trace().log_prob_sum()
    with torch.no_grad():
        expected = vae.decode(z).log_prob(x).sum() + vae.prior(None, None).log_prob(z).sum()
    assert torch.allclose(found, expected)


def test_what_it_refuses(tiny):
    with pytest.raises(ValueError, match="gives"):
        as_prior(tiny(), gives="mode")
    with pytest.raises(ValueError, match="expected a VAE, got Linear"):
        as_prior(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="prior of independent rows"):
        as_prior(tiny(prior="gp", condition_dim=1))
    with pytest.raises(ValueError, match="a mean that moves with z"):
        as_prior(tiny(likelihood="categorical(classes=3)"))
    field = as_prior(tiny())
    for name in ("", None, 3):
        with pytest.raises(ValueError, match="name: expected a text"):
            field(name)
    with pytest.raises(ValueError, match="condition: expected None"):
        field("a", torch.zeros(2))
    conditional = as_prior(tiny(condition_dim=2))
    for wrong in (None, torch.zeros(3), torch.tensor([0.0, torch.nan]), torch.tensor(5)):
        with pytest.raises(ValueError, match=r"condition|labels"):
            conditional("a", wrong)
    labelled = as_prior(tiny(label=3))
    for missing in (None, -1, torch.tensor([0, -1])):
        with pytest.raises(ValueError, match="expected the label of each row"):
            labelled("a", missing)

    def twice():
        return field("a") + field("a")

    with pytest.raises(ValueError, match="name: expected one for each field .* 'a' for a second time"):
        poutine.trace(twice).get_trace()
