"""Bidirectional Monte Carlo: log p(x) in closed form lies between its bounds, and few steps are found out."""

import math

import pytest
import torch

from pyrovae import VAE, bdmc
from pyrovae.datasets import LinearGaussian


def closed_form(vae):
    """log p(x) of a linear-Gaussian VAE, from its weights."""
    scale = torch.tensor(float(vae.likelihood.piece.scale), dtype=torch.float64)
    head = vae.likelihood.head
    return LinearGaussian(head.weight.detach().double(), head.bias.detach().double(), scale).log_prob


@pytest.mark.parametrize(
    ("d", "k", "start", "steps"), [(6, 2, "posterior", 60), (10, 4, "posterior", 100), (6, 2, "prior", 150)]
)
def test_the_sandwich_holds_log_p(linear, d, k, start, steps):
    vae = linear(d=d, k=k, shift=0.3, stretch=1.5).vae
    sandwich = bdmc(vae, 48, num_chains=16, num_steps=steps, leapfrog=4, start=start, progress=False)
    x, lower, upper = sandwich
    exact = closed_form(vae)(x)
    assert x.shape == (48, d) and lower.shape == upper.shape == (48,)
    # The bounds hold for means: each within three standard errors over independent rows, which are small.
    for below in (exact - lower, upper - exact):
        assert below.mean() > -3 * below.std() / 48**0.5
        assert below.std() / 48**0.5 < 0.05
    assert sandwich.gap.mean() <= 0.1
    assert ((lower - exact).abs() < 5 * sandwich.lower_standard_error + 0.05).all()


def test_few_steps_have_a_wide_gap(linear):
    vae = linear(shift=1.0, stretch=0.5).vae
    short, long = (bdmc(vae, 32, num_chains=8, num_steps=steps, leapfrog=4, progress=False).gap for steps in (2, 100))
    assert short.mean() > 1 and short.mean() > 5 * long.mean().abs()
    assert (short.mean() - long.mean()) > 3 * (short.std() + long.std()) / 32**0.5


def test_the_weights_are_unbiased_in_both_directions(linear):
    """At so few steps that the bounds are loose, w / p(x) is 1 on average all the same."""
    vae = linear(n=2, shift=0.2, stretch=1.5).vae
    sandwich = bdmc(vae, 2000, num_chains=1, num_steps=10, leapfrog=3, chunk=900, progress=False)
    exact = closed_form(vae)(sandwich.x)
    for ratio in ((sandwich.lower - exact).exp(), (exact - sandwich.upper).exp()):
        assert 0.05 < ratio.std() < 1
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / 2000**0.5


@pytest.mark.parametrize(
    ("prior", "edges"), [("gamma(concentration=2.0)", (1e-9, 40.0)), ("uniform", (1e-9, 1 - 1e-9))]
)
def test_where_z_is_bounded_they_hold_the_integral(prior, edges):
    vae = VAE((2,), 1, prior=prior, likelihood="gaussian(scale=0.7)", encoder="mlp(hidden=[4])").double()
    sandwich = bdmc(vae, 24, num_chains=16, num_steps=30, leapfrog=3, progress=False)
    grid = torch.linspace(*edges, 5_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        joint = vae.prior(None, None).log_prob(grid) + vae.decode(grid[:, None]).log_prob(sandwich.x).T
    exact = torch.logsumexp(joint, 1) + math.log(float(grid[1] - grid[0]))
    for below in (exact - sandwich.lower, sandwich.upper - exact):
        assert -3 * below.std() / 24**0.5 < below.mean() < 0.05


def test_a_condition_and_the_same_seed(tiny):
    vae = tiny(condition_dim=2)
    state = torch.get_rng_state()
    arguments = dict(num_steps=3, num_chains=2, leapfrog=2, progress=False)
    first = bdmc(vae, 3, torch.eye(2)[[0, 1, 1]], **arguments)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.requires_grad and p.grad is None for p in vae.parameters()) and vae.training
    again, other = (bdmc(vae, 3, torch.eye(2)[[0, 1, 1]], seed=seed, **arguments) for seed in (0, 1))
    assert torch.equal(first.lower, again.lower) and not torch.equal(first.lower, other.lower)
    assert bdmc(vae, 5, torch.eye(2)[:1], chunk=2, **arguments).upper.shape == (5,)
    assert str(first).splitlines()[3].split()[:2] == ["gap", f"{first.gap.mean():.3f}"]


def test_what_it_refuses(tiny):
    for arguments in (dict(num_rows=0), dict(num_chains=0), dict(num_steps=0), dict(start="guide"), dict(chunk=0)):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            bdmc(tiny(), **arguments)
    refused = {
        "is a point": dict(posterior="delta"),
        "expected a z that is continuous": dict(prior="one_hot", posterior="categorical"),
        "got one on the simplex": dict(latent_dim=[3, 2], prior="dirichlet"),
        "expected no label": dict(label=3),
    }
    for reason, arguments in refused.items():
        with pytest.raises(ValueError, match=f"bdmc: .*{reason}"):
            bdmc(tiny(**arguments))
    with pytest.raises(ValueError, match="condition: expected shape"):
        bdmc(tiny(condition_dim=2))
