"""Models, optimizers and graphs go with the last one that uses them, and do not wait for Python to look for cycles."""

import gc
import weakref

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyrovae
from pyrovae.training.weak import weakly

X = torch.randn(40, 3)


@pytest.fixture
def no_collection():
    """From its call on Python looks for no cycles."""
    yield gc.disable
    gc.enable()


def made(tiny):
    vae = tiny()
    return vae, [weakref.ref(vae), *map(weakref.ref, vae.parameters())]


@pytest.mark.parametrize("compile", [False, True])
def test_a_model_that_was_fitted(tiny, as_traced, no_collection, compile):
    vae, seen = made(tiny)
    pyrovae.fit(vae, X, epochs=2, batch_size=20, progress=False, compile=compile)
    no_collection()
    assert len(as_traced) == compile and all(ref() is not None for ref in seen)
    del vae
    assert not any(ref() is not None for ref in seen)


@pytest.mark.parametrize("steps", [1, 3])
def test_an_optimizer_goes_on_without_the_svi(tiny, as_traced, no_collection, steps):
    """It takes steps and states of its own, and does not keep the svi, which had asked to hear of both."""
    vae, seen = made(tiny)
    adam = torch.optim.Adam(vae.parameters(), lr=0.01)
    svi = pyrovae.CompiledSVI(vae.model, vae.guide, adam, Trace_ELBO())
    losses = [svi.step(X) for _ in range(steps)]
    gone = weakref.ref(svi)
    no_collection()
    del svi
    assert gone() is None and len(losses) == steps and len(as_traced) == (steps > 1)
    adam.load_state_dict(adam.state_dict())
    before = [p.detach().clone() for p in vae.parameters()]
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, X).backward()
    adam.step()
    assert not any(torch.equal(p, was) for p, was in zip(vae.parameters(), before, strict=True))
    assert float(adam.state[next(vae.parameters())]["step"]) == steps + 1
    del vae, adam
    pyro.clear_param_store()
    assert not any(ref() is not None for ref in seen)


def test_machine_code(tiny, as_compiled, no_collection):
    vae, seen = made(tiny)
    svi = pyrovae.CompiledSVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO())
    assert all(svi.step(X) for _ in range(3)) and svi.reason is None
    as_compiled.clear()
    no_collection()
    del vae, svi
    pyro.clear_param_store()
    assert not any(ref() is not None for ref in seen)


def test_what_is_gone_does_nothing():
    class Adder:
        def add(self, a, b=1):
            return a + b

    adder = Adder()
    add = weakly(adder.add)
    assert add(1) == 2 and add(1, b=5) == 6
    del adder
    assert add(1) is None
