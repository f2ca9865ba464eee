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
    """Generations that Python looked through, with nothing frozen; conftest.py freezes."""
    found = []

    def hear(phase, info):
        if phase == "start":
            found.append(info["generation"])

    gc.unfreeze()
    gc.callbacks.append(hear)
    yield found
    gc.callbacks.remove(hear)
    gc.enable()
    gc.freeze()


def test_no_garbage_is_looked_for_inside_and_it_is_found_afterwards(collections):
    with uncollected():
        rings = [Ring() for _ in range(100_000)]
        seen = [weakref.ref(rings[0]), weakref.ref(rings[-1])]
        del rings
        assert not collections
    assert gc.isenabled() and not collections and gc.get_freeze_count() == 0
    # Those made inside are old: the young ones, which are looked at first, do not have them.
    gc.collect(0)
    assert all(ref() for ref in seen)
    gc.collect()
    assert not any(ref() for ref in seen)


def test_whoever_looks_for_no_garbage_goes_on_so(collections):
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_what_is_frozen_stays_so(collections):
    gc.freeze()
    frozen = gc.get_freeze_count()
    with uncollected():
        pass
    # Less what has died since.
    assert gc.isenabled() and 0.9 * frozen < gc.get_freeze_count() <= frozen


def test_it_goes_on_after_an_error(collections):
    with pytest.raises(LookupError), uncollected():
        raise LookupError
    assert gc.isenabled()


def test_compiling_looks_for_none(as_traced, collections):
    traced = Traced(lambda x: (x.exp().sum(),))
    before = len(collections)
    traced(torch.ones(3))
    assert len(as_traced) == 1 and len(collections) == before
    assert gc.isenabled()
