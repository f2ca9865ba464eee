"""p-values and bands of uniform ranks, against enumeration and simulation."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom, kstest

from pyrovae.evaluation.uniformity import band, cumulative, p_values


def least(counts, total, num_draws):
    """The least of the two-sided binomial p-values of counts (L,), by sums."""
    values = []
    for r, count in enumerate(counts):
        mass = binom.pmf(np.arange(total + 1), total, (r + 1) / (num_draws + 1))
        values.append(min(1.0, 2 * mass[: count + 1].sum(), 2 * mass[count:].sum()))
    return min(values)


@pytest.mark.parametrize(("total", "num_draws"), [(1, 3), (4, 3), (5, 2), (3, 5)])
def test_p_values_of_all_ranks_that_there_are(total, num_draws):
    """Each set of ranks is as likely as any other, so the p-value is a share of them."""
    ranks = np.array(list(itertools.product(range(num_draws + 1), repeat=total))).T
    statistic = np.array([least(counts, total, num_draws) for counts in cumulative(ranks, num_draws).T])
    expected = (statistic <= statistic[:, None] * (1 + 1e-9)).mean(1)
    assert p_values(ranks, num_draws) == pytest.approx(expected, abs=1e-9)
    assert total == 1 or len(np.unique(expected.round(9))) > 2


def test_cumulative_counts():
    ranks = np.array([[0, 3], [2, 3], [2, 0]])
    assert cumulative(ranks, 3).tolist() == [[1, 1], [1, 1], [3, 1]]


@pytest.fixture(scope="module")
def uniform():
    """4,000 columns of 300 uniform ranks from 0 to 39, and their p-values."""
    ranks = np.random.default_rng(0).integers(0, 40, (300, 4000))
    return ranks, p_values(ranks, 39)


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2, 0.5])
def test_how_often_uniform_ranks_fail(uniform, level):
    error = np.sqrt(level * (1 - level) / 4000)
    assert (uniform[1] <= level).mean() == pytest.approx(level, abs=4 * error)


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_the_band_is_left_where_the_p_value_says_so(uniform, alpha):
    ranks, values = uniform
    lower, upper = band(300, 39, alpha)
    counts = cumulative(ranks, 39)
    left = ((counts < lower[:, None]) | (counts > upper[:, None])).any(0)
    assert np.array_equal(left, values <= alpha) and 0 < left.sum() < len(left)
    # As far from either end, and nowhere wider than it would be for a single unit and point by Bonferroni.
    assert np.array_equal(lower, 300 - upper[::-1])
    share = np.arange(1, 40) / 40
    assert (lower >= binom.ppf(alpha / 39 / 2, 300, share)).all() and (lower <= binom.ppf(alpha / 2, 300, share)).all()


def test_many_ranks_of_few_values_and_few_of_many():
    rng = np.random.default_rng(1)
    for total, num_draws in ((20_000, 19), (30, 999)):
        values = p_values(rng.integers(0, num_draws + 1, (total, 200)), num_draws)
        assert kstest(values, "uniform").pvalue > 1e-3
        assert p_values(np.full((total, 1), num_draws), num_draws)[0] < 1e-30
