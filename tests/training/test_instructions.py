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
    """A set of vector instructions, and what was tried with it."""

    __eq__, __hash__ = object.__eq__, object.__hash__

    def __init__(self, *codes, without=()):
        self.codes, self.without, self.tried = codes, without, []

    def __bool__(self):
        return all([self.check_build(code) for code in self.codes])


@pytest.fixture
def tries(monkeypatch):
    """How many there were at once, of each: it takes a while."""
    lock, now, tries = Lock(), [], []

    def check_build(self, code):
        with lock:
            self.tried.append(code)
            now.append(code)
            tries.append(len(now))
        time.sleep(0.2)
        with lock:
            now.remove(code)
        return code not in self.without

    monkeypatch.setattr(isa.VecISA, "check_build", check_build)
    monkeypatch.setattr(isa, "x86_isa_checker", lambda: ["avx2"])
    # As where nobody has asked.
    monkeypatch.setattr(isa, "valid_vec_isa_list", cache(isa.valid_vec_isa_list.__wrapped__))
    return tries


def ask_in_threads():
    threads = [Thread(target=inductor._instructions) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("without", "valid", "tried"),
    [
        ([], [0, 1, 2], [["all", "more", "most"], [], []]),
        # A part has what passed with the largest, and is asked the rest.
        (["most"], [1, 2], [["all", "more", "most"], [], []]),
        (["more", "most"], [1, 2], [["all", "more", "most"], ["more"], []]),
        (["all", "more", "most"], [1, 2], [["all", "more", "most"], ["all", "more"], []]),
    ],
)
def test_what_passes_with_the_largest_set_is_not_tried_with_its_parts(without, valid, tried, tries, monkeypatch):
    sets = [Slow("all", "more", "most", without=without), Slow("all", "more"), Slow("all")]
    monkeypatch.setattr(isa, "supported_vec_isa_list", sets)
    ask_in_threads()
    assert isa.valid_vec_isa_list() == [sets[i] for i in valid]
    assert [one.tried for one in sets] == tried
    assert set(tries) == {1}


@pytest.mark.parametrize("shared", [False, True])
def test_compiling_waits_for_them(shared, tries, monkeypatch):
    """So that torch does not try those that a thread is trying, whichever of its entries is asked."""
    monkeypatch.setattr(isa, "supported_vec_isa_list", [Slow(*range(15))])
    x = torch.ones(4)
    inputs = [x, x if shared else torch.ones(4)]
    with inductor.warming():
        time.sleep(0.1)
        step = inductor.compiled(symbolic_trace(lambda a, b: (a + b,)), inputs)
    assert set(tries) == {1} and len(tries) >= 15
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
