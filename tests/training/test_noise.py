"""Random numbers drawn apart from a graph are those that the function itself draws."""

import time
from threading import Event, Thread

import pytest
import torch

from pyrovae.training import inductor
from pyrovae.training.kernels import known
from pyrovae.training.traced import Apart, Traced


def several(a):
    noise = torch.empty(3, 40, dtype=torch.float64).normal_(1.0, 0.5)
    return a + torch.empty(40).uniform_(-1, 3), noise.sum(0) * torch.empty(40).exponential_(2.0)


@pytest.mark.parametrize("function", [several, lambda a: (a + torch.empty(40).bernoulli_(0.3),), lambda a: (a.exp(),)])
def test_numbers_of_a_generator(as_traced, function):
    a = torch.randn(40)
    state = torch.get_rng_state()
    graph = Traced(function, apart=True).ready(a)
    assert isinstance(graph, Apart) and len(as_traced) == 1
    found = graph([a], torch.Generator().manual_seed(3))
    # Neither to trace it nor to draw has moved the user's.
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    wanted, end = function(a), torch.get_rng_state()
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.manual_seed(3)
    for ours, theirs in zip(graph([a]), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), end)


def rewritten(a):
    noise = torch.empty(40).normal_()
    first = noise.clone()
    return first + noise.uniform_(), a


def seen(a):
    noise = torch.empty(40)
    part = noise[:5]
    noise.normal_()
    return part + 1, noise * a


count, table = torch.zeros(40), torch.zeros(3, 40)


@pytest.mark.parametrize(
    "function",
    [
        lambda a: (torch.empty(40).normal_() + count.mul_(0).add_(1),),
        lambda a: (a + torch.empty(40).normal_(), table.t()[:, 1].copy_(a)),
        lambda a: (torch.empty(40).normal_() + torch._standard_gamma(a.abs()),),
        lambda a: (torch.empty(40).bernoulli_(a.sigmoid()),),
        lambda a: (a.clone().normal_(),),
        rewritten,
        seen,
    ],
    ids=["written", "written in part", "gamma", "probabilities", "memory of others", "twice", "memory seen"],
)
def test_where_tensors_decide_the_graph_draws(as_traced, function):
    a, traced = torch.randn(40), Traced(function, apart=True)
    assert not isinstance(traced.ready(a), Apart)
    found, wanted = [], []
    for call, values in ((traced, found), (function, wanted)):
        torch.manual_seed(3)
        values.extend(call(a))
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)


def test_what_it_makes_itself_it_may_write_to(as_traced):
    def function(a):
        made = torch.zeros(2, 40)
        made[1] = a
        return (made.t().add_(torch.empty(40, 2).normal_()),)

    assert isinstance(Traced(function, apart=True).ready(torch.randn(40)), Apart)


def test_not_unless_it_is_asked_for(as_traced):
    assert not isinstance(Traced(several).ready(torch.randn(40)), Apart)


def test_a_closed_tensor_and_a_parameter(as_traced):
    """Inputs of the graph, what it closes over, and what is drawn each have their place."""
    layer, closed = torch.nn.Linear(5, 5), torch.randn(5)
    graph = Traced(lambda a: (layer(a) * closed + torch.empty(2, 5).normal_(),), apart=True).ready(torch.ones(2, 5))
    a = torch.randn(2, 5)
    with torch.no_grad():
        closed.mul_(2)
        layer.bias.fill_(3.0)
    (found,) = graph([a], torch.Generator().manual_seed(0))
    noise = torch.empty(2, 5).normal_(generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, (layer(a) * closed + noise).detach())
    assert not found.requires_grad


def test_python_goes_on_while_a_kernel_is_at_work():
    """Machine code, on one core, that other threads need not wait for."""
    from torch._inductor.async_compile import get_compile_threads

    if not known() or get_compile_threads() <= 1:
        pytest.skip("each kernel has a file of torch's own, and holds Python while it is at work")

    def long(a):
        noise = torch.empty(40).normal_()
        for _ in range(40):
            a = torch.erf(a * 1.01 + noise).asin() * 0.5
        return (a,)

    a = torch.rand(100_000, 40)
    torch.set_num_threads(2)
    try:
        graph = Traced(long, apart=True).ready(a)
    finally:
        torch.set_num_threads(1)
    begun, seen = Event(), []

    def other():
        begun.wait()
        seen.append(time.perf_counter())

    thread = Thread(target=other)
    thread.start()
    generator = torch.Generator().manual_seed(0)
    given = [a, *graph.closed, *(draw(generator) for draw in graph.draws)]
    begin = time.perf_counter()
    begun.set()
    (found,) = graph.machine(*given)
    end = time.perf_counter()
    thread.join()
    assert end - begin > 0.1, "too short to tell"
    assert seen[0] - begin < 0.5 * (end - begin)
    torch.manual_seed(0)
    torch.testing.assert_close(found, long(a)[0], rtol=1e-4, atol=1e-5)
    assert inductor.ONE_CORE["cpp.threads"] == 1
