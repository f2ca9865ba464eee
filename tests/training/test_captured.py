"""Recorded kernels do what the function does: on a GPU, and here with a recorder that keeps the rules of one."""

import pytest
import torch
from pyro.infer import Trace_ELBO

import pyrovae
from pyrovae.training import captured, traced
from pyrovae.training.captured import Captured


def function(x, y, total):
    """Writes to what it closes over, and gives the same memory at each call, as recorded kernels do."""
    total.add_(x.sum())
    return x * y, total.clone()


def recorder(run):
    """Runs nothing now; at a replay, what reads and writes where it did when it was recorded."""
    before = [t.clone() for t in STATE]
    outputs = run()
    for t, value in zip(STATE, before, strict=True):
        t.copy_(value)

    def replay():
        for held, value in zip(outputs, run(), strict=True):
            held.copy_(value)

    return replay, outputs


STATE = []


@pytest.fixture
def total(monkeypatch):
    monkeypatch.setattr(captured, "record", recorder)
    STATE[:] = [torch.zeros(())]
    return STATE[0]


def test_replays_are_calls(total):
    ours, other = Captured(function, [total]), torch.zeros(())
    results, expected = [], []
    for i in range(5):
        x, y = torch.full((3,), float(i)), torch.arange(3.0)
        results.append(ours([x, y]))
        expected.append(function(x, y, other))
    for found, wanted in zip(results, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert torch.equal(total, other)


def test_what_cannot_be_recorded_is_run_as_it_is(total, monkeypatch):
    asked = []

    def refuse(run):
        asked.append(run)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(captured, "record", refuse)
    ours = Captured(function, [total])
    for i in range(4):
        found = ours([torch.ones(2), torch.full((2,), float(i))])
        assert torch.equal(found[0], torch.full((2,), float(i))) and float(found[1]) == 2.0 * (i + 1)
    assert len(asked) == 1


def test_only_what_is_on_one_gpu_is_recorded():
    assert not captured.recordable([torch.zeros(1)])
    assert not captured.recordable([torch.zeros(1), torch.zeros(1, device="meta")])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    """Steps are those of Pyro from the same seed, and draws are new at each."""
    x = (torch.rand(64, 64, device="cuda") < 0.3).float()
    losses, vaes = [], []
    for compiled in (True, False):
        torch.manual_seed(0)
        vaes.append(pyrovae.VAE((64,), 4, encoder="mlp(hidden=[16])", decoder="mlp(hidden=[16])").cuda())
        adam = torch.optim.Adam(vaes[-1].parameters(), lr=1e-3, fused=True)
        svi = pyrovae.CompiledSVI(vaes[-1].model, vaes[-1].guide, adam, Trace_ELBO(), worth=lambda *_, c=compiled: c)
        torch.manual_seed(1)
        losses.append([svi.step(x) for _ in range(8)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(set(losses[0])) == 8
    for a, b in zip(vaes[0].parameters(), vaes[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_compiled_function_on_a_gpu_is_recorded(monkeypatch):
    made = []

    def kept(run):
        made.append(captured_record(run))
        return made[-1]

    captured_record = captured.record
    monkeypatch.setattr(captured, "record", kept)
    double = traced.Traced(lambda a: (2 * a,))
    for i in range(4):
        assert torch.equal(double(torch.full((3,), i, device="cuda"))[0].cpu(), torch.full((3,), 2 * i))
    assert len(made) == 1
