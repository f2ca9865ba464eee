"""Threads that share work find what one would, and leave everything as it was."""

import math
import sys
import threading
import time

import pytest
import torch

import pyrovae
from pyrovae.evaluation import importance
from pyrovae.evaluation.threads import by_threads
from pyrovae.training import traced


@pytest.fixture
def two_cores():
    was = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(was)


def test_in_order_on_a_core_each(two_cores):
    def work(i):
        time.sleep(0.01 * (i % 3))
        return i, threading.get_ident(), torch.get_num_threads()

    found = list(by_threads(work, range(20)))
    assert [i for i, _, _ in found] == list(range(20))
    assert len({thread for _, thread, _ in found} - {threading.get_ident()}) == 2
    assert {count for _, _, count in found} == {1}
    with_two = []
    thread = threading.Thread(target=lambda: with_two.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert with_two == [2]


def test_an_error_has_its_turn(two_cores):
    results = by_threads(lambda i: 1 / (i - 5), range(20))
    assert [next(results) for _ in range(5)] == [1 / (i - 5) for i in range(5)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_further_ahead_than_two_items_a_thread(two_cores):
    begun = []
    results = by_threads(begun.append, range(100))
    next(results)
    time.sleep(0.2)
    assert len(begun) <= 1 + 4
    results.close()
    assert len(begun) <= 1 + 4


def test_nothing_to_do(two_cores):
    assert list(by_threads(abs, [])) == []


@pytest.fixture
def ran(as_traced, monkeypatch):
    """Everything is worth a graph; the threads that ran one with random numbers of their own."""
    monkeypatch.setattr(importance, "WORTH", 0)
    monkeypatch.setattr(importance, "TOGETHER", 1)
    threads, call = [], traced.Apart.__call__

    def recorded(self, inputs, generator=None):
        if generator is not None:
            threads.append(threading.get_ident())
        return call(self, inputs, generator)

    monkeypatch.setattr(traced.Apart, "__call__", recorded)
    return threads


@pytest.mark.parametrize(
    ("n", "num_samples", "chunk", "calls"),
    # By fours, of which three are left over; one by one, in two parts, twice; where a part is short; in few groups.
    [(43, 10, 40, 10), (23, 40, 20, 46), (23, 40, 27, 46), (43, 7, 5, 0), (7, 10, 10, 0)],
)
@pytest.mark.parametrize("settings", [{}, {"condition_dim": 2}, {"posterior": "low_rank"}], ids=str)
def test_rows_have_the_draws_that_they_have_in_one(
    two_cores, ran, as_traced, monkeypatch, tiny, settings, n, num_samples, chunk, calls
):
    vae = tiny(likelihood="gaussian", **settings)
    x, condition = torch.randn(n, 3), torch.randn(n, 2) if "condition_dim" in settings else None
    state = torch.get_rng_state()

    def estimate():
        return pyrovae.log_marginal(vae, x, condition, num_samples=num_samples, chunk=chunk, progress=False)

    by_two = estimate()
    assert len(ran) == calls and threading.get_ident() not in ran and len(as_traced) == 1
    torch.set_num_threads(1)
    alone = estimate()
    assert len(ran) == calls and len(as_traced) == 2
    monkeypatch.setattr(importance, "WORTH", math.inf)
    eager = estimate()
    torch.set_num_threads(2)
    assert len(as_traced) == 2
    torch.testing.assert_close(by_two, alone, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(by_two, eager, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_posterior_whose_draws_depend_on_its_parameters_stays_in_one_thread(two_cores, ran, monkeypatch, tiny):
    vae = tiny(likelihood="gaussian", prior="gamma", posterior="gamma")
    x = torch.randn(9, 3)
    value = pyrovae.log_marginal(vae, x, num_samples=40, chunk=40, progress=False).value
    assert not ran
    monkeypatch.setattr(importance, "WORTH", math.inf)
    torch.testing.assert_close(value, pyrovae.log_marginal(vae, x, num_samples=40, chunk=40, progress=False).value)


def test_the_row_of_a_weight_that_is_no_number_is_named(two_cores, ran, tiny):
    x = torch.randn(23, 3)
    x[19] = 3e38
    with pytest.raises(FloatingPointError, match="at row 19:") as error:
        pyrovae.log_marginal(tiny(likelihood="gaussian"), x, num_samples=40, chunk=40, progress=False)
    # The threads have gone though the error, and with it all that was then, is still there.
    assert ran and error.tb is not None and torch.get_num_threads() == 2
    assert not {thread.ident for thread in threading.enumerate()} & set(ran)


def test_machine_code(two_cores, as_compiled, monkeypatch, tiny):
    monkeypatch.setattr(importance, "TOGETHER", 1)
    vae, x = tiny(likelihood="gaussian"), torch.randn(9, 3)
    theirs = pyrovae.log_marginal(vae, x, num_samples=400, chunk=400, progress=False)
    assert not as_compiled
    monkeypatch.setattr(importance, "WORTH", 0)
    ours = pyrovae.log_marginal(vae, x, num_samples=400, chunk=400, progress=False)
    assert len(as_compiled) == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["log_marginal", "evaluate"])
def test_what_stops_between_groups_leaves_all_as_it_was(two_cores, ran, monkeypatch, tiny, name):
    """Such as an interrupt, whose frames Python keeps."""

    def stop(log_weights):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[f"pyrovae.evaluation.{name}"], "log_mean_weight", stop)
    vae, x = tiny(likelihood="gaussian").train(), torch.randn(23, 3)
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt) as error:
        getattr(pyrovae, name)(vae, x, num_samples=40, chunk=40, progress=False)
    assert ran and error.tb is not None and torch.get_num_threads() == 2
    assert vae.training and torch.equal(torch.get_rng_state(), state)
