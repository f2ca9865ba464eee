"""How many draws go through a decoder at once."""

import pytest
import torch

import pyrovae
from pyrovae.elbos import Terms
from pyrovae.evaluation import importance
from pyrovae.evaluation.importance import CHUNK, draws_at_once, importance_terms
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
    vae = pyrovae.VAE((784,), 2, decoder="mlp(hidden=[900, 900, 900, 900])")
    with_gradients, without = (draws_at_once(vae, None, gradients=gradients) for gradients in (True, False))
    assert 64 <= with_gradients < without < CHUNK


def test_other_devices_have_more_at_a_time():
    """Of any other device: on one without numbers, tensors take as many bytes."""
    vae = pyrovae.VAE((1, 28, 28), 2, encoder="conv", decoder="conv")
    here = draws_at_once(vae, None)
    assert 4 * here <= draws_at_once(vae.to("meta"), None) < CHUNK


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


@pytest.mark.parametrize(
    ("num_samples", "chunk", "parts"),
    [
        (5000, 5000, [5000]),
        (5000, 4096, [2500] * 2),
        (5000, 2048, [1250] * 4),
        (400, 4096, [400]),
        (7, 1, [1] * 7),
        (5003, 2048, [1668, 1668, 1667]),
        (100, 64, [50, 50]),
    ],
)
def test_draws_of_a_row_are_computed_in_equal_parts(num_samples, chunk, parts, tiny, monkeypatch):
    """So that one graph serves them all; of a prime number something is left over."""
    asked = []

    def terms(model, guide, x, condition, num_samples):
        asked.append(num_samples)
        return Terms(*torch.zeros(2, num_samples, len(x)))

    monkeypatch.setattr(importance.elbos, "terms", terms)
    pyrovae.log_marginal(tiny(), torch.ones(1, 3), num_samples=num_samples, chunk=chunk)
    assert asked == parts


@pytest.mark.parametrize("n", [1, 23, 97])
@pytest.mark.parametrize("chunk", [7, 150, 401, 4096])
def test_every_row_has_its_draws(linear, n, chunk):
    """Of the exact posterior each weight is p(x) of its row."""
    case, last = linear(n=n), 0
    for rows, terms in importance_terms(case.vae, case.x, None, 400, seed=0, chunk=chunk, progress=False):
        assert rows.start == last and terms.log_weights.shape == (400, rows.stop - rows.start)
        assert torch.allclose(terms.log_weights, case.log_prob[rows].expand(400, -1))
        assert terms.log_weights.numel() <= 16 * chunk + 400
        last = rows.stop
    assert last == n


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("row", [0, 23, 96])
def test_the_row_of_a_weight_that_is_no_number_is_named(value, row, tiny, monkeypatch):
    """Of zero weights, whose logarithm is -inf, nothing is said."""

    def terms(model, guide, x, condition, num_samples):
        reconstruction = x[:, 0].repeat(num_samples, 1)
        reconstruction[:-1] = 0
        return Terms(reconstruction, torch.zeros(num_samples, len(x)))

    x = torch.ones(97, 3)
    x[row, 0] = value
    monkeypatch.setattr(importance.elbos, "terms", terms)
    weights = importance_terms(tiny(), x, None, 100, seed=0, chunk=150, progress=False)
    if value == -torch.inf:
        assert sum((terms.log_weights == value).sum() for _, terms in weights) == 1
    else:
        with pytest.raises(FloatingPointError, match=f"at row {row}:"):
            list(weights)
