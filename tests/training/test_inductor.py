"""Machine code: few files, found again by another run, and an exponential of its own."""

import math
import re

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.fx import Graph, GraphModule
from torch.profiler import ProfilerActivity, profile

from pyrovae.training import elementary, kernels, traced
from pyrovae.training.agreement import disagreement
from pyrovae.training.traced import NotTraceable

EPS = torch.finfo(torch.float32).eps


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Those of kernels that are compiled, where nothing is left from earlier."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    counters.clear()
    return lambda: [file for file in tmp_path.rglob("*.cpp") if re.search(r"void\s+kernel\(", file.read_text())]


def looked_up():
    """How often a graph was found on the disk, and not."""
    return counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"]


def sums(a):
    """Loops of different kinds, more than there are files, and no one loop because of the products between them."""
    for function in (torch.tanh, torch.sigmoid, torch.cos, torch.nn.functional.softplus, torch.sin):
        a = function(a @ a / 9)
    return a, a.sum(0).softmax(0)


def test_kernels_share_files_and_are_found_again(files):
    a = torch.randn(9, 9) / 9
    found = traced.Traced(sums)(a)
    for ours, theirs in zip(found, sums(a), strict=True):
        torch.testing.assert_close(ours, theirs)
    shared = kernels.known()
    assert shared or torch.__version__ < (2, 15)
    assert 1 <= len(files()) <= (max(1, torch._inductor.config.compile_threads) if shared else 9)
    assert looked_up() == (0, 1)
    for ours, again in zip(found, traced.Traced(sums)(a), strict=True):
        assert torch.equal(ours, again)
    assert looked_up() == (1, 1)


def test_sizes_are_numbers_in_loops(files):
    a, b = torch.randn(3, 7), torch.randn(7, 7)
    traced.Traced(lambda a, b: (torch.tanh(a @ b) @ b,))(a, b)
    assert files() and not any(re.search(r"\bks\d", file.read_text()) for file in files())


@pytest.mark.parametrize(("there", "flags"), [((), ()), (("ld.gold",), ("-fuse-ld=gold",))])
def test_the_fastest_linker_that_is_there_links(there, flags, monkeypatch):
    monkeypatch.setattr(kernels, "which", lambda name: f"/usr/bin/{name}" if name in there else None)
    monkeypatch.setattr(kernels.sys, "platform", "linux")
    assert kernels.linking() == flags
    monkeypatch.setattr(kernels.sys, "platform", "darwin")
    assert kernels.linking() == ()


@pytest.mark.parametrize("broken", ["load", "linking"])
def test_where_files_cannot_be_shared_each_kernel_has_its_own(broken, files, monkeypatch):
    def load(given):
        raise TypeError("another torch")

    monkeypatch.setattr(kernels, broken, load if broken == "load" else lambda: ("-fuse-ld=none",))
    a = torch.randn(9, 9) / 9
    for ours, theirs in zip(traced.Traced(sums)(a), sums(a), strict=True):
        torch.testing.assert_close(ours, theirs)
    # Files that were to be shared lie there too, written before it was seen that nothing links them.
    assert len([file for file in files() if "namespace kernel_" not in file.read_text()]) >= 5


def test_one_compiler_compiles_one_file_after_another(files):
    """As on a machine, or in a container, with a single core."""
    a = torch.randn(9, 9) / 9
    with torch._inductor.config.patch(compile_threads=1):
        found = traced.Traced(sums)(a)
    for ours, theirs in zip(found, sums(a), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(files()) >= 5


def dropped(a):
    """Dropout of what has the order in memory of something else, twice."""
    weights = torch.nn.functional.dropout((a @ a.mT).softmax(-1), 0.5)
    return (torch.nn.functional.dropout((weights @ a).transpose(0, 1), 0.5).sin(),)


def subsampled(a):
    """Rows in their turn between other draws."""
    before = torch.randn(4)
    rows = a[torch.randperm(8)[:4]]
    return (before * rows.sum(-1).sum(-1) + torch.randn(4), rows)


@pytest.mark.parametrize("function", [dropped, subsampled])
def test_draws_are_where_they_are_drawn(function, files):
    """In the same order, each for the same place, whatever was compiled before, from which Inductor learns patterns."""
    if function is subsampled:
        torch.compile(lambda a: a.sin())(torch.ones(3, requires_grad=True)).sum().backward()
    a = torch.randn(8, 5, 4)
    for _ in range(2):
        torch.manual_seed(3)
        found = traced.Traced(function)(a)
        torch.manual_seed(3)
        for ours, theirs in zip(found, function(a), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_another_order_in_memory_is_another_graph():
    a = torch.randn(4, 4)
    function = traced.Traced(lambda a: (torch.tanh(a @ a), a.sum(0)))
    for given in (a, a.T, a, torch.randn(4, 8)[:, ::2]):
        for ours, theirs in zip(function(given), (torch.tanh(given @ given), given.sum(0)), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_what_was_compiled_with_another_exponential_is_not_found(files, monkeypatch, tmp_path):
    a = torch.randn(4)
    traced.Traced(lambda a: (torch.tanh(a),))(a)
    other = tmp_path / "elementary.py"
    other.write_text("another")
    monkeypatch.setattr(elementary, "__file__", str(other))
    traced.Traced(lambda a: (torch.tanh(a),))(a)
    assert looked_up() == (0, 2)


def test_what_was_compiled_for_other_vectors_is_not_found(files, monkeypatch):
    """Torch by itself finds it, and takes loops of 16 numbers for those of 8: other numbers."""
    a = torch.randn(4)
    traced.Traced(lambda a: (torch.tanh(a),))(a)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    traced.Traced(lambda a: (torch.tanh(a),))(a)
    assert looked_up() == (0, 2)


@pytest.mark.parametrize("place", ["output", "state"])
def test_machine_code_with_other_numbers_is_refused(place, monkeypatch):
    """As of a torch that loses an operation; of rounding, and of draws that a seed decides, nothing is said."""
    weight, state, a = torch.nn.Parameter(torch.ones(3)), torch.zeros(4), torch.randn(5, 3)

    def function(a):
        state.mul_(0.9).add_(a.sum())
        return ((torch.randn(3) * a @ torch.diag(weight)).detach(),)

    def compiled(graph, inputs, **options):
        machine = real(graph, inputs)

        def run(*inputs):
            outputs = machine(*inputs)
            written = next(tensor for tensor in inputs if tensor.shape == state.shape)
            {"output": outputs[0], "state": written}[place].mul_(1 + error)
            return outputs

        return run

    real, error = traced.compiled, 1e-4
    monkeypatch.setattr(traced, "compiled", compiled)
    traced.Traced(function)(a)
    error = 0.1
    with pytest.raises(NotTraceable, match=r"compiles it to other numbers .by 0.1 of what they are.: try another$"):
        traced.Traced(function)(a)


def test_how_far_numbers_are_apart():
    def apart(wanted, found, *inputs):
        returned = iter((wanted, found))
        graph, machine = GraphModule({}, Graph()), lambda *_: (next(returned),)
        graph.forward = machine
        return disagreement(graph, machine, inputs)

    zeros, ones = torch.zeros(3), torch.ones(3)
    assert apart(zeros, ones) == 1
    assert apart(ones, torch.tensor([1.0, 1.5, 1.0])) == pytest.approx(0.5)
    assert apart(ones, 1.005 * ones) is None
    assert apart(torch.tensor([1.0, torch.nan, torch.inf]), torch.tensor([1.0, torch.nan, torch.inf])) is None
    assert apart(ones, torch.tensor([1.0, torch.nan, 1.0])) == 1
    assert apart(torch.tensor(3), torch.tensor(4)) == pytest.approx(1 / 3)


def test_rows_may_lie_anywhere():
    """Apart, or several at one place, those that are given and those that a function closes over."""
    a = torch.randn(10, 7)
    for given, closed in ((a[:, 2:5], a[:, 4:]), (a[:1, :3].expand(10, 3), a.T[2:5].T), (a[:0, :3], a[:1, :3])):
        function = traced.Traced(lambda given, closed=closed: ((given.tanh() * closed).sum(0),))
        torch.testing.assert_close(function(given)[0], (given.tanh() * closed).sum(0))


def test_what_shares_memory_that_is_written_to_is_refused():
    """One would not see what is written to the other."""
    both = torch.zeros(4, 3)
    a, b = both[:3], both[1:]

    def function(x):
        a.add_(x)
        return (b * 2,)

    with pytest.raises(NotTraceable):
        traced.Traced(function)(torch.ones(3, 3))
    assert torch.equal(both, torch.zeros(4, 3))


def test_errors_of_a_kernel_are_errors_of_python(files):
    function = traced.Traced(lambda a, rows: (a[rows] + 1,))
    a = torch.arange(5.0)
    assert torch.equal(function(a, torch.tensor([3, 1]))[0], torch.tensor([4.0, 2.0]))
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        function(a, torch.tensor([3, 5]))


@pytest.mark.skipif(torch.__version__ < (2, 15), reason="kernels of some older torch do not look at divisors")
def test_a_division_by_zero_is_an_error_of_python(files):
    function = traced.Traced(lambda a, b: (a // b,))
    one, zero = torch.ones(20, dtype=torch.int64), torch.zeros(20, dtype=torch.int64)
    assert torch.equal(function(one, one)[0], one)
    with pytest.raises(RuntimeError):
        function(one, zero)


def test_a_bias_is_part_of_the_loop_that_follows():
    layer = torch.nn.Linear(5, 6)

    def tanh(x):
        return (torch.tanh(layer(x)),)

    function, x = traced.Traced(tanh), torch.randn(2, 3, 5)
    torch.testing.assert_close(function(x)[0], tanh(x)[0].detach())
    with profile(activities=[ProfilerActivity.CPU]) as found:
        function(x)
    names = {event.key for event in found.key_averages()}
    assert "aten::mm" in names and not names & {"aten::addmm", "aten::copy_"}


def test_polynomials():
    r = np.linspace(-math.log(2) / 2, math.log(2) / 2, 100_001)
    values = np.polyval(np.float32(elementary.exp_terms()).astype(float), r)
    assert np.abs(values / np.exp(r) - 1).max() < 1.1e-7
    assert np.polyval(elementary.exp_terms(), 0.0) == 1
    a = np.linspace(1e-9, 1, 100_001)
    values = np.polyval(np.float32(elementary.log1p_terms()).astype(float), a)
    assert np.abs(a * values / np.log1p(a) - 1).max() < 2e-8


def test_log1p():
    """As machine code, and as torch has it where there is none."""
    a = torch.cat([torch.linspace(0, 1, 200_001), torch.logspace(-44, 0, 1001, dtype=torch.float64).float()])
    exact = np.log1p(a.double().numpy())
    machine = traced.Traced(lambda a: (elementary.log1p(a),))
    for function in (elementary.log1p, lambda a: machine(a)[0]):
        found = function(torch.cat([a, torch.tensor([torch.nan])]))
        assert found[-1].isnan() and found.dtype == torch.float32
        error = np.abs(found[:-1].double().numpy() - exact)
        assert (error <= 1.5 * EPS * exact + np.finfo(np.float32).smallest_subnormal).all()


@pytest.mark.parametrize(("least", "most", "shift"), [(-87.0, 87.0, 0), (-103.0, math.inf, 24), (-math.inf, 40.0, 0)])
def test_exp(least, most, shift):
    """As machine code, and as torch has it where there is none."""
    ends = max(least, -87 - shift * math.log(2)), min(most, 87 - shift * math.log(2))
    beyond = [5 * math.isfinite(bound) for bound in (least, most)]
    a = torch.linspace(ends[0] - beyond[0], ends[1] + beyond[1], 200_001)
    bounded = [bound for bound in (-math.inf, math.inf) if bound not in (least, most)]
    a = torch.cat([a, torch.tensor([0.0, -0.0, *bounded])])
    exact = np.exp(np.clip(a.double().numpy(), least, most)) * 2.0**shift
    machine = traced.Traced(lambda a: (elementary.exp(a, least, most, shift),))
    for function in (lambda a: elementary.exp(a, least, most, shift), lambda a: machine(a)[0]):
        found = function(torch.cat([a, torch.tensor([torch.nan])]))
        assert found[-1].isnan() and found.dtype == torch.float32
        assert np.abs(found[:-1].double().numpy() / exact - 1).max() < 2.5 * EPS


@pytest.mark.parametrize("beside", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [1000, 1003])
def test_exp_beside_other_types(beside, size, files):
    """Where one loop has vectors of several types, float32 fills one or two of them. Bits stay in registers, and
    a bound is one instruction."""
    a, other = torch.linspace(-20, 20, size), torch.linspace(1, 2, size, dtype=beside)
    machine = traced.Traced(lambda a, other: (elementary.exp(a, -87.0, 87.0) * other, other + 1))
    found, more = machine(a, other)
    exact = np.exp(a.double().numpy()) * other.double().numpy()
    assert np.abs(found.double().numpy() / exact - 1).max() < 3 * EPS
    torch.testing.assert_close(more, other + 1)
    text = "".join(file.read_text() for file in files())
    assert "vec::cast<float>" in text and "tmpbuf" not in text
    assert text.count("vec::clamp_min(") == 2 * text.count("vec::cast<float>") or torch.__version__ < (2, 15)
    assert ("VectorizedN<int32_t, 2>" in text) == (beside == torch.bfloat16)
