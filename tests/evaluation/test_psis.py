"""k-hat against ArviZ, against tails of a known shape, and where ArviZ gives none."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from pyrovae import k_hat
from pyrovae.evaluation.psis import smooth


def arviz_k(log_weights):
    """ArviZ's own k-hat of each row."""
    try:
        from arviz import psislw
    except ImportError:  # ArviZ 1.x
        from arviz_stats.base import array_stats

        if log_weights.shape[0] not in (100, 400, 2500):
            pytest.skip("ArviZ 1.x rounds the length of the tail down, where the paper and ArviZ 0.x round it up")
        # It takes log-likelihoods, of which the weights are the inverse.
        return np.array([array_stats.psislw(-row)[1] for row in log_weights.T])
    return np.array([psislw(row)[1] for row in log_weights.T])


@pytest.mark.parametrize("draws", [25, 26, 100, 400, 999, 2500, 5000])
def test_equals_arviz(draws):
    generator = torch.Generator().manual_seed(draws)
    noise = torch.randn(draws, 12, generator=generator, dtype=torch.float64)
    log_weights = noise * torch.tensor([0.1, 0.5, 1.0, 3.0] * 3) - 1000
    np.testing.assert_allclose(k_hat(log_weights).numpy(), arviz_k(log_weights.numpy()), rtol=1e-9)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9, 1.5])
def test_finds_the_shape_of_a_pareto_tail(shape):
    weights = genpareto(shape).rvs((200_000, 4), random_state=1)
    found = k_hat(torch.from_numpy(np.log(weights)))
    # The tail has 3 sqrt(K) = 1342 draws: the standard error of the shape is (1 + k) / sqrt(1342).
    assert (found - shape).abs().max() < 4 * (1 + shape) / math.sqrt(1342)


def test_constant_weights_have_no_tail():
    assert (k_hat(torch.full((1000, 3), -87.3)) == -math.inf).all()
    rounding = torch.full((1000, 1), -87.3) + torch.randint(-1, 2, (1000, 1)) * 7e-6
    assert (k_hat(rounding) == -math.inf).all()


def test_one_draw_that_has_all_the_weight():
    log_weights = torch.randn(1000, 1)
    log_weights[17] = 1e4
    assert k_hat(log_weights) > 1 or math.isinf(k_hat(log_weights))


def test_too_few_draws_and_weights_that_are_no_numbers():
    assert torch.isnan(k_hat(torch.randn(24, 2))).all()
    log_weights = torch.randn(100, 3)
    log_weights[5, 1], log_weights[6, 2] = math.nan, math.inf
    assert torch.isnan(k_hat(log_weights)).tolist() == [False, True, True]


def test_weights_of_zero_are_no_tail():
    log_weights = torch.randn(1000, 1, dtype=torch.float64)
    expected = k_hat(log_weights)
    lowest = log_weights[:, 0].argsort()[:100]
    log_weights[lowest] = -math.inf
    assert k_hat(log_weights) == expected


def test_rows_do_not_meet():
    log_weights = torch.randn(500, 6) * torch.arange(1, 7)
    together = k_hat(log_weights)
    for row in range(6):
        torch.testing.assert_close(k_hat(log_weights[:, row : row + 1])[0], together[row])


@pytest.mark.parametrize("draws", [25, 100, 400, 999, 2500])
def test_smoothed_weights_equal_arviz(draws):
    arviz = pytest.importorskip("arviz")
    if not hasattr(arviz, "psislw"):
        pytest.skip("ArviZ 1.x has no psislw")
    noise = torch.randn(draws, 12, dtype=torch.float64)
    log_weights = noise * torch.tensor([0.1, 0.5, 1.0, 3.0] * 3) - 1000
    ours, shapes = smooth(log_weights)
    theirs, their_shapes = arviz.psislw(log_weights.T.numpy(), normalize=False)
    np.testing.assert_allclose(ours.numpy().T, theirs, rtol=0, atol=1e-9)
    np.testing.assert_allclose(shapes.numpy(), their_shapes, rtol=1e-9)
    # The noise of the greatest weights is gone, those below the tail and the order are as they were.
    assert (ours != log_weights).any(0).all() and (ours <= log_weights.max(0).values).all()
    assert torch.equal(ours.argsort(0)[: draws // 2], log_weights.argsort(0)[: draws // 2])


def test_the_tail_is_that_of_the_generalised_pareto():
    log_weights = torch.from_numpy(np.log(genpareto(0.3).rvs((10_000, 2), random_state=3)))
    ours, shapes = smooth(log_weights)
    sorted_ours, sorted_raw = ours.exp().sort(0).values.numpy(), log_weights.exp().sort(0).values.numpy()
    size = 300  # 3 sqrt(K)
    assert np.array_equal(sorted_ours[:-size], sorted_raw[:-size].astype(sorted_ours.dtype))
    cutoff, tail = sorted_raw[-size - 1], sorted_ours[-size:]
    places = (np.arange(size) + 0.5) / size
    for row in range(2):
        # Of a known shape only the scale is free, and a quantile of the smoothed tail gives it.
        unit = genpareto(float(shapes[row])).ppf(places)
        kept = tail[:, row] < tail[-1, row]
        scale = (tail[0, row] - cutoff[row]) / unit[0]
        np.testing.assert_allclose((tail[:, row] - cutoff[row])[kept], (scale * unit)[kept], rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_has_no_tail_is_not_smoothed(dtype):
    log_weights = torch.randn(1000, 5, dtype=dtype)
    log_weights[:, 0] = -87.3
    log_weights[:, 1] = -math.inf
    log_weights[3, 1] = 0.0
    log_weights[4, 2] = math.nan
    log_weights[:997, 3] = -5.0  # fewer than five in the tail
    ours, shapes = smooth(log_weights)
    assert shapes[0] == -math.inf and shapes[1] == shapes[3] == math.inf and shapes[2].isnan()
    assert ours.dtype == dtype and torch.equal(ours[:, :4].nan_to_num(7.0), log_weights[:, :4].nan_to_num(7.0))
    assert not torch.equal(ours[:, 4], log_weights[:, 4])
    assert torch.equal(smooth(log_weights[:24]).log_weights.nan_to_num(7.0), log_weights[:24].nan_to_num(7.0))
