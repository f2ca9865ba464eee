"""Gamma, beta and log-normal against mpmath and scipy, at shapes where torch's own lose their digits."""

import math

import mpmath
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import biject_to

from pyrovae.distributions import Beta, Gamma, LogNormal, open_unit_interval

DTYPES = [torch.float32, torch.float64]
SHAPES = [1e-6, 1e-3, 0.5, 1.0, 3.0, 15.9, 16.1, 1e3, 1e6]
FACTORS = [-8.0, -1.0, -0.1, 0.0, 0.3, 1.0, 5.0]


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(50):
        yield


def mp_gamma(x, k, rate):
    x, k, rate = (mpmath.mpf(v) for v in (x, k, rate))
    return k * mpmath.log(rate) + (k - 1) * mpmath.log(x) - rate * x - mpmath.loggamma(k)


def mp_beta(x, a, b):
    x, a, b = (mpmath.mpf(v) for v in (x, a, b))
    log_b = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)
    return (a - 1) * mpmath.log(x) + (b - 1) * mpmath.log1p(-x) - log_b


def close(got, expected, rel, absolute):
    assert got.tolist() == pytest.approx([float(e) for e in expected], rel=rel, abs=absolute)


@pytest.mark.parametrize("mean", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("k", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gamma(k, mean, dtype):
    """At deviations of -8 to 5 standard deviations from the mean (or factors of that size where it is spread wide)."""
    shape = torch.full((len(FACTORS),), k, dtype=dtype)
    rate = shape / mean
    x = mean * torch.exp(torch.tensor(FACTORS, dtype=dtype) * min(1.0, k**-0.5))
    shape.requires_grad_()
    p = Gamma(shape, rate)
    given = list(zip(x.tolist(), shape.tolist(), rate.tolist(), strict=True))
    rel, absolute = (1e-5, 2e-3 if k > 1e5 else 3e-4) if dtype == torch.float32 else (1e-10, 1e-10)
    close(p.log_prob(x), [mp_gamma(*g) for g in given], rel, absolute)
    (slope,) = torch.autograd.grad(p.log_prob(x).sum(), shape)
    assert torch.isfinite(slope).all()
    if dtype == torch.float64:
        close(slope, [mpmath.diff(lambda s, x=x, r=r: mp_gamma(x, s, r), s) for x, s, r in given], 1e-8, 1e-8)


@pytest.mark.parametrize("mean", [1e-5, 0.1, 0.5, 0.9, 0.99999])
@pytest.mark.parametrize("c", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_beta(c, mean, dtype):
    a, b = (torch.full((len(FACTORS),), c * m, dtype=dtype) for m in (mean, 1 - mean))
    spread = min(1.0, (c * mean * (1 - mean)) ** -0.5)
    x = torch.sigmoid(math.log(mean / (1 - mean)) + torch.tensor(FACTORS, dtype=dtype) * spread)
    x = x.clamp(1e-30, 1 - torch.finfo(dtype).eps)
    a.requires_grad_()
    p = Beta(a, b)
    given = list(zip(x.tolist(), a.tolist(), b.tolist(), strict=True))
    rel, absolute = (1e-5, 2e-3 if c > 1e5 else 1e-4) if dtype == torch.float32 else (1e-9, 1e-9)
    close(p.log_prob(x), [mp_beta(*g) for g in given], rel, absolute)
    (slope,) = torch.autograd.grad(p.log_prob(x).sum(), a)
    assert torch.isfinite(slope).all()
    if dtype == torch.float64:
        close(slope, [mpmath.diff(lambda s, x=x, b=b: mp_beta(x, s, b), s) for x, s, b in given], 1e-7, 1e-7)


def test_torchs_own_are_wrong_where_these_are_right():
    """Why the classes are there; if torch mends its own, they can go."""
    k = torch.tensor(1e6)
    x = torch.tensor(1.001)
    exact = float(mp_gamma(x.item(), 1e6, 1e6))
    assert abs(Gamma(k, k).log_prob(x).item() - exact) < 1e-3 < 0.3 < abs(dist.Gamma(k, k).log_prob(x).item() - exact)
    k, x = torch.tensor(5e5), torch.tensor(0.5005)
    exact = float(mp_beta(x.item(), 5e5, 5e5))
    assert abs(Beta(k, k).log_prob(x).item() - exact) < 1e-3 < 0.3 < abs(dist.Beta(k, k).log_prob(x).item() - exact)
    assert dist.LogNormal(torch.tensor(-1e3), 1.0).sample() == 0
    # Where both of its gamma draws are too small for float32, the ratio of what stands in for them is 1/2.
    k = torch.tensor(1e-3)
    assert (dist.Beta(k, k).sample((100,)) == 0.5).any() and not (Beta(k, k).sample((100,)) == 0.5).any()


@pytest.mark.parametrize("k", [0.05, 1.0, 7.0, 1e4])
def test_gamma_draws(k):
    p = Gamma(torch.tensor(k), torch.tensor(k / 3))
    assert stats.kstest(p.sample((4000,)).numpy(), stats.gamma(k, scale=3 / k).cdf).pvalue > 1e-3
    assert p.mean.item() == pytest.approx(3) and p.variance.item() == pytest.approx(9 / k, rel=1e-5)


@pytest.mark.parametrize(("a", "b"), [(0.05, 0.1), (0.5, 0.5), (1.0, 3.0), (40.0, 2.0), (3e3, 1e4)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_beta_draws(a, b, dtype):
    p = Beta(torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype))
    draws = p.sample((4000,))
    assert draws.dtype == dtype and open_unit_interval.check(draws).all()
    # scipy's distribution function in its own digits: float32 draws of 1 - 6e-8 stand for all above.
    inner = draws[(draws > 1e-6) & (draws < 1 - 1e-6)].double().numpy()
    q = stats.beta(a, b)
    low, high = q.cdf(1e-6), q.cdf(1 - 1e-6)
    assert stats.kstest((q.cdf(inner) - low) / (high - low), "uniform").pvalue > 1e-3
    assert abs(draws.mean() - a / (a + b)) < 4 * (p.variance / 4000).sqrt() + 1e-6
    assert p.variance.item() == pytest.approx(q.var(), rel=1e-5)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.6), (2.0, 5.0), (60.0, 20.0)])
def test_beta_draws_are_differentiable(a, b):
    """d E[x] / da = b / (a + b)^2 and d E[x^2] / db, from draws."""
    given = [torch.full((40_000,), v, dtype=torch.float64, requires_grad=True) for v in (a, b)]
    x = Beta(*given).rsample()
    up, down = torch.autograd.grad(x.sum(), given)
    c = a + b
    assert abs(up.mean().item() - b / c**2) < 4 * up.std().item() / 200
    assert abs(down.mean().item() + a / c**2) < 4 * down.std().item() / 200


@pytest.mark.parametrize("c", [1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_draws_of_tiny_concentrations_stay_inside(c, dtype):
    p = Beta(torch.tensor(c / 4, dtype=dtype), torch.tensor(3 * c / 4, dtype=dtype))
    draws = p.sample((2000,))
    assert open_unit_interval.check(draws).all()
    assert abs((draws > 0.5).double().mean().item() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 2000) + c * 20
    assert torch.isfinite(p.log_prob(draws)).all()
    assert (Gamma(torch.tensor(c, dtype=dtype), torch.tensor(c, dtype=dtype)).sample((100,)) > 0).all()


def test_the_open_interval():
    value = torch.tensor([0.0, 1e-45, 0.5, 1 - 1e-7, 1.0, math.nan])
    assert open_unit_interval.check(value).tolist() == [False, True, True, True, False, False]
    assert str(open_unit_interval) == "the open interval (0, 1)"
    assert biject_to(open_unit_interval)(torch.tensor(0.0)) == 0.5
    with pytest.raises(ValueError, match="within the support"):
        Beta(torch.tensor(2.0), torch.tensor(2.0), validate_args=True).log_prob(torch.tensor(1.0))
    with pytest.raises(ValueError, match="within the support"):
        Gamma(torch.tensor(2.0), torch.tensor(2.0), validate_args=True).log_prob(torch.tensor(0.0))


@pytest.mark.parametrize(("loc", "scale"), [(-3.0, 0.1), (0.0, 1.0), (2.0, 2.5)])
def test_log_normal(loc, scale):
    p = LogNormal(torch.tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))
    x = np.exp(loc + scale * np.linspace(-4, 4, 9))
    expected = stats.lognorm(scale, scale=np.exp(loc))
    assert p.log_prob(torch.tensor(x)).tolist() == pytest.approx(expected.logpdf(x).tolist(), rel=1e-12)
    assert p.mean.item() == pytest.approx(expected.mean(), rel=1e-12)
    assert stats.kstest(p.sample((4000,)).numpy(), expected.cdf).pvalue > 1e-3
    assert p.rsample((2,)).shape == (2,) and p.has_rsample


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_log_normal_beyond_its_dtype(dtype):
    p = LogNormal(torch.tensor([-1e3, 0.0, 1e3], dtype=dtype), torch.tensor(1.0, dtype=dtype)).expand([2, 3])
    assert isinstance(p, LogNormal)
    for value in (p.sample((5,)), p.rsample(), p.mean):
        assert value.dtype == dtype and torch.isfinite(value).all() and (value > 0).all()
    assert torch.isfinite(p.log_prob(p.sample())).all()


@pytest.mark.parametrize("p", [Beta(torch.ones(3), torch.ones(3)), Gamma(torch.ones(3), torch.ones(3))], ids=["b", "g"])
def test_they_expand(p):
    wide = p.expand([4, 3])
    assert type(wide) is type(p) and wide.batch_shape == (4, 3) and wide.sample((2,)).shape == (2, 4, 3)
    value = torch.tensor([0.2, 0.5, 0.9])
    assert torch.equal(wide.log_prob(value), p.log_prob(value).expand(4, 3))
    assert p.to_event(1).event_shape == (3,) and p.has_rsample
