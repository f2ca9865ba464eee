"""NUTS with a compiled potential: the same potential, gradient and trajectories as Pyro's, and an exact posterior."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.integrator import potential_grad

import pyrovae
from pyrovae import CompiledNUTS


def spatial(double):
    """A decoder as a prior, beside numbers that are bounded."""
    torch.manual_seed(0)
    field = pyrovae.as_prior(pyrovae.VAE((5,), 3, likelihood="gaussian").to(double))

    def model(y):
        scale = pyro.sample("scale", dist.Gamma(torch.tensor(6.0, dtype=double), 4.0))
        share = pyro.sample("share", dist.Dirichlet(torch.ones(5, dtype=double)))
        pyro.sample("y", dist.Normal(field("f") * scale + share, 1.0).to_event(1), obs=y)

    return model, torch.linspace(-1, 1, 5, dtype=double)


def correlated(double):
    """A Cholesky factor at each point."""

    def model(y):
        alpha = pyro.sample("alpha", dist.Uniform(torch.tensor(0.01, dtype=double), 0.99))
        precision = torch.eye(4, dtype=double) * 2 - alpha * torch.ones(4, 4, dtype=double) / 4
        f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(4, dtype=double), precision_matrix=precision))
        pyro.sample("y", dist.Normal(f, 0.5).to_event(1), obs=y)

    return model, torch.linspace(-1, 1, 4, dtype=double)


def mixture(double):
    """A class that is summed out."""

    def model(y):
        centres = pyro.sample("centres", dist.Normal(torch.zeros(2, dtype=double), 2.0).to_event(1))
        with pyro.plate("rows", len(y)):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3, dtype=double)), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(centres[k.long()], 0.5), obs=y)

    return model, torch.tensor([-1.0, -0.8, 1.2, 1.5], dtype=double)


@pytest.mark.parametrize("make", [spatial, correlated, mixture])
def test_the_potential_and_its_gradient_are_pyros(make):
    model, y = make(torch.float64)
    options = {"max_plate_nesting": 1} if make is mixture else {}
    ours, theirs = CompiledNUTS(model, **options), NUTS(model, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's Inductor warns of torch's own code
        warnings.filterwarnings("error", message="the potential is not compiled")
        for kernel in (ours, theirs):
            pyro.set_rng_seed(0)
            kernel.setup(1, y)
    assert ours.potential_fn is not theirs.potential_fn and ours.transforms.keys() == theirs.transforms.keys()
    for seed in range(3):
        torch.manual_seed(seed)
        u = {name: torch.randn_like(value) for name, value in theirs.initial_params.items()}
        (gradient, energy), (expected, truth) = (potential_grad(kernel.potential_fn, u) for kernel in (ours, theirs))
        assert energy.item() == pytest.approx(truth.item(), rel=1e-10)
        assert gradient.keys() == expected.keys()
        for name, value in gradient.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-10)


def run(kernel, y, draws, warmup=0, seed=0):
    pyro.set_rng_seed(seed)
    mcmc = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True)
    mcmc.run(y)
    return mcmc.get_samples()


def test_the_first_trajectories_are_pyros(as_traced):
    """Its machine code is above."""
    model, y = spatial(torch.float64)
    options = {"step_size": 0.1, "adapt_step_size": False, "adapt_mass_matrix": False}
    ours, theirs = (run(kernel(model, **options), y, draws=5) for kernel in (CompiledNUTS, NUTS))
    assert as_traced
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-7)


def test_an_exact_posterior(linear):
    """Of a linear-Gaussian decoder of which half of the elements are seen."""
    case = linear(n=1)
    field = pyrovae.as_prior(case.vae, gives="likelihood")
    seen = case.x.shape[1] // 2

    def model(y):
        p = field("x").base_dist
        pyro.sample("y", dist.Normal(p.loc[..., :seen], p.scale[..., :seen]).to_event(1), obs=y)

    z = run(CompiledNUTS(model), case.x[0, :seen], draws=800, warmup=200)["x_z"].double().numpy()
    units = torch.eye(case.vae.latent_dim).to(case.x)
    p = case.vae.likelihood(torch.zeros_like(units[:1])).base_dist
    weight = torch.stack([
        (case.vae.likelihood(row[None]).base_dist.loc - p.loc)[0] for row in units
    ])  # fmt: skip
    weight, loc, scale = (
        part.detach().double().numpy() for part in (weight[:, :seen], p.loc[0, :seen], p.scale[0, :seen])
    )
    precision = np.eye(len(weight)) + (weight / scale**2) @ weight.T
    covariance = np.linalg.inv(precision)
    mean = covariance @ ((weight / scale**2) @ (case.x[0, :seen].double().numpy() - loc))
    error = np.sqrt(np.diag(covariance) / 160)  # as if one of five draws were independent
    assert np.abs((z.mean(0) - mean) / error).max() < 4
    assert np.abs(np.diag(np.cov(z.T)) / np.diag(covariance) - 1).max() < 4 * np.sqrt(2 / 160)


def test_a_model_that_looks_at_its_numbers_is_left_to_pyro():
    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        scale = 1.0 if loc > 0 else 2.0
        pyro.sample("y", dist.Normal(loc, scale), obs=y)

    with pytest.warns(UserWarning, match="the potential is not compiled, but Pyro's own: Python looks at"):
        ours = run(CompiledNUTS(model), torch.tensor(1.0), draws=5, warmup=5)
    theirs = run(NUTS(model), torch.tensor(1.0), draws=5, warmup=5)
    assert torch.equal(ours["loc"], theirs["loc"])


def test_jit_compile_is_refused():
    with pytest.raises(ValueError, match="jit_compile: expected False"):
        CompiledNUTS(spatial(torch.float32)[0], jit_compile=True)
