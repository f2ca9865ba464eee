"""Random numbers from a seed, and when Python looks for garbage."""

import gc
import weakref

import pytest
import torch

from pyrovae.modes import isolated, reseed, uncollected
from pyrovae.training.traced import Traced


@pytest.mark.parametrize("seed", [0, 7, -3, 2**64 - 1])
def test_a_seed_is_torchs(seed):
    # Not torch.manual_seed, which conftest.py replaces.
    torch.random.manual_seed(seed)
    wanted = torch.randn(20)
    reseed(seed)
    assert torch.equal(torch.randn(20), wanted)
    before = torch.get_rng_state()
    with isolated(seed):
        assert torch.equal(torch.randn(20), wanted)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_gpu_draws_follows_too(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    reseed(5)
    assert seeds == [5]


class Ring:
    """What refers to itself, so that only a collection finds that nothing else does."""

    def __init__(self):
        self.ring = self


@pytest.fixture
def collections():
    """Generations that Python looks through."""
    found = []

    def hear(phase, info):
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(hear)
    # It has just done so, and has no reason of its own to do so again within a test.
    gc.collect(0)
    found.clear()
    yield found
    gc.callbacks.remove(hear)
    gc.enable()


@pytest.mark.parametrize("count", [1, 100_000])
def test_garbage_is_looked_for_once_in_the_end(collections, count):
    """Little, too, for which Python would not do so yet."""
    with uncollected():
        rings = [Ring() for _ in range(count)]
        seen = [weakref.ref(rings[0]), weakref.ref(rings[-1])]
        del rings
        assert not collections and all(ref() for ref in seen)
    assert gc.isenabled() and collections == [0]
    assert not any(ref() for ref in seen)


def test_whoever_looks_for_no_garbage_goes_on_so(collections):
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled() and not collections


def test_it_goes_on_after_an_error(collections):
    with pytest.raises(LookupError), uncollected():
        raise LookupError
    assert gc.isenabled()


def test_compiling_looks_for_it_once(as_traced, collections):
    Traced(lambda x: (x.exp().sum(),))(torch.ones(3))
    assert len(as_traced) == 1 and collections == [0]
    assert gc.isenabled()
