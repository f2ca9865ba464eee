"""Poisson, negative binomial and zero inflation against mpmath, scipy and sums over the support."""

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from pyrovae.distributions import NegativeBinomial, Poisson, ZeroInflated

DTYPES = [torch.float32, torch.float64]
MEANS = [1e-10, 1e-3, 0.5, 7.3, 1e3, 1e6, 4e11]
THETAS = [2e-12, 1e-6, 0.3, 1.0, 1e3, 1e6, 5e11, 1e15]
COUNTS = [0.0, 1.0, 2.0, 7.0, 10.0, 11.0, 1e3, 1.3e3, 1e6, 1.1e6]


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


def tolerance(dtype):
    return 1e-5 if dtype == torch.float32 else 1e-13


def grid(dtype, *axes):
    return [a.flatten() for a in torch.meshgrid(*[torch.tensor(a, dtype=dtype) for a in axes], indexing="ij")]


def close(got, expected, tol):
    """Relatively, or absolutely where the expected is below 1."""
    got, expected = np.asarray(got.detach().double()), np.array([float(e) for e in expected])
    np.testing.assert_allclose(got, expected, rtol=tol, atol=tol)


def mp_poisson(mean, x):
    mean, x = mpmath.mpf(mean), mpmath.mpf(x)
    return x * mpmath.log(mean) - mean - mpmath.loggamma(x + 1)


def mp_negative_binomial(mean, theta, x):
    """As written in Lopez et al. (2018)."""
    mean, theta, x = map(mpmath.mpf, (mean, theta, x))
    coefficient = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
    return coefficient + theta * mpmath.log(theta / (theta + mean)) + x * mpmath.log(mean / (theta + mean))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_poisson(dtype):
    mean, x = grid(dtype, MEANS, COUNTS)
    mean.requires_grad_()
    got = Poisson(mean).log_prob(x)
    rows = list(zip(mean.tolist(), x.tolist(), strict=True))
    close(got, [mp_poisson(m, k) for m, k in rows], tolerance(dtype))
    (slope,) = torch.autograd.grad(got.sum(), mean)
    close(slope * mean, [k - m for m, k in rows], 10 * tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_negative_binomial_and_its_slopes(dtype):
    mean, theta, x = grid(dtype, MEANS, THETAS, COUNTS)
    mean.requires_grad_()
    theta.requires_grad_()
    got = NegativeBinomial(mean, theta).log_prob(x)
    slopes = torch.autograd.grad(got.sum(), [mean, theta])
    rows = [tuple(map(mpmath.mpf, row)) for row in zip(mean.tolist(), theta.tolist(), x.tolist(), strict=True)]
    close(got, [mp_negative_binomial(*row) for row in rows], tolerance(dtype))
    # By log mean and log theta, which are what networks give.
    close(slopes[0] * mean, [(k - m) / (1 + m / t) for m, t, k in rows], 10 * tolerance(dtype))
    by_theta = [
        t * (mpmath.digamma(k + t) - mpmath.digamma(t) + mpmath.log(t / (t + m)) + (m - k) / (t + m))
        for m, t, k in rows
    ]
    close(slopes[1] * theta, by_theta, 10 * tolerance(dtype))


@pytest.mark.parametrize("mean, theta", [(0.1, 0.2), (3.0, 0.5), (7.0, 40.0), (60.0, 1e7)])
def test_negative_binomial_is_scipys_and_sums_to_one(mean, theta):
    p = NegativeBinomial(*torch.tensor([mean, theta], dtype=torch.float64))
    x = torch.arange(1000, dtype=torch.float64)
    log_prob = p.log_prob(x)
    np.testing.assert_allclose(log_prob, stats.nbinom.logpmf(x, theta, theta / (theta + mean)), rtol=1e-7, atol=1e-7)
    probs = log_prob.exp()
    assert probs.sum().item() == pytest.approx(1, rel=1e-12)
    assert (probs * x).sum().item() == pytest.approx(p.mean.item(), rel=1e-10)
    assert (probs * (x - mean) ** 2).sum().item() == pytest.approx(p.variance.item(), rel=1e-10)
    assert p.mode == probs.argmax()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_negative_binomial_becomes_the_poisson(dtype):
    mean, x = grid(dtype, [0.5, 7.3, 1e3], [0.0, 1.0, 10.0, 1e3])
    gaps = [
        (NegativeBinomial(mean, torch.full_like(mean, theta)).log_prob(x) - Poisson(mean).log_prob(x)).abs().max()
        for theta in (1e4, 1e8, 1e12, 1e20)
    ]
    assert gaps[0] > 1 and gaps[1] < 0.01
    assert gaps[2] < 1e-3 and gaps[3] < 1e-6


def test_counts_as_integers_and_out_of_the_support():
    for p in (Poisson(torch.tensor(2.0)), NegativeBinomial(torch.tensor(2.0), torch.tensor(3.0))):
        assert p.log_prob(torch.tensor(4)) == p.log_prob(torch.tensor(4.0))
        for value in (-1.0, 0.5):
            with pytest.raises(ValueError, match="support"):
                type(p)(*p_parameters(p), validate_args=True).log_prob(torch.tensor(value))


def p_parameters(p):
    return (p.rate,) if isinstance(p, Poisson) else (p.mean, p.theta)


@pytest.mark.parametrize("gate", [-1e3, -30.0, -1.0, 0.0, 2.0, 30.0, 1e3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_inflated(gate, dtype):
    mean, x = grid(dtype, [1e-3, 0.5, 7.3, 2e3], [0.0, 1.0, 7.0, 1e3])
    gates = torch.full_like(mean, gate, requires_grad=True)
    p = ZeroInflated(Poisson(mean), gates)
    got = p.log_prob(x)
    expected, slopes = [], []
    for m, k in zip(mean.tolist(), x.tolist(), strict=True):
        extra, rest = 1 / (1 + mpmath.exp(-mpmath.mpf(gate))), 1 / (1 + mpmath.exp(mpmath.mpf(gate)))
        base = mpmath.exp(mp_poisson(m, k))
        total = extra * (k == 0) + rest * base
        expected.append(mpmath.log(total))
        slopes.append(extra * rest * ((k == 0) - base) / total)
    close(got, expected, tolerance(dtype))
    (slope,) = torch.autograd.grad(got.sum(), gates)
    close(slope, slopes, tolerance(dtype))
    # Pyro's own gives another answer the second time.
    assert p.mean.isfinite().all() and p.sample().isfinite().all()
    assert torch.equal(p.log_prob(x), got) and torch.equal(p.expand((3, len(x))).log_prob(x)[2], got)


@pytest.mark.parametrize(
    "base", [Poisson(torch.tensor(3.0).double()), NegativeBinomial(*torch.tensor([3.0, 0.7]).double())]
)
def test_zero_inflated_sums_to_one(base):
    p = ZeroInflated(base, torch.tensor(-0.4, dtype=torch.float64))
    x = torch.arange(2000, dtype=torch.float64)
    probs = p.log_prob(x).exp()
    mean = (probs * x).sum()
    assert probs.sum().item() == pytest.approx(1, rel=1e-12)
    assert p.mean.item() == pytest.approx(mean.item(), rel=1e-10)
    assert p.variance.item() == pytest.approx((probs * (x - mean) ** 2).sum().item(), rel=1e-10)


def test_zero_inflated_variance_of_large_counts_in_float32():
    p = ZeroInflated(Poisson(torch.tensor(1e8)), torch.tensor(-200.0))
    assert p.variance.item() == pytest.approx(1e8, rel=1e-6)


@pytest.mark.parametrize(
    "p",
    [
        NegativeBinomial(*torch.tensor([[3.0, 0.05], [0.7, 2.0]])),
        NegativeBinomial(*torch.tensor([[1e6, 40.0], [1e6, 1e9]])),
        ZeroInflated(Poisson(torch.tensor([3.0, 0.5])), torch.tensor([-0.4, 2.0])),
        ZeroInflated(NegativeBinomial(*torch.tensor([[3.0, 50.0], [5.0, 2.0]])), torch.tensor(1.0)),
    ],
)
def test_draws(p):
    torch.manual_seed(0)
    n = 40_000
    draws = p.sample((n,))
    assert draws.dtype == torch.float32 and p.support.check(draws).all()
    draws = draws.double()
    z = (draws.mean(0) - p.mean) / (p.variance / n).sqrt()
    spread = ((draws - p.mean) ** 2).std(0) / n**0.5
    assert z.abs().max() < 4
    assert (((draws - p.mean) ** 2).mean(0) - p.variance).abs().lt(4 * spread).all()
    share = p.log_prob(torch.zeros(2)).exp().double()
    assert ((draws == 0).double().mean(0) - share).abs().lt(4 * (share * (1 - share) / n).sqrt() + 1e-9).all()


def test_draws_at_the_edge_are_counts():
    """torch.poisson answers a rate above 2^63 with -2^63."""
    torch.manual_seed(0)
    mean, theta = grid(torch.float32, MEANS, THETAS)
    draws = NegativeBinomial(mean, theta).sample((2000,))
    assert draws.isfinite().all() and (draws >= 0).all()
    assert NegativeBinomial(torch.tensor(1e20), torch.tensor(10.0)).sample() > 0


@pytest.mark.parametrize(
    "p",
    [
        Poisson(torch.tensor([1.0, 2.0])),
        NegativeBinomial(torch.tensor([1.0, 2.0]), torch.tensor(3.0)),
        ZeroInflated(Poisson(torch.tensor([1.0, 2.0])), torch.tensor(0.5)),
    ],
)
def test_expand(p):
    q = p.expand((5, 2))
    assert type(q) is type(p) and q.batch_shape == (5, 2) and q.sample((3,)).shape == (3, 5, 2)
    x = torch.tensor([[0.0, 3.0]] * 5)
    assert torch.equal(q.log_prob(x), p.log_prob(x[0]).expand(5, 2))
    assert torch.equal(q.variance, p.variance.expand(5, 2))
