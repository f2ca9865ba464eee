"""Multinomial and Dirichlet-multinomial against scipy, mpmath and sums over the support."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import special, stats

from pyrovae.distributions import DirichletMultinomial, Multinomial

DTYPES = [torch.float32, torch.float64]
WEIGHTS = torch.tensor([[0.3, -1.2, 0.8, 0.0], [-3.0, 2.0, 0.1, -0.5], [1.0, 0.0, -7.0, 2.0]], dtype=torch.float64)
X = torch.tensor([[2.0, 0.0, 5.0, 1.0], [0.0, 0.0, 0.0, 0.0], [10.0, 3.0, 0.0, 40.0]], dtype=torch.float64)


def rows_of(total, size):
    """All rows of counts of one total."""
    cuts = itertools.combinations(range(total + size - 1), size - 1)
    return torch.tensor(np.array([np.diff([-1, *cut, total + size - 1]) - 1 for cut in cuts])).double()


def mp_multinomial(logits, x):
    with mpmath.workdps(50):
        logits, x = [mpmath.mpf(v) for v in logits], [mpmath.mpf(v) for v in x]
        norm = mpmath.log(sum(mpmath.exp(v) for v in logits))
        coefficient = mpmath.loggamma(sum(x) + 1) - sum(mpmath.loggamma(k + 1) for k in x)
        return float(coefficient + sum(k * (v - norm) for k, v in zip(x, logits, strict=True)))


def mp_dirichlet_multinomial(log_concentration, x):
    with mpmath.workdps(50):
        a, x = [mpmath.exp(mpmath.mpf(v)) for v in log_concentration], [mpmath.mpf(v) for v in x]
        top = mpmath.loggamma(sum(a)) + mpmath.loggamma(sum(x) + 1) - mpmath.loggamma(sum(a) + sum(x))
        return float(
            top
            + sum(
                mpmath.loggamma(k + c) - mpmath.loggamma(c) - mpmath.loggamma(k + 1) for k, c in zip(x, a, strict=True)
            )
        )


def test_multinomial_is_scipys_at_rows_of_any_total():
    probs = special.softmax(WEIGHTS.numpy(), -1)
    expected = [float(stats.multinomial.logpmf(x, x.sum(), p)) for x, p in zip(X.numpy(), probs, strict=True)]
    p = Multinomial(WEIGHTS, 7)
    assert p.log_prob(X).tolist() == pytest.approx(expected, rel=1e-11, abs=1e-11)


def test_dirichlet_multinomial_is_scipys_at_rows_of_any_total():
    rows = zip(X.numpy(), WEIGHTS.exp().numpy(), strict=True)
    expected = [stats.dirichlet_multinomial.logpmf(x.astype(int), a, int(x.sum())) for x, a in rows]
    p = DirichletMultinomial(WEIGHTS, 7)
    assert p.log_prob(X).tolist() == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("a, b", [(0.3, 0.2), (1.0, 1.0), (40.0, 2.5)])
def test_two_counts_are_beta_binomial(a, b):
    p = DirichletMultinomial(torch.tensor([a, b], dtype=torch.float64).log(), 1)
    k = torch.arange(13, dtype=torch.float64)
    got = p.log_prob(torch.stack([k, 12 - k], -1))
    assert got.tolist() == pytest.approx(stats.betabinom.logpmf(k.numpy(), 12, a, b).tolist(), rel=1e-11)


@pytest.mark.parametrize("family", [Multinomial, DirichletMultinomial])
@pytest.mark.parametrize("total", [0, 1, 6])
def test_sums_to_one_with_the_right_moments(family, total):
    x = rows_of(total, 4)
    assert len(x) == math.comb(total + 3, 3)
    for weights in WEIGHTS:
        p = family(weights, total)
        probs = p.log_prob(x).exp()[:, None]
        mean = (probs * x).sum(0)
        assert probs.sum().item() == pytest.approx(1, rel=1e-12)
        assert torch.allclose(p.mean, mean, atol=1e-12)
        assert torch.allclose(p.variance, (probs * (x - mean) ** 2).sum(0), atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 5e5])
@pytest.mark.parametrize(
    "family, exact", [(Multinomial, mp_multinomial), (DirichletMultinomial, mp_dirichlet_multinomial)]
)
def test_large_counts(family, exact, scale, dtype):
    """At totals of 2 million the textbook's terms are of the order of 1e7, and float32 keeps 7 digits."""
    x = torch.tensor([2.0, 0.0, 1.0, 1.0], dtype=dtype) * scale
    for weights in (
        [0.7, -30.0, 0.0, 0.0],
        [9.7, -7.0, 9.0, 9.0],
        [-20.0, -20.0, -20.0, -27.0],
        [19.0, 3.0, 18.0, 20.0],
    ):
        weights = torch.tensor(weights, dtype=dtype, requires_grad=True)
        got = family(weights, 1).log_prob(x)
        # A float32 logit is known to 1e-7, and multiplies a deviation of thousands from the expected counts.
        rel, absolute = (3e-6, 1e-3) if dtype == torch.float32 else (1e-12, 1e-11)
        expected = exact(weights.tolist(), x.tolist())
        assert got.item() == pytest.approx(expected, rel=rel, abs=absolute)
        assert torch.autograd.grad(got, weights)[0].isfinite().all()


def test_multinomial_where_probabilities_underflow():
    weights = torch.tensor([0.0, -1e3, -2e3], requires_grad=True)
    got = Multinomial(weights, 1).log_prob(torch.tensor([5.0, 2.0, 1.0]))
    assert got.item() == pytest.approx(math.log(168) - 4e3, rel=1e-6)
    (slope,) = torch.autograd.grad(got, weights)
    assert slope.tolist() == pytest.approx([-3.0, 2.0, 1.0], rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dirichlet_multinomial_becomes_the_multinomial(dtype):
    weights, x = WEIGHTS.to(dtype), X.to(dtype)
    expected = Multinomial(weights, 1).log_prob(x)
    assert torch.allclose(DirichletMultinomial(weights + 25, 1).log_prob(x), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(DirichletMultinomial(weights + 3, 1).log_prob(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", [Multinomial, DirichletMultinomial])
def test_draws(family):
    torch.manual_seed(0)
    n = 20_000
    weights = torch.tensor([[0.3, -1.2, 0.8, 0.0, -2.0], [1.0, 0.0, -7.0, 2.0, -1.0]])
    p = family(weights, torch.tensor([7, 1000]))
    draws = p.sample((n,))
    assert draws.shape == (n, 2, 5) and draws.dtype == torch.float32
    assert p.support.check(draws).all() and torch.equal(draws.sum(-1), torch.tensor([7.0, 1000.0]).expand(n, 2))
    squares = (draws - p.mean).double() ** 2
    assert ((draws.double().mean(0) - p.mean) / (p.variance / n).sqrt()).abs().max() < 4
    assert ((squares.mean(0) - p.variance) / (squares.std(0) / n**0.5)).abs().max() < 4


@pytest.mark.parametrize("family", [Multinomial, DirichletMultinomial])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_draws_follow_the_probabilities_at_any_size(family, size):
    torch.manual_seed(0)
    n = 20_000
    p = family(torch.linspace(-1, 1, size, dtype=torch.float64), 3)
    x = rows_of(3, size) if size > 1 else torch.tensor([[3.0]], dtype=torch.float64)
    seen = (p.sample((n,))[:, None] == x).all(-1).double().mean(0)
    probs = p.log_prob(x).exp()
    assert seen.sum() == pytest.approx(1)
    chi_square = (n * (seen - probs) ** 2 / probs).sum().item()
    assert stats.chi2.sf(chi_square, len(x) - 1) > 1e-4 if size > 1 else chi_square < 1e-9


def test_draws_of_tiny_concentrations_are_of_one_kind():
    torch.manual_seed(0)
    draws = DirichletMultinomial(torch.full((4,), -27.0), 10).sample((4000,))
    assert (draws.amax(-1) == 10).all()
    assert (draws.mean(0) - 2.5).abs().max() < 4 * 10 * math.sqrt(3 / 16 / 4000)


@pytest.mark.parametrize("family", [Multinomial, DirichletMultinomial])
def test_expand(family):
    p = family(WEIGHTS, 7)
    q = p.expand((5, 3))
    assert type(q) is family and (q.batch_shape, q.event_shape) == ((5, 3), (4,))
    assert q.sample((2,)).shape == (2, 5, 3, 4)
    assert torch.equal(q.log_prob(X), p.log_prob(X).expand(5, 3))
    assert torch.equal(q.mean, p.mean.expand(5, 3, 4))


@pytest.mark.parametrize("family", [Multinomial, DirichletMultinomial])
def test_refuses_what_is_no_row_of_counts(family):
    p = family(WEIGHTS, 7, validate_args=True)
    for value in (X - 1, X + 0.5):
        with pytest.raises(ValueError, match="support"):
            p.log_prob(value)
    with pytest.raises(ValueError, match="total_count"):
        family(WEIGHTS, 1.5, validate_args=True)
