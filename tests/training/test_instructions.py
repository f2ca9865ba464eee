import subprocess
import sys
import time
from functools import cache
from threading import Lock, Thread

import pytest
import torch
from torch.fx import symbolic_trace

from pyrovae.training import inductor

isa = pytest.importorskip("torch._inductor.cpu_vec_isa")
pytestmark = pytest.mark.skipif(not isa.x86_isa_checker(), reason="of x86 processors")
FLAGS = "print([one.build_arch_flags() for one in isa.valid_vec_isa_list()], isa.pick_vec_isa().build_arch_flags())"


class Slow(isa.VecAVX2):
    """Vector instructions that take a while to try, and keep how many threads did so at once, at most."""

    lock, seconds = Lock(), 0.2
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __init__(self, passes=True):
        self.passes, self.trying, self.at_once = passes, 0, 0

    def check_build(self, code):
        with self.lock:
            self.trying += 1
            self.at_once = max(self.at_once, self.trying)
        time.sleep(self.seconds)
        with self.lock:
            self.trying -= 1
        return self.passes


@pytest.fixture(params=[True, False])
def slow(monkeypatch, request):
    sets = [Slow(request.param), Slow(), Slow()]
    monkeypatch.setattr(isa, "supported_vec_isa_list", sets)
    monkeypatch.setattr(isa, "x86_isa_checker", lambda: ["avx2"])
    # As where nobody has asked.
    monkeypatch.setattr(isa, "valid_vec_isa_list", cache(isa.valid_vec_isa_list.__wrapped__))
    return sets


def test_the_largest_set_is_tried_by_one_thread_and_its_parts_where_it_fails(slow):
    threads = [Thread(target=inductor._instructions) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    largest, *parts = slow
    assert [one.at_once for one in slow] == ([1, 0, 0] if largest.passes else [1, 1, 1])
    assert isa.valid_vec_isa_list() == (slow if largest.passes else parts)


@pytest.mark.parametrize("shared", [False, True])
def test_compiling_waits_for_them(slow, shared, monkeypatch):
    """So that torch does not try those that a thread is trying, whichever of its entries is asked."""
    monkeypatch.setattr(Slow, "seconds", 3.0 if slow[0].passes else 1.0)
    x = torch.ones(4)
    inputs = [x, x if shared else torch.ones(4)]
    with inductor.warming():
        time.sleep(0.1)
        step = inductor.compiled(symbolic_trace(lambda a, b: (a + b,)), inputs)
    assert max(one.at_once for one in slow) == 1
    assert torch.equal(step(*inputs)[0], torch.full((4,), 2.0))


def test_flags_are_those_torch_finds_by_itself():
    """Or else what another run compiled would not be found."""
    start = "import torch._inductor.cpu_vec_isa as isa; from pyrovae.training import inductor;"
    ask = "[inductor._instructions() for _ in range(2)];"
    by_torch, by_us = (
        subprocess.run([sys.executable, "-c", start + by + FLAGS], capture_output=True, text=True, check=True).stdout
        for by in ("", ask)
    )
    assert "-m" in by_torch
    assert by_us == by_torch
