"""Importance sampling as a compiled graph is that of the program itself."""

import math

import pytest
import torch

import pyrovae
from pyrovae.evaluation import importance


@pytest.fixture
def graphs(as_traced, monkeypatch):
    """Everything is worth compiling, and a graph is run as it was traced; the graphs."""
    monkeypatch.setattr(importance, "WORTH", 0)
    return as_traced


@pytest.mark.parametrize("chunk", [4096, 80, 40, 15])
@pytest.mark.parametrize("settings", [{}, {"prior": "vamp(components=3)"}, {"condition_dim": 2}], ids=str)
def test_log_marginal(graphs, monkeypatch, tiny, settings, chunk):
    vae = tiny(likelihood="gaussian", **settings)
    x = torch.randn(5, 3)
    condition = torch.randn(5, 2) if "condition_dim" in settings else None
    value, error = pyrovae.log_marginal(vae, x, condition, num_samples=40, chunk=chunk, progress=False)
    # One graph, of the shape that most calls have; rows or draws that are left over are few.
    assert len(graphs) == 1
    monkeypatch.setattr(importance, "WORTH", math.inf)
    theirs = pyrovae.log_marginal(vae, x, condition, num_samples=40, chunk=chunk, progress=False)
    assert len(graphs) == 1
    assert torch.allclose(value, theirs.value, atol=1e-5) and torch.allclose(error, theirs.standard_error, atol=1e-5)


def test_what_cannot_be_traced_is_computed_all_the_same(graphs, monkeypatch, tiny):
    vae = tiny(likelihood="gaussian", posterior="refined(steps=1)")
    x = torch.randn(5, 3)
    value = pyrovae.log_marginal(vae, x, num_samples=40, progress=False).value
    assert not graphs
    monkeypatch.setattr(importance, "WORTH", math.inf)
    assert torch.equal(value, pyrovae.log_marginal(vae, x, num_samples=40, progress=False).value)


def test_machine_code(as_compiled, monkeypatch, tiny):
    vae = tiny(likelihood="gaussian")
    x = torch.randn(5, 3)
    theirs = pyrovae.log_marginal(vae, x, num_samples=40, chunk=40, progress=False).value
    monkeypatch.setattr(importance, "WORTH", 0)
    assert torch.allclose(
        pyrovae.log_marginal(vae, x, num_samples=40, chunk=40, progress=False).value, theirs, atol=1e-5
    )
    assert len(as_compiled) == 1
