"""Chains whose densities are compiled graphs are those of the program itself."""

import math

import pytest
import torch

import pyrovae
from pyrovae.evaluation import states
from pyrovae.training import traced

MODELS = {
    "one layer": {},
    "conditional": {"condition_dim": 2},
    "prior of pseudo-inputs": {"prior": "vamp(components=3)"},
    "simplex": {"latent_dim": 3, "prior": "dirichlet", "posterior": "dirichlet"},
    "positive": {"prior": "gamma(concentration=2.0)", "posterior": "gamma"},
    "flow": {"posterior": "maf(transforms=1, hidden=[4])"},
    "two layers": {"latent_dim": [3, 2]},
    "two layers, conditional": {"latent_dim": [3, 2], "inference": "top_down", "condition_dim": 2},
}
ANNEALING = dict(num_chains=4, num_steps=3, leapfrog=2, chunk=12, progress=False)
ROWS = 8
"""In chunks of 3, 3 and 2."""
FULL = 1.5 * 3 * 3
"""Gradients of more than one chunk and fewer than two."""


@pytest.fixture
def graphs(as_traced, monkeypatch):
    """Densities of chunks of 3 rows are worth compiling, and graphs are run as they were traced; the graphs."""
    monkeypatch.setattr(states, "WORTH", FULL)
    return as_traced


def model(tiny, settings):
    vae = tiny(likelihood="gaussian", **settings)
    vae.likelihood.head.weight.data.mul_(5)
    return vae, torch.randn(ROWS, 3), torch.randn(ROWS, 2) if vae.condition_dim else None


def both(monkeypatch, run):
    """What is computed with graphs, and without."""
    compiled = run()
    monkeypatch.setattr(states, "WORTH", math.inf)
    return compiled, run()


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_ais(graphs, monkeypatch, tiny, settings):
    vae, x, condition = model(tiny, settings)
    ours, theirs = both(monkeypatch, lambda: pyrovae.ais(vae, x, condition, **ANNEALING))
    assert torch.allclose(ours.value, theirs.value, atol=1e-4)
    assert torch.allclose(ours.standard_error, theirs.standard_error, atol=1e-4)
    # One of the chains that find step sizes and one of those that count, for both full chunks; the last has none.
    assert len(graphs) == 2


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize("name", ["one layer", "conditional", "two layers"])
def test_bdmc(graphs, monkeypatch, tiny, name, start):
    vae, _, condition = model(tiny, MODELS[name])
    ours, theirs = both(monkeypatch, lambda: pyrovae.bdmc(vae, ROWS, condition, start=start, **ANNEALING))
    assert torch.allclose(ours.lower, theirs.lower, atol=1e-4) and torch.allclose(ours.upper, theirs.upper, atol=1e-4)
    assert len(graphs) == 2


@pytest.mark.parametrize("method", ["hmc", "mala"])
@pytest.mark.parametrize("name", ["conditional", "simplex", "two layers"])
def test_sample_posterior(graphs, monkeypatch, tiny, name, method):
    vae, x, condition = model(tiny, MODELS[name])
    arguments = dict(method=method, num_samples=2, warmup=6, num_chains=4, leapfrog=2, chunk=12, progress=False)
    ours, theirs = both(monkeypatch, lambda: pyrovae.sample_posterior(vae, x, condition, **arguments))
    for name, values in theirs["posterior"].items():
        assert torch.allclose(*(torch.tensor(z.values) for z in (ours["posterior"][name], values)), atol=1e-4)
    assert len(graphs) == 1


@pytest.mark.parametrize(("posterior", "most"), [("refined(steps=1)", 2500), ("normal", 50)])
def test_what_cannot_be_traced_or_is_too_long_is_computed_all_the_same(graphs, monkeypatch, tiny, posterior, most):
    monkeypatch.setattr(states, "MOST", most)
    vae, x, _ = model(tiny, {"posterior": posterior})
    ours, theirs = both(monkeypatch, lambda: pyrovae.ais(vae, x, **ANNEALING))
    assert torch.equal(ours.value, theirs.value) and not graphs


def test_without_a_compiler(monkeypatch, tiny):
    asked = []

    def none(graph, inputs, **options):
        asked.append(graph)
        raise RuntimeError("no compiler")

    monkeypatch.setattr(traced, "compiled", none)
    monkeypatch.setattr(states, "WORTH", FULL)
    vae, x, _ = model(tiny, {})
    ours, theirs = both(monkeypatch, lambda: pyrovae.ais(vae, x, **ANNEALING))
    assert torch.equal(ours.value, theirs.value) and len(asked) == 1


def test_machine_code(as_compiled, monkeypatch, tiny):
    vae, *_ = model(tiny, {})
    arguments = {**ANNEALING, "num_chains": 8, "chunk": 24}
    monkeypatch.setattr(states, "WORTH", FULL)
    ours, theirs = both(monkeypatch, lambda: pyrovae.bdmc(vae, ROWS, **arguments))
    assert torch.allclose(ours.lower, theirs.lower, atol=1e-4) and torch.allclose(ours.upper, theirs.upper, atol=1e-4)
    assert len(as_compiled) == 1
