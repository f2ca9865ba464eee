"""Memory that graphs keep: not given out while it is in use, no new pages at a step, not more of it at each."""

import resource
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyrovae import VAE, CompiledSVI
from pyrovae.training import traced, workspace
from pyrovae.training.optimizers import Joint
from pyrovae.training.workspace import LEAST, WORKSPACE, Workspace

ROWS = 3000


def layers(a, b):
    """Products with large tensors between them, a large result and a small one."""
    for _ in range(3):
        a = torch.tanh(a @ b)
    return a, (a @ b).square().sum(1)


@pytest.fixture
def inputs():
    return torch.randn(ROWS, 100), torch.randn(100, 100) / 10


@pytest.fixture
def blocks():
    """Of the workspace, emptied before and afterwards: a tensor for each."""
    WORKSPACE.clear()
    yield lambda: [block.tensor for kept in WORKSPACE.kept.values() for block in kept or ()]
    WORKSPACE.clear()


def test_results_stay_what_they_are_while_they_are_held(inputs, blocks):
    a, b = inputs
    function, held = traced.Traced(layers), []
    for i in range(5):
        held.append((i, function(a + i, b)))
        assert len(held) < 4 or held.pop(0)
        for j, results in held:
            for ours, theirs in zip(results, layers(a + j, b), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert any(tensor.nbytes == ROWS * 100 * 4 for tensor in blocks())


def test_a_step_takes_no_new_memory(inputs, blocks):
    function = traced.Traced(layers)
    function(*inputs)
    before = {tensor.data_ptr() for tensor in blocks()}
    for _ in range(5):
        function(*inputs)
    assert before and {tensor.data_ptr() for tensor in blocks()} == before
    assert all(tensor.nbytes >= LEAST for tensor in blocks())


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages as Linux does")
def test_a_step_finds_its_pages(blocks):
    """Tensors of 40 MB, which the C library takes from the system unless so much lies together that was freed."""
    a, b, taken = torch.randn(100_000, 5), torch.randn(5, 100), []
    function = traced.Traced(lambda a, b: (torch.tanh(a @ b).sum(1),))
    function(a, b)
    pages = 100_000 * 100 * 4 // resource.getpagesize()

    def faults(step):
        step()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            step()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 4

    while faults(lambda: a @ b) < 0.9 * pages:
        # By compiling, or other tests: it is taken until none is left.
        assert len(taken) < 100
        taken.append(torch.zeros(100_000, 100))
    assert faults(lambda: function(a, b)) < 0.1 * pages


def test_what_is_small_is_not_kept(blocks):
    a = torch.randn(9, 9)
    traced.Traced(layers)(a, a)
    assert not WORKSPACE.kept


def test_where_torch_has_other_parts_nothing_is_kept(inputs, blocks, monkeypatch):
    monkeypatch.setattr(workspace, "references", None)

    # Another graph than that of other tests, whose code torch has loaded.
    def other(a, b):
        return layers(a + 1, b)

    for ours, theirs in zip(traced.Traced(other)(*inputs), other(*inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not WORKSPACE.kept


def test_it_is_given_back(inputs, blocks):
    function = traced.Traced(layers)
    function(*inputs)
    assert blocks()
    other = traced.Traced(lambda a: (a + 1,))
    other(torch.zeros(3))
    assert not blocks()
    function(*inputs)
    assert blocks()
    del function
    assert not blocks()


LAYOUT = (LEAST // 8, 2), (2, 1), torch.float32


@pytest.mark.parametrize("hold", [lambda t: t, lambda t: t[1:3], lambda t: t.numpy(), lambda t: t.untyped_storage()])
def test_memory_is_in_use_as_long_as_anything_refers_to_it(hold):
    space = Workspace()
    first = space.empty_strided(*LAYOUT)
    place = first.data_ptr()
    held = hold(first)
    del first
    assert space.empty_strided(*LAYOUT).data_ptr() != place
    del held
    assert space.empty_strided(*LAYOUT).data_ptr() == place
    assert len(space.kept[LAYOUT]) == 2


def test_it_is_laid_out_as_asked():
    space = Workspace()
    for layout in (((300_000, 3), (1, 300_000), torch.float64), ((0, 5), (5, 1), torch.float32), ((), (), torch.int64)):
        for _ in range(2):
            made = space.empty_strided(*layout)
            assert (tuple(made.shape), made.stride(), made.dtype) == layout
            made.fill_(1)


def test_threads_have_their_own(inputs, blocks):
    """What is free in one thread may be taken there between another's look at it and its taking."""
    function = traced.Traced(layers)
    function(*inputs)
    with ThreadPoolExecutor(1) as pool:
        ours, theirs = blocks(), pool.submit(lambda: (function(*inputs), blocks())[1]).result()
    assert ours and len(theirs) == len(ours)
    assert not {tensor.data_ptr() for tensor in ours} & {tensor.data_ptr() for tensor in theirs}


def test_two_threads_at_once_have_the_numbers_of_one(inputs, blocks):
    a, b = inputs
    function = traced.Traced(layers)
    function(a, b)
    expected = layers(a, b), layers(-a, b)

    def work(sign):
        return [
            torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
            for _ in range(20)
            for ours, theirs in zip(function(sign * a, b), expected[sign < 0], strict=True)
        ]

    with ThreadPoolExecutor(2) as pool:
        assert all(all(results) for results in pool.map(work, (1, -1)))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop])
def test_steps_are_pyros(blocks, optimizer):
    """Gradients too, which an optimizer outside of the graph is handed."""
    x = (torch.rand(4, 400, 784) > 0.5).float()
    runs = []
    for kind in (CompiledSVI, SVI):
        torch.manual_seed(0)
        vae = VAE((784,), 4, encoder="mlp(hidden=[400])", decoder="mlp(hidden=[400])")
        moves = optimizer(vae.parameters(), lr=1e-3)
        svi = kind(vae.model, vae.guide, moves if kind is CompiledSVI else Joint(moves), Trace_ELBO())
        runs.append([svi.step(batch) for batch in x for _ in range(2)])
        # They are given back with the compiled steps.
        assert (len(blocks()) >= 2) == (kind is CompiledSVI)
    assert not blocks()
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)
