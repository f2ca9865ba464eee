"""Continuity and completeness where they are known, and the mixture that takes a prior's place."""

import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import nn

import pyrovae
from pyrovae import VAE

FLOAT64 = torch.float64


def identity(weight, **arguments):
    """An autoencoder whose code is x, and whose decoder is linear."""
    d, k = weight.shape
    arguments = {"encoder": nn.Identity(), "decoder": nn.Identity(), **arguments}
    vae = VAE((d,), k, likelihood="gaussian(scale=1e-6)", posterior="delta", **arguments).double()
    with torch.no_grad():
        vae.posterior.head.weight.copy_(torch.linalg.pinv(weight))
        vae.likelihood.head.weight.copy_(weight)
    return vae


def test_a_linear_decoder_changes_evenly():
    weight = torch.randn(5, 2, dtype=FLOAT64, generator=torch.Generator().manual_seed(0))
    vae, x = identity(weight), torch.randn(30, 5, dtype=FLOAT64)
    found = pyrovae.continuity(vae, x, num_paths=40, seed=1)
    assert len(found) == 40
    np.testing.assert_allclose(found[["jump", "detour"]], 1, rtol=1e-9)
    low, high = torch.linalg.svdvals(weight)[[1, 0]].tolist()
    assert ((found["change"] >= low - 1e-9) & (found["change"] <= high + 1e-9)).all() and found["change"].std() > 0.01
    pd_again = pyrovae.continuity(vae, x, num_paths=40, seed=1)
    assert found.equals(pd_again) and not found.equals(pyrovae.continuity(vae, x, num_paths=40, seed=2))


class Cliff(nn.Module):
    """Nothing on either side of 0, and all of its change there."""

    def forward(self, z):
        return torch.sigmoid(1e6 * z)


class Detour(nn.Module):
    """Up and down again twice from -1 to 1: 4 up or down of 1."""

    def forward(self, z):
        return torch.cat([torch.sin(torch.pi * z).abs(), z], -1)


def test_a_cliff_is_a_jump_and_a_detour_is_one():
    x = torch.tensor([[-1.0], [1.0]], dtype=FLOAT64)
    one = torch.ones(1, 1, dtype=FLOAT64)
    found = pyrovae.continuity(identity(one, decoder=Cliff()), x, num_paths=3, steps=41)
    np.testing.assert_allclose(found["jump"], 41, rtol=1e-6)  # all of it in the step across 0
    np.testing.assert_allclose(found["detour"], 1, rtol=1e-6)
    np.testing.assert_allclose(found["change"], 0.5, rtol=1e-6)
    vae = identity(one, decoder=Detour())
    with torch.no_grad():
        vae.likelihood.head.weight.copy_(torch.tensor([[1.0, 0.01]]))
    found = pyrovae.continuity(vae, x, num_paths=3, steps=2000)
    np.testing.assert_allclose(found["detour"], 4 / 0.02, rtol=1e-3)


def test_completeness_is_the_mass_of_the_prior_that_the_data_cover():
    """f(z) = z, and data all over [-1, 1]: P(|z| < 1) = .683 of N(0, 1)."""
    grid = torch.linspace(-1, 1, 2001, dtype=FLOAT64)[:, None]
    between = torch.rand(500, 1, dtype=FLOAT64, generator=torch.Generator().manual_seed(0)) * 1.998 - 0.999
    vae = identity(torch.ones(1, 1, dtype=FLOAT64))
    found = pyrovae.completeness(vae, grid, between, num_samples=20_000, level=1.0)
    assert found.share == pytest.approx(0.6827, abs=0.015) and found.threshold <= 0.0005 + 1e-12
    assert found.distances.shape == (20_000,) and "of 20000 samples are as near" in str(found)
    half = pyrovae.completeness(vae, grid, between, num_samples=20_000, level=0.5)
    assert half.share == pytest.approx(0.5 * 0.6827, abs=0.03)


def test_a_faint_sample_is_near_to_all_by_pixels_and_to_none_by_angle():
    """Data on the unit circle's right half; f(z) = (0.1, 0.1 z) reaches angles below arctan 1.5 for |z| < 1.5."""
    angles = torch.linspace(-1, 1, 4000, dtype=FLOAT64) * math.atan(1.5)
    circle = torch.stack([angles.cos(), angles.sin()], -1)
    vae = identity(torch.tensor([[0.0], [0.1]], dtype=FLOAT64))
    with torch.no_grad():
        vae.likelihood.head.bias.copy_(torch.tensor([0.1, 0.0]))
        vae.posterior.head.weight.zero_()
    found = pyrovae.completeness(vae, circle, circle[::7], num_samples=20_000, level=1.0, distance="cosine")
    # All held-out rows have the code 0, the angle 0, half way between two of the circle: the threshold is just that.
    assert found.threshold < 1e-3
    assert found.share == pytest.approx(math.erf(1.5 / math.sqrt(2)), abs=0.01)
    near = pyrovae.completeness(vae, circle, circle[::7], num_samples=2000, level=1.0)
    assert near.share > 0.99  # all are nearer to the circle than 0.9, as the held-out rows are


def test_ex_post_is_the_mixture_that_em_finds(tmp_path, same):
    torch.manual_seed(0)
    centres = torch.tensor([[-3.0, 0.0], [2.0, 1.0], [0.0, 4.0]], dtype=FLOAT64)
    x = torch.cat([c + torch.randn(200, 2, dtype=FLOAT64) @ torch.randn(2, 2, dtype=FLOAT64) / 2 for c in centres])
    vae = identity(torch.eye(2, dtype=FLOAT64))
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    made = pyrovae.ex_post(vae, x, components=3, seed=0)
    expected = GaussianMixture(3, random_state=0, reg_covar=1e-6).fit(x.numpy()).score_samples(x.numpy())
    np.testing.assert_allclose(made.prior(None, None).log_prob(x).detach(), expected, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert torch.equal(made.likelihood.head.weight, vae.likelihood.head.weight) and made.prior is not vae.prior
    named = VAE((4,), 2, likelihood="gaussian", posterior="delta")
    made = pyrovae.ex_post(named, torch.randn(60, 4), components=2)
    loaded = pyrovae.load(pyrovae.save(made, tmp_path))
    assert same(loaded, made) and loaded.sample(3).shape == (3, 4)


def test_ex_post_fills_holes():
    """Codes far from N(0, I): its samples decode to nothing like data, those of the fitted mixture do."""
    torch.manual_seed(0)
    x = torch.cat([10 + torch.randn(300, 2), -10 + torch.randn(300, 2)]).double()
    vae = identity(torch.eye(2, dtype=FLOAT64))
    assert pyrovae.completeness(vae, x[::2], x[1::2]).share < 0.05
    assert pyrovae.completeness(pyrovae.ex_post(vae, x[::2], components=2), x[::2], x[1::2]).share > 0.85


def test_what_is_refused():
    vae, x = VAE((4,), 2, likelihood="gaussian"), torch.randn(6, 4)
    with pytest.raises(ValueError, match="expected two rows of x or more, got 1"):
        pyrovae.continuity(vae, x[:1])
    with pytest.raises(ValueError, match="steps: expected a whole number of at least 2"):
        pyrovae.continuity(vae, x, steps=1)
    with pytest.raises(ValueError, match="level: expected a share"):
        pyrovae.completeness(vae, x, x, level=0)
    with pytest.raises(ValueError, match="unknown distance 'cos': expected one of cosine, euclidean"):
        pyrovae.completeness(vae, x, x, distance="cos")
    with pytest.raises(ValueError, match="components: expected at most the 6 rows"):
        pyrovae.ex_post(vae, x, components=7)
    with pytest.raises(ValueError, match="expected codes that are real numbers, in one layer"):
        pyrovae.ex_post(VAE((4,), [3, 2], likelihood="gaussian"), x)
    with pytest.raises(ValueError, match="expected codes that are real numbers, in one layer"):
        pyrovae.ex_post(VAE((4,), 3, prior="gamma", posterior="gamma", likelihood="gaussian"), x)
