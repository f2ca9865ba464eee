"""Regularised ELBOs: their penalties against formulas written out again, and all that must not change them."""

import copy
import dataclasses
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer, poutine
from pyro.infer import SVI, Trace_ELBO
from scipy.stats import norm
from torch import nn
from torch.distributions import kl_divergence

from pyrovae import VAE, elbos, fit
from pyrovae.elbos import (
    DIP,
    Capacity,
    Contractive,
    FactorVAE,
    FreeBits,
    InfoVAE,
    KLWeight,
    MeanField,
    TotalCorrelation,
)
from pyrovae.elbos.draws import draw
from pyrovae.elbos.regularized.latent import Latent

import swaps  # isort: skip

X = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
MEMBERS = {
    "free_bits": FreeBits,
    "capacity": Capacity,
    "total_correlation": TotalCorrelation,
    "factor_vae": FactorVAE,
    "dip": DIP,
    "info_vae": InfoVAE,
    "contractive": Contractive,
}
SPECS = [
    "free_bits(nats=0.3)", "capacity(nats=2, gamma=3)", "total_correlation(beta=4)",
    "total_correlation(alpha=0.5, beta=2, gamma=3, sampling=weighted)", "factor_vae(hidden=[8])", "dip(kind=i)",
    "dip(kind=ii, diagonal=2)", "info_vae(alpha=0.5, weight=20)", "info_vae(kernel=rbf, scale=0.5)",
    "contractive(weight=2)",
]  # fmt: skip
# Each at the weights that leave the ELBO, and the plain estimator that it then is, draw by draw.
PLAIN = {
    "free_bits(nats=0)": MeanField,
    "total_correlation(beta=1)": Trace_ELBO,
    "total_correlation(beta=1, sampling=weighted)": Trace_ELBO,
    "factor_vae(gamma=0)": MeanField,
    "dip(diagonal=0, off_diagonal=0)": MeanField,
    "info_vae(weight=1)": MeanField,
    "capacity(nats=0, gamma=1)": MeanField,
    "contractive(weight=0)": MeanField,
}


def latent_of(vae, x, particles=1, seed=0, **kwargs):
    """What an estimator makes its penalty of."""
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    draws = draw(vae.model, vae.guide, (x,), kwargs, particles, 1)
    return Latent(dataclasses.replace(draws, inputs=x), "a test")


def loss_of(loss, vae, x=X, seed=0, **kwargs):
    torch.manual_seed(seed)
    return loss.loss(vae.model, vae.guide, x, **kwargs)


def normal(vae, x):
    """Means and standard deviations of a normal posterior."""
    q = vae.encode(x).base_dist
    return q.loc, q.scale


def spread(vae, gain=4.0):
    """The same VAE with a posterior that says more of x."""
    with torch.no_grad():
        vae.posterior.head.weight.mul_(gain)
    return vae


# All of them


def test_names():
    assert {name: elbos.FAMILY[name] for name in MEMBERS} == MEMBERS
    for name, member in MEMBERS.items():
        loss = elbos.make(name, 3)
        assert type(loss) is member and loss.num_particles == 3 and loss.max_plate_nesting == 1
        assert elbos.is_regularizable(loss)
    assert not elbos.is_regularizable(elbos.IWAE(2))


@pytest.mark.parametrize("spec", PLAIN)
@pytest.mark.parametrize("particles", [1, 4])
def test_without_regularisation_it_is_the_plain_elbo(tiny, spec, particles):
    """To rounding at the same draws, of a batch and of a subsample, in value and in gradient."""
    vae = spread(tiny().double())
    x = X.double()
    reference = PLAIN[spec](num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    for size in (9, 90):
        gradients, values = [], []
        for loss in (elbos.make(spec, particles), reference):
            vae.zero_grad()
            torch.manual_seed(3)
            values.append(loss.loss_and_grads(vae.model, vae.guide, x, size=size))
            gradients.append([p.grad.clone() for p in vae.parameters()])
        assert values[0] == pytest.approx(values[1], rel=1e-12)
        for ours, theirs in zip(*gradients, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_where_there_is_no_closed_form_the_mean_is_that_of_the_plain_elbo(tiny):
    """A mixture for a prior: within 4 standard errors, with other draws."""
    vae = tiny(prior="mixture(components=2)")
    for make in (partial(Capacity, nats=0, gamma=1), partial(InfoVAE, weight=1)):
        ours = np.array([loss_of(make(16), vae, seed=i) for i in range(30)])
        plain = elbos.make("elbo", 16)
        theirs = np.array([loss_of(plain, vae, seed=i) for i in range(30, 60)])
        assert abs(ours.mean() - theirs.mean()) < 4 * math.sqrt((ours.var() + theirs.var()) / 30)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("particles", [1, 3])
def test_the_loss_is_reconstruction_and_penalty_and_a_subsample_scales_both(tiny, spec, particles):
    vae = spread(tiny().double())
    x, loss = X.double(), elbos.make(spec, particles)
    if isinstance(loss, TotalCorrelation):
        loss.num_rows = 90
    latent = latent_of(vae, x, particles)
    state = torch.get_rng_state()
    penalty = loss.penalty(latent)
    expected = 9 * penalty - vae.decode(latent.z).log_prob(x).mean(0).sum()
    torch.set_rng_state(state)
    whole = loss_of(loss, vae, x)
    assert whole == pytest.approx(expected.item(), rel=1e-10)
    assert loss_of(loss, vae, x, size=90) == pytest.approx(10 * whole, rel=1e-10)
    scaled = [poutine.scale(program, 0.25) for program in (vae.model, vae.guide)]
    torch.manual_seed(0)
    assert loss.loss(*scaled, x) == pytest.approx(0.25 * whole, rel=1e-10)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
def test_a_weight_on_the_kl_multiplies_the_penalty(tiny, spec, weight):
    vae = spread(tiny().double())
    x, loss = X.double(), elbos.make(spec)
    if isinstance(loss, TotalCorrelation):
        loss.num_rows = 18
    handler = KLWeight(weight)
    torch.manual_seed(0)
    got = loss.loss(handler(vae.model), handler(vae.guide), x, size=18)
    latent = latent_of(vae, x)
    reconstruction = vae.decode(latent.z).log_prob(x).sum().item()
    assert got / 2 + reconstruction == pytest.approx(weight * (loss_of(loss, vae, x) + reconstruction), abs=1e-9)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_reach_every_parameter(tiny, spec, dtype):
    """They are those of `differentiable_loss`, finite, and of the dtype of the model."""
    vae = spread(tiny(prior="normal(learned=True)").to(dtype))
    loss = elbos.make(spec, 2)
    if isinstance(loss, FactorVAE):
        loss.learn(latent_of(vae, X.to(dtype)).z)
    torch.manual_seed(1)
    expected = copy.deepcopy(loss).differentiable_loss(vae.model, vae.guide, X.to(dtype))
    assert expected.dtype == dtype
    gradients = torch.autograd.grad(expected, list(vae.parameters()))
    torch.manual_seed(1)
    value = loss.loss_and_grads(vae.model, vae.guide, X.to(dtype))
    assert value == pytest.approx(expected.item(), rel=1e-6)
    for (name, parameter), gradient in zip(vae.named_parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient) and torch.isfinite(gradient).all(), name
        assert gradient.any(), name


def test_the_gradient_is_the_slope_of_the_loss(linear):
    """By central differences, at the same draws, through every number of the posterior."""
    exact = linear(n=7, k=2, shift=0.3)
    head = exact.vae.posterior.head.bias
    for spec in SPECS:
        loss = elbos.make(spec)
        if isinstance(loss, FactorVAE):
            for _ in range(3):
                loss.learn(latent_of(exact.vae, exact.x).z)
        torch.manual_seed(0)
        value = copy.deepcopy(loss).differentiable_loss(exact.vae.model, exact.vae.guide, exact.x)
        (gradient,) = torch.autograd.grad(value, head)
        for i in range(len(head)):
            ends = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    head[i] += step
                ends.append(loss_of(loss, exact.vae, exact.x))
                with torch.no_grad():
                    head[i] -= step
            assert gradient[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-4), spec


@pytest.mark.parametrize("name", MEMBERS)
def test_bare_pyro(tiny, name):
    """A model and a guide written out, whose rows lie in two plates and whose dimensions in a third."""
    x = torch.randn(2, 3, 4, 5)
    scale = torch.nn.Parameter(torch.full((4,), 0.5))

    def model(x):
        with pyro.plate("a", 2, dim=-3), pyro.plate("b", 3, dim=-2):
            with pyro.plate("d", 4, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z[..., None] + torch.zeros(5), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.param("scale", scale)
        with pyro.plate("a", 2, dim=-3), pyro.plate("b", 3, dim=-2), pyro.plate("d", 4, dim=-1):
            pyro.sample("z", dist.Normal(x.mean(-1), scale))

    loss = elbos.make(name)
    loss.max_plate_nesting = 3
    latent = Latent(draw(model, guide, (x,), {}, 2, 3), "a test")
    # All three plates hold every site, so that all are rows.
    assert latent.z.shape == (2, 24, 1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss=loss)
    before = scale.detach().clone()
    assert all(math.isfinite(svi.step(x)) for _ in range(3))
    assert (scale != before).all()


def test_plates_that_are_no_rows_are_dimensions():
    """z of 4 independent elements in a plate, and as one event: the same latent, between all rows too."""
    x = torch.randn(3, 5)
    loc, scale = torch.randn(3, 4), torch.rand(3, 4) + 0.2

    def plated(x):
        with pyro.plate("b", 3, dim=-2), pyro.plate("d", 4, dim=-1):
            pyro.sample("z", dist.Normal(loc, scale))

    def model(x):
        with pyro.plate("b", 3, dim=-2):
            with pyro.plate("d", 4, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.sum(-1)[..., None, None] + torch.zeros(5), 1.0).to_event(1), obs=x[:, None])

    def event(x):
        with pyro.plate("b", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1)[..., None] + torch.zeros(5), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("b", 3, dim=-1):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    made = []
    for pair, nesting in (((event, guide), 1), ((model, plated), 2)):
        torch.manual_seed(0)
        made.append(Latent(draw(*pair, (x,), {}, 2, nesting), "a test"))
    ours, theirs = made
    assert ours.z.shape == theirs.z.shape == (2, 3, 4)
    for name in ("z", "kl", "kl_by_dim", "log_q"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-6), name
    expected = dist.Normal(loc, scale).log_prob(ours.z.unsqueeze(2))
    assert torch.allclose(ours.log_q_between(), expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(theirs.log_q_between(), expected, rtol=1e-5, atol=1e-5)


# Free bits and capacity


@pytest.mark.parametrize("nats", [0.0, 0.1, 0.5, 3.0])
def test_free_bits_by_hand(tiny, nats):
    vae = spread(tiny(latent_dim=4).double())
    mean, sd = (t.detach().numpy() for t in normal(vae, X.double()))
    by_dim = (0.5 * (mean**2 + sd**2 - 1) - np.log(sd)).mean(0)
    assert by_dim.min() < 0.5 < by_dim.max(), "one on each side"
    got = FreeBits(nats=nats).penalty(latent_of(vae, X.double())).item()
    assert got == pytest.approx(np.maximum(nats, by_dim).sum(), rel=1e-12)


def test_dimensions_with_fewer_nats_have_no_gradient(tiny):
    vae = spread(tiny(latent_dim=4).double())
    latent = latent_of(vae, X.double())
    enough = latent.kl_by_dim.mean((0, 1)) > 0.5
    FreeBits(nats=0.5).penalty(latent).backward()
    slope = vae.posterior.head.bias.grad.reshape(2, 4)
    assert ((slope != 0).all(0) == enough).all() and 0 < enough.sum() < 4


def test_kl_by_dimension_where_torch_knows_none(tiny):
    """Carried to positive numbers, and of another family: at the draws, with the sum that the sites have."""
    for prior, posterior in (("gamma", "normal"), ("uniform", "normal"), ("student_t", "laplace")):
        vae, (x, _) = swaps.build(prior, posterior, dtype=torch.float64)
        latent = latent_of(vae, x, 3)
        assert torch.allclose(latent.kl_by_dim.sum(-1), latent.log_q - latent.log_p, rtol=1e-9)
    vae, (x, _) = swaps.build("gamma", "gamma", dtype=torch.float64)
    latent = latent_of(vae, x)
    closed = kl_divergence(vae.encode(x).base_dist, vae.prior().base_dist)
    assert torch.allclose(latent.kl_by_dim, closed.expand_as(latent.z))
    assert torch.allclose(latent.kl, closed.sum(-1).expand_as(latent.kl))


def test_capacity_by_hand_and_its_rise(tiny):
    vae = spread(tiny().double())
    kl = latent_of(vae, X.double()).kl.mean().item()
    for nats, gamma, steps in ((25.0, 100.0, 0), (0.5 * kl, 2.0, 0), (kl, 7.0, 0), (8.0, 3.0, 4)):
        loss = Capacity(nats=nats, gamma=gamma, steps=steps)
        for step in range(6):
            capacity = nats if steps == 0 else nats * min(1, step / steps)
            assert loss.capacity == pytest.approx(capacity, rel=1e-12)
            expected = gamma * abs(kl - capacity)
            for _ in range(2):  # an evaluation is no step
                loss_of(loss, vae, X.double())
                assert loss.penalty(latent_of(vae, X.double())).item() == pytest.approx(expected, rel=1e-12, abs=1e-9)
            torch.manual_seed(0)
            loss.loss_and_grads(vae.model, vae.guide, X.double())
        assert copy.copy(loss).capacity == (0 if steps else nats), "a copy begins anew"


def test_capacity_is_where_the_kl_goes(tiny):
    vae = tiny()
    history = fit(vae, X, elbo="capacity(nats=3, gamma=100)", epochs=150, batch_size=9, lr=0.02, progress=False)
    assert latent_of(vae, X).kl.mean().item() == pytest.approx(3.0, abs=0.2)
    assert history["objective"].iloc[-1] == pytest.approx(history["reconstruction"].iloc[-1], abs=20)


# Total correlation


def exact_parts(mean, sd, z):
    """Index-code information, total correlation and KL of each dimension at draws ``(K, B, D)``, by scipy."""
    mixture = np.stack([norm.pdf(z, m, s).prod(-1) for m, s in zip(mean, sd, strict=True)], -1)
    log_q = np.log(np.einsum("kii->ki", mixture))
    joint = np.log(mixture.mean(-1))
    product = np.log(norm.pdf(z[:, :, None], mean, sd).mean(2)).sum(-1)
    log_p = norm.logpdf(z).sum(-1)
    return (log_q - joint).mean(), (joint - product).mean(), (product - log_p).mean()


@pytest.mark.parametrize("particles", [1, 5])
def test_parts_of_a_batch_that_is_all_data_are_those_of_the_exact_mixture(tiny, particles):
    vae = spread(tiny().double())
    latent = latent_of(vae, X.double(), particles)
    mean, sd = (t.detach().numpy() for t in normal(vae, X.double()))
    expected = exact_parts(mean, sd, latent.z.detach().numpy())
    parts = TotalCorrelation().parts(latent)
    assert [p.item() for p in parts] == pytest.approx(expected, rel=1e-10)
    assert sum(parts).item() == pytest.approx((latent.log_q - latent.log_p).mean().item(), rel=1e-12)
    got = TotalCorrelation(alpha=2.0, beta=5.0, gamma=0.5).penalty(latent).item()
    assert got == pytest.approx(2 * expected[0] + 5 * expected[1] + 0.5 * expected[2], rel=1e-10)


def test_the_parts_are_divergences_in_the_mean(tiny):
    """Over 4000 draws a row: none below 0, and their sum the closed-form KL within 4 standard errors."""
    vae = spread(tiny().double())
    latent = latent_of(vae, X.double(), 4000)
    parts = TotalCorrelation().parts(latent)
    assert all(p > 0 for p in parts)
    error = (latent.log_q - latent.log_p).mean(1).std() / math.sqrt(4000)
    assert abs(sum(parts) - latent.kl.mean()) < 4 * error
    assert parts.mutual_information < math.log(9), "no more than the number of the row"


@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_a_batch_of_many_rows_by_a_double_loop(tiny, sampling):
    """9 of 1000 rows; the weights written out for each pair."""
    vae = spread(tiny().double())
    latent = latent_of(vae, X.double(), size=1000)
    assert latent.all_rows == 1000
    mean, sd = (t.detach().numpy() for t in normal(vae, X.double()))
    z = latent.z[0].detach().numpy()
    joint, product = np.zeros(9), np.zeros(9)
    for i in range(9):
        weights = [1 / 9000 if sampling == "weighted" else 1 / 1000 if i == j else 999 / 8000 for j in range(9)]
        densities = [norm.pdf(z[i], mean[j], sd[j]) for j in range(9)]
        joint[i] = np.log(sum(w * d.prod() for w, d in zip(weights, densities, strict=True)))
        product[i] = np.log(sum(w * d for w, d in zip(weights, densities, strict=True))).sum()
    got = TotalCorrelation(sampling=sampling).parts(latent)
    assert got.total_correlation.item() == pytest.approx((joint - product).mean(), rel=1e-10)
    by_hand = TotalCorrelation(sampling=sampling, num_rows=1000).parts(latent_of(vae, X.double()))
    assert by_hand.total_correlation.item() == pytest.approx((joint - product).mean(), rel=1e-10)


def test_stratified_batches_have_the_right_aggregate_posterior_in_the_mean(tiny):
    """Over all batches of 3 of 6 rows that have row 0: the mean of q(z) at its draw is the whole mixture's."""
    vae = spread(tiny().double())
    x = X[:6].double()
    mean, sd = normal(vae, x)
    z = mean[0] + 0.3
    densities = dist.Normal(mean, sd).to_event(1).log_prob(z).exp()
    weights = TotalCorrelation()._log_weights(latent_of(vae, x[:3], size=6)).exp()[0].double()
    batches = [[0, i, j] for i in range(1, 6) for j in range(1, 6) if i != j]
    values = torch.stack([(weights * densities[batch]).sum() for batch in batches])
    assert values.mean().item() == pytest.approx(densities.mean().item(), rel=1e-6)


def test_more_rows_than_the_batch_in_fit(tiny):
    """fit tells how many rows there are; what the user says goes."""
    seen = []

    class Spy(TotalCorrelation):
        def penalty(self, latent):
            seen.append((self.num_rows, latent.rows))
            return super().penalty(latent)

    fit(tiny(), X, elbo=Spy(), epochs=1, batch_size=4, progress=False)
    assert seen == [(9, 4), (9, 5)]
    fit(tiny(), X, elbo=Spy(num_rows=500), epochs=1, batch_size=9, progress=False)
    assert seen[2:] == [(500, 9)]


# FactorVAE


def correlated(rho, rows, generator):
    """Draws of a normal pair whose correlation is rho, and a third element of its own."""
    noise = torch.randn(rows, 3, generator=generator)
    return torch.stack([noise[:, 0], rho * noise[:, 0] + math.sqrt(1 - rho**2) * noise[:, 1], noise[:, 2]], -1)


def test_the_discriminator_learns_the_total_correlation():
    """Of a correlation of 0.8 it is -log(1 - 0.64) / 2 = 0.51 nats; of none, 0. Averaged over its last 200 steps."""
    generator = torch.Generator().manual_seed(0)
    for rho in (0.0, 0.8):
        loss, ratios = FactorVAE(hidden=(32, 32), lr=3e-3), []
        z = correlated(rho, 5_000, generator)
        for step in range(600):
            loss.learn(correlated(rho, 512, generator))
            if step >= 400 and step % 10 == 0:
                ratios.append(loss.log_ratio(z).detach())
        ratio = torch.stack(ratios).mean(0)
        assert ratio.mean().item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.05)
        joint = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1, rho], [rho, 1]]))
        exact = joint.log_prob(z[:, :2]) - dist.Normal(0.0, 1.0).log_prob(z[:, :2]).sum(-1)
        assert (ratio - exact).abs().mean() < 0.15
        assert torch.equal(loss.total_correlation(z), loss.log_ratio(z).mean())


def test_the_penalty_of_factor_vae(tiny):
    vae = spread(tiny().double())
    latent = latent_of(vae, X.double(), 3)
    loss = FactorVAE(gamma=5.0, hidden=(8,))
    assert loss.penalty(latent).item() == pytest.approx(latent.kl.mean().item(), rel=1e-12), "before it has learned"
    first = loss.learn(latent.z)
    assert first == pytest.approx(math.log(2), rel=1e-12)
    for _ in range(150):
        last = loss.learn(latent.z)
    assert last < first
    ratio = loss.log_ratio(latent.z)
    assert ratio.shape == (3, 9)
    assert loss.penalty(latent).item() == pytest.approx((latent.kl.mean() + 5 * ratio.mean()).item(), rel=1e-12)


def test_the_discriminator_is_no_part_of_the_model(tiny, same):
    """Nothing of it in the param store, and no gradient left in it; a copy has one of its own."""
    vae, loss = tiny(), FactorVAE(hidden=(8,))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=loss)
    svi.step(X)
    assert len(pyro.get_param_store()) == len(list(vae.parameters()))
    made = loss._discriminator
    before = copy.deepcopy(made)
    svi.evaluate_loss(X)
    assert same(made, before), "an evaluation trains nothing"
    svi.step(X)
    assert made is loss._discriminator and not same(made, before)
    loss.differentiable_loss(vae.model, vae.guide, X).backward()
    assert not any(p.requires_grad for p in made.parameters())
    assert copy.copy(loss)._discriminator is None and copy.copy(loss).hidden == (8,)
    loss.loss(tiny(latent_dim=5).model, tiny(latent_dim=5).guide, X)
    assert loss._discriminator is not made, "another width"


def test_factor_vae_is_the_same_at_the_same_seed(tiny, same):
    made = []
    for seed in (0, 0, 1):
        vae, loss = tiny(), FactorVAE(hidden=(8,))
        made.append((vae, fit(vae, X, elbo=loss, epochs=3, batch_size=4, seed=seed, progress=False)))
        assert loss._discriminator is None, "fit has a copy"
    assert same(made[0][0], made[1][0]) and not same(made[0][0], made[2][0])
    assert made[0][1]["objective"].tolist() == made[1][1]["objective"].tolist()


# DIP


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("kind", ["i", "ii"])
def test_dip_from_numpys_covariance(tiny, kind, particles):
    vae = spread(tiny(latent_dim=4).double())
    latent = latent_of(vae, X.double(), particles)
    mean, sd = (t.detach().numpy() for t in normal(vae, X.double()))
    covariance = np.cov(mean.T) + (np.diag((sd**2).mean(0)) if kind == "ii" else 0)
    diagonal = ((np.diag(covariance) - 1) ** 2).sum()
    off_diagonal = sum(covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j)
    expected = latent.kl.mean().item() + 3 * diagonal + 0.7 * off_diagonal
    got = DIP(kind=kind, diagonal=3.0, off_diagonal=0.7).penalty(latent).item()
    assert got == pytest.approx(expected, rel=1e-12)


def test_dip_of_kind_ii_has_the_covariance_of_the_draws(tiny):
    vae = spread(tiny(posterior="student_t(df=5)").double())
    latent = latent_of(vae, X.double(), 40_000)
    mean, variance = (t[0] for t in latent.moments)
    of_the_rows = (mean - mean.mean(0)).T @ (mean - mean.mean(0)) / 9 + torch.diag(variance.mean(0))
    assert torch.allclose(of_the_rows, torch.cov(latent.z.flatten(0, 1).T), rtol=0.05, atol=0.02)
    got = DIP(kind="ii").covariance(mean, variance)
    assert torch.allclose(got - torch.diag(variance.mean(0)), 9 / 8 * (of_the_rows - torch.diag(variance.mean(0))))


# InfoVAE


@pytest.mark.parametrize(
    ("kernel", "formula"), [("inverse_multiquadratic", lambda r: 1 / (1 + r)), ("rbf", lambda r: math.exp(-r))]
)
def test_mmd_by_a_double_loop(kernel, formula):
    z, other = torch.randn(2, 7, 3, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64) + 0.5
    k = lambda a, b: formula(((a - b) ** 2).sum().item() / (2 * 3 * 0.7**2))  # noqa: E731
    expected = []
    for a, b in zip(z, other, strict=True):
        pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
        expected.append(sum(k(a[i], a[j]) + k(b[i], b[j]) - 2 * k(a[i], b[j]) for i, j in pairs) / 42)
    got = InfoVAE(kernel=kernel, scale=0.7).mmd(z, other)
    assert got.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kernel", ["inverse_multiquadratic", "rbf"])
def test_mmd_in_the_mean(kernel):
    """0 where both are the prior, within 4 standard errors of 4000 small batches; the exact value where one is moved.

    The rbf kernel has it in closed form: of N(m, 1) and N(0, 1) in one dimension, with r = (z - z')^2 / 2,
    it is 2 / sqrt(3) (1 - exp(-m^2 / 6)).
    """
    loss = InfoVAE(kernel=kernel)
    shape = (4000, 6, 1)
    none = loss.mmd(torch.randn(shape), torch.randn(shape))
    assert abs(none.mean()) < 4 * none.std() / math.sqrt(4000) and (none < 0).any()
    moved = loss.mmd(torch.randn(shape) + 1.5, torch.randn(shape))
    error = moved.std() / math.sqrt(4000)
    assert moved.mean() > 10 * error
    if kernel == "rbf":
        assert abs(moved.mean() - 2 / math.sqrt(3) * (1 - math.exp(-(1.5**2) / 6))) < 4 * error


def test_info_vae_by_hand(tiny):
    """The prior's draws are from the model's own prior, and carry its gradient."""
    vae = spread(tiny(prior="normal(learned=True)").double())
    with torch.no_grad():
        vae.prior.piece.loc.fill_(50.0)
    loss = InfoVAE(alpha=0.25, weight=8.0)
    latent = latent_of(vae, X.double(), 2)
    state = torch.get_rng_state()
    got = loss.penalty(latent)
    torch.set_rng_state(state)
    other = vae.prior().base_dist.expand((2, 9, 2)).rsample()
    assert other.mean() > 45
    expected = 0.75 * latent.kl.mean() + 7.25 * loss.mmd(latent.z, other).mean()
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    mmd = InfoVAE(alpha=1.0, weight=1.0).penalty(latent_of(spread(tiny(prior="normal(learned=True)")), X))
    mmd.backward()
    draws = latent.draw_prior()
    assert draws.shape == latent.z.shape and draws.requires_grad
    assert not swaps.build("mixture(components=2)")[0].prior().has_rsample


# Pieces and errors


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    ("prior", "posterior"),
    [("normal", "laplace"), ("laplace", "student_t"), ("gamma", "gamma"), ("gamma", "normal"), ("uniform", "normal"),
     ("normal(learned=ard)", "normal")],
)  # fmt: skip
def test_independent_dimensions_of_any_family(spec, prior, posterior):
    vae, data = swaps.build(prior, posterior)
    loss = elbos.make(spec)
    moments = (prior, posterior) not in (("gamma", "normal"), ("uniform", "normal"))
    if isinstance(loss, DIP) and not moments:
        with pytest.raises(ValueError, match="means and variances are known"):
            loss.loss_and_grads(vae.model, vae.guide, *data)
        return
    assert math.isfinite(loss.loss_and_grads(vae.model, vae.guide, *data))
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize(
    ("prior", "posterior", "role"),
    [("normal", "full_rank", "posterior"), ("normal", "maf(transforms=1, hidden=[8])", "posterior"),
     ("mixture(components=2)", "normal", "prior"), ("power_spherical", "power_spherical", "posterior")],
)  # fmt: skip
def test_only_who_needs_a_product_asks_for_one(name, prior, posterior, role):
    vae, data = swaps.build(prior, posterior)
    loss = elbos.make(name)
    needs = {"free_bits": {"posterior", "prior"}, "total_correlation": {"posterior", "prior"}, "dip": {"posterior"}}
    if role in needs.get(name, set()):
        with pytest.raises(ValueError, match=rf"{type(loss).__name__}: expected a {role} whose dimensions are indep"):
            loss.loss_and_grads(vae.model, vae.guide, *data)
    else:
        assert math.isfinite(loss.loss_and_grads(vae.model, vae.guide, *data))


@pytest.mark.parametrize("prior", ["conditional", "gp", "vamp(components=3)"])
def test_priors_that_are_not_for_each_row_alike(prior):
    vae, data = swaps.build(prior, "normal")
    for name in MEMBERS if prior == "conditional" else ("capacity", "factor_vae", "dip", "info_vae"):
        assert math.isfinite(elbos.make(name, 2).loss_and_grads(vae.model, vae.guide, *data))


@pytest.mark.parametrize("posterior", ["normal", "delta", "full_rank"])
def test_contractive_from_the_jacobian(tiny, posterior):
    """Of one latent dimension the signs do not matter; of more, the mean over them is the squared norm."""
    for size, draws in ((1, 1), (3, 300)):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(3, 5), nn.Tanh())
        vae = VAE((3,), size, likelihood="gaussian", posterior=posterior, encoder=encoder).double()
        x = X.double()
        jacobian = torch.autograd.functional.jacobian(lambda rows, vae=vae: vae.encode(rows).mean, x, vectorize=True)
        norms = torch.stack([jacobian[n, :, n].square().sum() for n in range(len(x))])
        assert not jacobian[0, :, 1:].any()
        for particles in (1, 4):
            found = torch.stack([Contractive().slope(latent_of(vae, x, particles, seed)) for seed in range(draws)])
            error = found.std() / math.sqrt(draws) if draws > 1 else torch.tensor(1e-12)
            assert abs(found.mean() - norms.mean()) < 4 * error


def test_contraction_makes_codes_smooth(tiny):
    """And the autoencoder of the paper has no term for the prior: without its slopes it is the reconstruction."""
    plain = tiny(posterior="delta").double()
    x = X.double()
    reconstruction = -plain.decode(plain.encode(x).v).log_prob(x).sum().item()
    assert loss_of(Contractive(weight=0.0, kl=0.0), plain, x) == pytest.approx(reconstruction, rel=1e-12)
    slopes = []
    for weight in (0.0, 3.0):
        vae = tiny(posterior="delta").double()
        fit(vae, x, elbo=Contractive(weight=weight, kl=0.0), epochs=200, batch_size=9, lr=1e-2, progress=False)
        slopes.append(Contractive().slope(latent_of(vae, x)).item())
    assert slopes[1] < 0.5 * slopes[0]


def test_contractive_needs_x(tiny):
    vae = tiny()
    with pytest.raises(ValueError, match="Contractive: expected x, a tensor of real numbers.*got torch.int64"):
        Contractive().loss(vae.model, vae.guide, torch.zeros(4, 3, dtype=torch.long))


def test_points(tiny):
    vae = tiny(posterior="delta")
    free = FreeBits(nats=0.0).penalty(latent_of(vae, X))
    assert free.item() == pytest.approx(
        -dist.Normal(0.0, 1.0).log_prob(vae.encode(X).v).sum(-1).mean().item(), rel=1e-5
    )
    for point, data in ((vae, (X,)), swaps.build("gamma", "delta")):
        with pytest.raises(ValueError, match="TotalCorrelation: expected a posterior with a density, got a Delta"):
            TotalCorrelation().loss(point.model, point.guide, *data)


@pytest.mark.parametrize("name", MEMBERS)
def test_discrete_latents_are_refused(name):
    vae, data = swaps.build("one_hot", "categorical")
    with pytest.raises(ValueError, match="reparameterised guide, and site 'z'"):
        elbos.make(name).loss_and_grads(vae.model, vae.guide, *data)


@pytest.mark.parametrize("name", MEMBERS)
def test_other_programs_are_refused(tiny, name):
    loss = elbos.make(name)

    def two(x):
        with pyro.plate("rows", len(x)):
            a, b = (pyro.sample(site, dist.Normal(torch.zeros(2), 1.0).to_event(1)) for site in "ab")
            pyro.sample("x", dist.Normal(a.sum(-1) + b.sum(-1), 1.0), obs=x[:, 0])

    def none(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])

    with pytest.raises(ValueError, match="expected a model with one latent site, got 'a', 'b'"):
        loss.loss(two, poutine.block(two, hide=["x"]), X)
    with pytest.raises(ValueError, match="expected a model with one latent site, got none"):
        loss.loss(none, lambda x: None, X)
    vae = tiny()
    masked = [poutine.mask(program, torch.arange(9) > 3) for program in (vae.model, vae.guide)]
    with pytest.raises(ValueError, match="expected a latent site without a mask, got one at 'z'"):
        loss.loss(*masked, X)
    scaled = [poutine.scale(program, torch.linspace(1, 2, 9)) for program in (vae.model, vae.guide)]
    with pytest.raises(ValueError, match=r"expected one scale for all rows, got one of shape \(9,\)"):
        loss.loss(*scaled, X)
    with pytest.raises(ValueError, match="expected one scale for all sites of a row"):
        loss.loss(vae.model, poutine.scale(vae.guide, 2.0), X)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_batch_of_one_row(tiny, name):
    vae, loss = tiny(), elbos.make(name)
    if name in ("free_bits", "capacity", "total_correlation", "contractive"):
        assert math.isfinite(loss_of(loss, vae, X[:1]))
    else:
        with pytest.raises(ValueError, match=f"{type(loss).__name__}: expected at least 2 rows in a batch.*got 1"):
            loss_of(loss, vae, X[:1])
    if name == "total_correlation":
        with pytest.raises(ValueError, match="expected at least 2 rows in a batch"):
            loss_of(loss, vae, X[:1], size=10)
        with pytest.raises(ValueError, match="num_rows: expected at least the 9 rows of the batch, got 4: pass num_ro"):
            loss_of(TotalCorrelation(num_rows=4), vae)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: FreeBits(0), "num_particles: expected a whole number of at least 1, got 0"),
        (lambda: FreeBits(nats=-0.1), "nats: expected a finite number of at least 0, got -0.1"),
        (lambda: FreeBits(nats=math.nan), "nats: expected a finite number of at least 0, got nan"),
        (lambda: Capacity(nats=-1), "nats: expected"),
        (lambda: Capacity(gamma=math.inf), "gamma: expected a finite number of at least 0, got inf"),
        (lambda: Capacity(steps=-1), "steps: expected a whole number of at least 0"),
        (lambda: Capacity(steps=2.5), "steps: expected a whole number"),
        (lambda: TotalCorrelation(beta=-1), "beta: expected"),
        (lambda: TotalCorrelation(num_rows=0), "num_rows: expected a whole number of at least 1"),
        (lambda: TotalCorrelation(sampling="stratifed"), "unknown sampling 'stratifed'.*Did you mean 'stratified'"),
        (lambda: FactorVAE(gamma=-1), "gamma: expected"),
        (lambda: FactorVAE(lr=0), "lr: expected a finite number above 0"),
        (lambda: FactorVAE(hidden=()), "expected hidden to be one or more positive widths"),
        (lambda: Contractive(weight=-1), "weight: expected a finite number of at least 0, got -1"),
        (lambda: Contractive(kl=math.inf), "kl: expected"),
        (lambda: DIP(kind="iii"), "unknown kind 'iii'"),
        (lambda: DIP(diagonal=-1), "diagonal: expected"),
        (lambda: DIP(off_diagonal=math.nan), "off_diagonal: expected"),
        (lambda: InfoVAE(alpha=1.5), "alpha: expected a finite number of at most 1, got 1.5"),
        (lambda: InfoVAE(alpha=0.0, weight=0.5), "weight: expected at least 1 - alpha = 1, got 0.5"),
        (lambda: InfoVAE(kernel="linear"), "unknown kernel 'linear'"),
        (lambda: InfoVAE(scale=0.0), "scale: expected a finite number above 0"),
        (lambda: elbos.make("free_bits(bits=1)"), "elbo 'free_bits' has no argument 'bits'"),
    ],
)  # fmt: skip
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=text):
        make()


# In fit


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("particles", [1, 2])
def test_fit_by_name(tiny, spec, particles):
    """With warm-up and cycles: the terms of the history are those of the draws, and their ELBO is theirs."""
    vae = tiny()
    arguments = dict(beta=2.0, warmup=2.0, cycles=2, epochs=8, batch_size=4, validation=X, progress=False)
    history = fit(vae, X, elbo=spec, num_particles=particles, **arguments)
    assert history["beta"].tolist() == [0.5, 1.5, 2, 2, 0.5, 1.5, 2, 2]
    assert np.isfinite(history.to_numpy(dtype=float)).all()
    assert np.allclose(history["elbo"], history["reconstruction"] - history["kl"])
    assert history.attrs["elbo"] == spec


@pytest.mark.parametrize("spec", SPECS)
def test_the_objective_of_a_first_step_is_that_of_the_estimator(tiny, spec):
    """At a weight of 0 the objective is the reconstruction alone; at another it is not the ELBO but the estimator's."""
    history = fit(tiny(), X, elbo=spec, warmup=1.0, epochs=2, batch_size=9, progress=False)
    assert history["objective"][1] == pytest.approx(history["reconstruction"][1], rel=1e-5)
    assert abs(history["objective"][2] - history["elbo"][2]) > 1e-4


def test_importance_weighted_bounds_still_refuse_a_weight(tiny):
    for setting in (dict(beta=2.0), dict(warmup=1.0), dict(warmup=1.0, cycles=2)):
        with pytest.raises(ValueError, match="the penalty of a regularised one; iwae has no such term"):
            fit(tiny(), X, elbo="iwae", num_particles=2, epochs=4, progress=False, **setting)
    handler, vae = KLWeight(0.5), tiny()
    with pytest.raises(ValueError, match="expected one scale for all sites of a row"):
        elbos.IWAE(2).loss(handler(vae.model), handler(vae.guide), X)


def test_what_they_are_for():
    """Codes of two independent factors that begin as copies of one another end less dependent than the ELBO's.

    With a linear encoder q(z) of normal rows is normal, and its total correlation known from its covariance.
    """
    rotation = torch.tensor([[1.6, 1.2, 0.0], [-0.6, 0.8, 0.5]])
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) @ rotation

    def covariance(spec):
        torch.manual_seed(1)
        vae = VAE((3,), 2, likelihood="gaussian(scale=0.3)", encoder=nn.Identity(), decoder=nn.Identity())
        with torch.no_grad():
            vae.posterior.head.weight[:2] = torch.tensor([[1.0, 0.6, 0.0], [0.9, 0.5, 0.0]])
        fit(vae, x, elbo=spec, epochs=40, batch_size=200, lr=0.03, progress=False)
        mean, variance = (t[0].detach() for t in latent_of(vae, x).moments)
        return torch.cov(mean.T) + torch.diag(variance.mean(0))

    def total_correlation(c):
        return -0.5 * torch.log(c.det() / c.diagonal().prod()).item()

    def distance(c):
        return (c - torch.eye(2)).norm().item()

    plain = covariance("mean_field_elbo")
    assert total_correlation(plain) > 0.02
    assert total_correlation(covariance("total_correlation")) < 0.6 * total_correlation(plain)
    assert total_correlation(covariance("factor_vae(hidden=[64, 64])")) < 0.6 * total_correlation(plain)
    assert distance(covariance("dip(kind=ii, off_diagonal=50)")) < 0.6 * distance(plain)


def test_a_bare_svi_learns(tiny):
    """Of each by 40 steps of bare Pyro, the loss falls."""
    for name in MEMBERS:
        pyro.clear_param_store()
        vae, loss = tiny(), elbos.make(name)
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.02}), loss=loss)
        losses = [svi.step(X) for _ in range(40)]
        assert np.mean(losses[-10:]) < np.mean(losses[:10]), name
    assert isinstance(loss, infer.ELBO)
