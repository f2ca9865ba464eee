"""Classes as numbers, and ordered logits against mpmath and scikit-free differences of expit."""

import mpmath
import numpy as np
import pytest
import torch
from scipy import special, stats

from pyrovae.distributions import Categorical, OrderedLogistic, centre, expectation

DTYPES = [torch.float32, torch.float64]
CUTS = [-2.0, -0.5, -0.499, 3.0]


def mp_ordered(eta, cuts):
    with mpmath.workdps(3000):
        cumulative = [0, *(1 / (1 + mpmath.exp(-(mpmath.mpf(c) - mpmath.mpf(eta)))) for c in cuts), 1]
        return [float(mpmath.log(b - a)) for a, b in zip(cumulative, cumulative[1:], strict=False)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eta", [-1e3, -40.0, -1.0, 0.0, 0.7, 40.0, 1e3])
def test_ordered_logistic_is_a_difference_of_sigmoids(eta, dtype):
    cuts = torch.tensor(CUTS, dtype=dtype, requires_grad=True)
    predictor = torch.tensor(eta, dtype=dtype, requires_grad=True)
    got = OrderedLogistic(predictor, cuts).log_prob(torch.arange(5, dtype=dtype))
    expected = mp_ordered(predictor.item(), cuts.tolist())
    # A gap of 0.001 between cutpoints near 1000 is lost in float32 but for the gap's own term.
    tol = 2e-6 if dtype == torch.float32 else 1e-11
    assert got.tolist() == pytest.approx(expected, rel=tol, abs=tol)
    for value in got:
        slopes = torch.autograd.grad(value, [predictor, cuts], retain_graph=True)
        assert all(slope.isfinite().all() for slope in slopes)


def test_ordered_logistic_slope_at_saturation():
    """d log p_k / d eta = 1 - F(b) - F(a): at large eta 1 for all classes but the last, whose log p is 0."""
    predictor = torch.tensor(1e3, requires_grad=True)
    p = OrderedLogistic(predictor, torch.tensor(CUTS))
    slopes = [
        torch.autograd.grad(p.log_prob(torch.tensor(k)), predictor, retain_graph=True)[0].item() for k in range(5)
    ]
    assert slopes == pytest.approx([-1, -1, -1, -1, 0], abs=1e-6)


def test_ordered_logistic_moments():
    eta = torch.tensor([-1.0, 0.3], dtype=torch.float64)
    p = OrderedLogistic(eta, torch.tensor(CUTS, dtype=torch.float64))
    below = torch.tensor(special.expit(np.array(CUTS) - eta[:, None].numpy()))
    # E[x] = sum_k P(x > k) and E[x^2] = sum_k (2k + 1) P(x > k).
    mean = (1 - below).sum(-1)
    square = ((2 * torch.arange(4) + 1) * (1 - below)).sum(-1)
    assert torch.allclose(p.mean, mean, rtol=1e-6)
    assert torch.allclose(p.variance, square - mean**2, rtol=1e-6)
    assert torch.equal(expectation(p), p.mean) and torch.equal(centre(p), p.mode)


def test_ordered_logistic_of_two_classes_is_the_bernoulli():
    p = OrderedLogistic(torch.tensor([-1.0, 2.0]), torch.zeros(1))
    assert torch.allclose(p.mean, torch.sigmoid(torch.tensor([-1.0, 2.0])))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_categorical_takes_and_gives_numbers(dtype):
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, -1e3], [1e3, 0.0, 3.0]], dtype=dtype)
    p = Categorical(logits)
    draws = p.sample((4000,))
    assert draws.dtype == p.mode.dtype == p.enumerate_support().dtype == dtype and p.mode.tolist() == [1, 0]
    assert p.support.check(draws).all() and torch.equal(centre(p), p.mode) and torch.equal(expectation(p), p.mode)
    x = torch.arange(3, dtype=dtype)[:, None]
    expected = special.log_softmax(logits.numpy(), -1).T
    assert p.log_prob(x).flatten().tolist() == pytest.approx(expected.ravel().tolist(), rel=1e-6, abs=1e-6)
    assert stats.binomtest(int((draws[:, 0] == 1).sum()), 4000, special.expit(1.0)).pvalue > 1e-4
    with pytest.raises(ValueError, match="support"):
        Categorical(logits, validate_args=True).log_prob(torch.tensor([3.0, 0.0], dtype=dtype))


@pytest.mark.parametrize("p", [Categorical(torch.randn(2, 4)), OrderedLogistic(torch.randn(2), torch.arange(3.0))])
def test_expand(p):
    q = p.expand((5, 2))
    assert type(q) is type(p) and q.batch_shape == (5, 2) and q.sample((3,)).shape == (3, 5, 2)
    x = torch.tensor([[0.0, 3.0]] * 5)
    assert torch.equal(q.log_prob(x), p.log_prob(x[0]).expand(5, 2))
    assert torch.equal(q.mean.nan_to_num(), p.mean.nan_to_num().expand(5, 2))
