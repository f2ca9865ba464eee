import json
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from scipy import stats

import pyrovae
from pyrovae import VAE, priors, registry

KINDS = ["maf", "nsf", "coupling"]
FLOAT64 = torch.float64


def make(kind, size, noise=0.1, seed=0, **arguments):
    torch.manual_seed(seed)
    prior = priors.Flow(kind, **arguments)
    assert prior.build((size,)) == 0
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return prior.double()


@pytest.mark.parametrize("kind", KINDS)
def test_starts_near_the_standard_normal(kind):
    normal = torch.distributions.Normal(0.0, 1.0)
    for size in (2, 8):
        p = make(kind, size, noise=0.0)(None)
        z = p.sample((2000,))
        difference = p.log_prob(z) - normal.log_prob(z).sum(-1)
        assert 0 < difference.abs().max() < 0.3 * size and difference.mean().abs() < 0.02 * size


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_integrates_to_one(kind):
    p = make(kind, 2, noise=0.07 if kind == "coupling" else 0.15)(None)
    z = p.sample((5000,))
    axis = torch.linspace(-1.5 * z.abs().max().item(), 1.5 * z.abs().max().item(), 301, dtype=FLOAT64)
    values = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = p.log_prob(values).exp()
    cell = (axis[1] - axis[0]).item() ** 2
    assert (density.sum() * cell).item() == pytest.approx(1, abs=3e-3)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(values).sum(-1).exp()
    assert (standard - density).abs().sum() * cell > 0.1
    # Draws have the moments of the density.
    for power in (1, 2):
        expected = (density[:, None] * values**power).sum(0) * cell
        error = (z**power).std(0) / math.sqrt(len(z))
        assert (((z**power).mean(0) - expected) / error).abs().max() < 4


@pytest.mark.parametrize("kind", ["maf", "nsf"])
def test_one_dimension(kind):
    p = make(kind, 1, noise=0.5)(None)
    axis = torch.linspace(-12, 12, 8001, dtype=FLOAT64)
    with torch.no_grad():
        cdf = torch.cumulative_trapezoid(p.log_prob(axis[:, None]).exp(), axis)
    assert cdf[-1].item() == pytest.approx(1, abs=1e-3)
    draws = p.sample((5000,)).squeeze(-1).numpy()
    test = stats.kstest(draws, lambda z: np.interp(z, axis[1:].numpy(), cdf.numpy()))
    assert test.pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_takes_one_pass_and_is_that_of_the_draws(kind):
    prior = make(kind, 4)
    passes = []
    for step in prior.to_noise.transforms:
        step.hyper.register_forward_hook(lambda *_: passes.append(1))
    p = prior(None).expand((5,))
    z = p.sample()
    kept = p.log_prob(z.detach().clone())
    with torch.no_grad():
        assert torch.allclose(p.log_prob(z), kept, atol=1e-8)
    passes.clear()
    p.log_prob(z.clone())
    assert len(passes) == 3
    # The change of variables by autograd.
    start = p.transforms[0].inv(z)
    jacobian = torch.autograd.functional.jacobian(lambda e: p.transforms[0](e).sum(0), start).movedim(1, 0)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(start).sum(-1) - torch.linalg.slogdet(jacobian)[1]
    assert torch.allclose(kept, expected, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_learns_a_density(kind):
    """Correlated, skewed data: maximum likelihood comes near to the truth's entropy; N(0, I) does not."""
    torch.manual_seed(1)
    a = torch.randn(500)
    z = torch.stack([a, 0.5 * a.square() + 0.3 * torch.randn(500) - 0.5], -1)
    entropy = 2 * 0.5 * math.log(2 * math.pi * math.e) + math.log(0.3)
    prior = make(kind, 2, noise=0.0).float()
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.015)
    start = -prior(None).log_prob(z).mean().item()
    for _ in range(100):
        optimizer.zero_grad()
        loss = -prior(None).log_prob(z).mean()
        loss.backward()
        optimizer.step()
    assert start > entropy + 0.5 and loss.item() < entropy + 0.25


def test_its_configuration_is_json():
    prior = priors.make("flow(kind=nsf, transforms=2, hidden=[8, 9], bins=5)")
    saved = json.loads(json.dumps(registry.config(prior, priors.FAMILY)))
    assert saved == {"name": "flow", "kind": "nsf", "transforms": 2, "hidden": [8, 9], "bins": 5}
    again = priors.make(saved)
    prior.build((3,)), again.build((3,))
    again.load_state_dict(prior.state_dict())
    z = torch.randn(5, 3)
    assert torch.equal(prior(None).log_prob(z), again(None).log_prob(z))


def test_mistakes():
    with pytest.raises(ValueError, match="unknown flow kind 'planar': expected one of coupling, maf, nsf"):
        priors.Flow("planar")
    with pytest.raises(ValueError, match="expected 2 or more latent dimensions, got 1"):
        priors.Flow("coupling").build((1,))
    with pytest.raises(ValueError, match="flow bins: expected a whole number of at least 2"):
        priors.Flow(bins=1)


# In a VAE


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_in_a_vae(kind, dtype, tiny, same, tmp_path):
    vae = tiny(prior=f"flow(kind={kind}, hidden=[8])").to(dtype)
    x = torch.randn(6, 3, dtype=dtype)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(2, vectorize_particles=True))
    before = {name: p.detach().clone() for name, p in vae.prior.named_parameters()}
    svi.step(x)
    assert before and all(not torch.equal(p, before[name]) for name, p in vae.prior.named_parameters())
    assert vae.sample(7).shape == (7, 3) and vae.sample(7).dtype == dtype
    assert same(pyrovae.load(pyrovae.save(vae, tmp_path)), vae)
    draws = Predictive(vae.model, guide=vae.guide, num_samples=3)(x)
    assert draws["z"].shape == (3, 6, 2)
    assert Predictive(vae.model, num_samples=3, parallel=True)()["x"].shape[0] == 3


def test_nuts_draws_from_the_prior():
    """Against the flow's own draws."""
    prior = make("maf", 2, noise=0.3, hidden=(8,), transforms=1)

    def model():
        pyro.sample("z", prior(None))

    mcmc = MCMC(NUTS(model), num_samples=200, warmup_steps=50, disable_progbar=True)
    mcmc.run()
    drawn, own = mcmc.get_samples()["z"], prior(None).sample((20000,))
    assert ((drawn.mean(0) - own.mean(0)) / own.std(0)).abs().max() < 0.4
    assert (drawn.std(0) / own.std(0) - 1).abs().max() < 0.4


def test_nuts_on_the_latents_of_a_vae(tiny):
    vae = VAE((3,), 2, likelihood="gaussian(scale=1.0)", prior="flow(hidden=[8])", encoder="mlp(hidden=[8])")
    mcmc = MCMC(NUTS(vae.model), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(torch.randn(4, 3))
    assert torch.isfinite(mcmc.get_samples()["z"]).all()
