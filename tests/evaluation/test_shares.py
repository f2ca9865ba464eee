"""Rows are shared by several processes, and each has the draws that it would have alone."""

import sys
from functools import partial

import pytest
import torch

import pyrovae
from pyrovae.evaluation.shares import Share


@pytest.mark.parametrize("n", [1, 2, 7, 40, 41])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_each_row_is_in_one_share(n, count):
    x, condition = torch.arange(n).reshape(n, 1), -torch.arange(n).reshape(n, 1)
    groups = [Share(i, count).groups(x, condition, 5) for i in range(count)]
    assert torch.equal(torch.cat([part for share in groups for _, part, _ in share]), x)
    assert all(torch.equal(part, -c) and torch.equal(part, x[rows]) for share in groups for rows, part, c in share)
    sizes = [len(share) for share in groups]
    assert max(sizes) - min(sizes) <= 1


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    network = "mlp(hidden=[4])"
    vae = pyrovae.VAE((3,), 2, likelihood="gaussian", condition_dim=1, encoder=network, decoder=network)
    return vae, torch.randn(23, 3), torch.randn(23, 1)


@pytest.mark.parametrize("n_jobs", [2, 5])
@pytest.mark.parametrize(
    "estimate",
    [
        partial(pyrovae.log_marginal, num_samples=50, chunk=10),
        partial(pyrovae.log_marginal, num_samples=50, chunk=10, method="psis"),
        partial(pyrovae.ais, num_chains=4, num_steps=5, chunk=8),
    ],
    ids=["importance", "psis", "ais"],
)
def test_jobs_at_a_time_give_the_same(case, estimate, n_jobs):
    state = torch.get_rng_state()
    alone, shared = (estimate(*case, n_jobs=jobs, progress=False) for jobs in (1, n_jobs))
    # One thread adds up in another order than two.
    torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)


def test_groups_differ_in_their_draws(case):
    vae, *row = (values if i == 0 else values[:1].repeat(23, 1) for i, values in enumerate(case))
    estimates = (
        pyrovae.log_marginal(vae, *row, num_samples=50, chunk=10, progress=False),
        pyrovae.ais(vae, *row, num_chains=4, num_steps=5, chunk=8, progress=False),
    )
    for value, _ in estimates:
        assert len(value.unique()) == 23


def test_jobs_on_a_method_of_log_marginal_with_chains(monkeypatch, case):
    asked = []
    monkeypatch.setattr(
        sys.modules["pyrovae.evaluation.log_marginal"], "ais", lambda *args, **options: asked.append(options)
    )
    pyrovae.log_marginal(*case, method="ais", n_jobs=3)
    assert asked[0]["n_jobs"] == 3


def test_more_jobs_than_groups(case):
    """Some have nothing to do."""
    alone, shared = (pyrovae.evaluate(*case, num_samples=50, n_jobs=jobs, progress=False) for jobs in (1, 3))
    torch.testing.assert_close(torch.tensor(shared.rows.values), torch.tensor(alone.rows.values), rtol=1e-5, atol=1e-5)
    assert shared.units.equals(alone.units) and shared.num_samples == 50


def test_the_row_of_a_weight_that_is_no_number_is_named(case):
    vae, x, condition = case
    x = x.clone()
    x[19] = 3e38
    for n_jobs in (1, 2):
        with pytest.raises(FloatingPointError, match="at row 19:"):
            pyrovae.evaluate(vae, x, condition, num_samples=50, chunk=10, n_jobs=n_jobs, progress=False)


def test_the_bar_is_that_of_the_first_share():
    assert [Share(i, 3).shown(True) for i in range(3)] == [True, False, False]
    assert not Share(0, 3).shown(False)
