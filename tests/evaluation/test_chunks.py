"""How many draws go through a decoder at once."""

import pytest
import torch

import pyrovae
from pyrovae.evaluation import importance
from pyrovae.evaluation.importance import CHUNK, draws_at_once
from pyrovae.evaluation.memory import PeakMemory

WIDE = dict(encoder="mlp(hidden=[4])", decoder="mlp(hidden=[500, 500])")


def peak(function, *args, **kwargs):
    with PeakMemory() as memory:
        function(*args, progress=False, **kwargs)
    return memory.peak


@pytest.mark.parametrize(
    ("function", "settings"),
    [(pyrovae.log_marginal, dict(num_samples=2000)), (pyrovae.ais, dict(num_chains=50, num_steps=2, leapfrog=1))],
    ids=["importance", "ais"],
)
def test_as_many_as_fit(monkeypatch, function, settings):
    """Tensors of a megabyte, beside parameters and data; all draws at once take many times that."""
    monkeypatch.setattr(importance, "MEMORY", 2**20)
    vae, x = pyrovae.VAE((30,), 2, **WIDE), torch.ones(40, 30)
    beside = sum(4 * values.numel() for values in (x, *vae.parameters()))
    assert peak(function, vae, x, **settings) - beside < 1.2 * 2**20
    assert peak(function, vae, x, **settings, chunk=2000) - beside > 4 * 2**20


def test_those_of_a_gradient_are_more():
    vae = pyrovae.VAE((1, 28, 28), 2, encoder="conv", decoder="conv")
    with_gradients, without = (draws_at_once(vae, None, gradients=gradients) for gradients in (True, False))
    assert 64 <= with_gradients < without < CHUNK


@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(condition_dim=3),
        dict(condition_shape=(1, 4, 4)),
        dict(label=3),
        dict(prior="gp", condition_dim=1),
        dict(posterior="delta"),
    ],
    ids=str,
)
def test_small_models(settings):
    vae = pyrovae.VAE((1, 4, 4), 2, **settings)
    state = torch.get_rng_state()
    assert draws_at_once(vae, None) == CHUNK and draws_at_once(vae, 7) == 7
    assert vae.training and torch.equal(torch.get_rng_state(), state)


def test_a_network_of_so_many_rows(monkeypatch):
    """It cannot be tried with one."""
    vae, x = pyrovae.VAE((4,), 2), torch.ones(30, 4)
    vae.posterior.network = torch.nn.Sequential(vae.posterior.network, torch.nn.Unflatten(0, (30,)))
    assert draws_at_once(vae, None) == CHUNK
    assert len(pyrovae.log_marginal(vae, x, num_samples=10).value) == 30


@pytest.mark.parametrize("chunk", [0, -1, 2.5])
def test_what_is_no_number_of_draws(chunk):
    with pytest.raises(ValueError, match="chunk"):
        pyrovae.log_marginal(pyrovae.VAE((4,), 2), torch.ones(3, 4), chunk=chunk)
