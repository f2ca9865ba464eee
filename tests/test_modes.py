"""Random numbers from a seed."""

import pytest
import torch

from pyrovae.modes import isolated, reseed


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
