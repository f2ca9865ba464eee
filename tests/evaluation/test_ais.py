"""Annealed importance sampling against log p(x) in closed form, and by numerical integration where z is bounded."""

import math

import pytest
import torch

from pyrovae import VAE, ais, log_marginal


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize(("shift", "stretch"), [(0.5, 2.0), (0.2, 0.7)])
def test_it_finds_log_p_where_the_guide_is_wrong(linear, start, shift, stretch):
    exact = linear(n=12, shift=shift, stretch=stretch)
    value, error = ais(exact.vae, exact.x, num_steps=50, num_chains=32, leapfrog=4, start=start, progress=False)
    assert value.shape == error.shape == (12,)
    # The weights are unbiased for p(x) and their logarithms low: on the scale of p they agree over rows.
    ratio = (value - exact.log_prob).exp()
    spread = (error.square().sum()).sqrt() / len(ratio)
    assert abs(ratio.mean() - 1) < 3 * spread + 1e-12
    assert (value - exact.log_prob).abs().max() < 4 * error.max() + 0.1


def test_the_exact_posterior_has_constant_weights(linear):
    exact = linear(n=5)
    value, error = ais(exact.vae, exact.x, num_steps=10, num_chains=4, progress=False)
    assert torch.allclose(value, exact.log_prob, atol=0.02)
    assert error.max() < 0.02


def test_more_steps_come_closer(linear):
    exact = linear(n=20, shift=1.0, stretch=0.5)
    gaps = [
        (exact.log_prob - ais(exact.vae, exact.x, num_steps=steps, num_chains=32, progress=False).value).mean()
        for steps in (1, 120)
    ]
    # 16 to 17 and -0.1 to 0.2 with eight seeds.
    assert gaps[0] > 2 and abs(gaps[1]) < 0.5
    few = log_marginal(exact.vae, exact.x, num_samples=32, progress=False).value
    assert (exact.log_prob - few).mean() > 3 * abs(gaps[1]), "no better than importance sampling from the same guide"


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize(
    ("prior", "edges"), [("gamma(concentration=2.0)", (1e-9, 40.0)), ("uniform", (1e-9, 1 - 1e-9))]
)
def test_where_z_is_bounded_it_is_the_integral(prior, edges, start):
    vae = VAE((2,), 1, prior=prior, likelihood="gaussian(scale=0.7)", encoder="mlp(hidden=[4])").double()
    x = torch.tensor([[0.5, -0.3], [1.5, 0.2]], dtype=torch.float64)
    grid = torch.linspace(*edges, 5_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        density = vae.prior(None, None).log_prob(grid)
        joint = torch.stack([density + vae.decode(grid).log_prob(row) for row in x])
    exact = torch.logsumexp(joint, 1) + math.log(float(grid[1] - grid[0]))
    value, error = ais(vae, x, num_steps=20, num_chains=64, leapfrog=3, start=start, progress=False)
    assert ((value - exact).abs() < 4 * error + 0.01).all()


def test_the_same_seed_gives_the_same_and_nothing_else_moves(tiny):
    vae = tiny()
    x = torch.randn(3, 3)
    state = torch.get_rng_state()
    first = ais(vae, x, num_steps=3, num_chains=2, seed=1, progress=False)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.requires_grad and p.grad is None for p in vae.parameters())
    again = ais(vae, x, num_steps=3, num_chains=2, seed=1, progress=False)
    other = ais(vae, x, num_steps=3, num_chains=2, seed=2, progress=False)
    assert torch.equal(first.value, again.value) and not torch.equal(first.value, other.value)
    chunked = ais(vae, x, num_steps=3, num_chains=2, seed=1, chunk=2, progress=False)
    assert chunked.value.shape == (3,) and torch.isfinite(chunked.value).all()


def test_a_condition(tiny):
    vae = tiny(condition_dim=2)
    vae.likelihood.head.weight.data.mul_(5)
    x, condition = torch.randn(4, 3), 5 * torch.randn(4, 2)
    value, error = ais(vae, x, condition, num_steps=30, num_chains=64, leapfrog=4, progress=False)
    expected = log_marginal(vae, x, condition, num_samples=20_000, progress=False)
    assert ((value - expected.value).abs() < 4 * (error + expected.standard_error) + 0.01).all()
    other = ais(vae, x, condition.flip(0), num_steps=30, num_chains=64, leapfrog=4, progress=False).value
    assert ((value - other).abs() > 4 * error + 0.01).any(), "the condition makes no difference"


def test_what_it_refuses(tiny):
    x = torch.randn(4, 3)
    for arguments in (dict(num_chains=0), dict(num_steps=0), dict(leapfrog=0), dict(start="guide")):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            ais(tiny(), x, **arguments)
    with pytest.raises(ValueError, match="posterior .Delta. is a point"):
        ais(tiny(posterior="delta"), x)
    with pytest.raises(ValueError, match="expected a z that is continuous"):
        ais(tiny(prior="one_hot", posterior="categorical"), x)
