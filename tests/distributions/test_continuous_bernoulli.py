"""The continuous Bernoulli against mpmath, scipy's quadrature and finite differences."""

import copy
import math

import mpmath
import pytest
import torch
from scipy import integrate, stats

from pyrovae.distributions import ContinuousBernoulli

LOGITS = [-300.0, -100.0, -30.0, -5.0, -1.0, -0.21, -0.19, -0.02, -1e-4, -1e-9, 0.0]
LOGITS = LOGITS + [-logit for logit in reversed(LOGITS[:-1])]
VALUES = [0.0, 1e-6, 0.1, 0.3, 0.5, 0.8, 0.999, 1.0]
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


def mp_log_norm(eta):
    """log C(eta) = log(eta / tanh(eta / 2))."""
    eta = mpmath.mpf(eta)
    return mpmath.log(2) if eta == 0 else mpmath.log(eta / mpmath.tanh(eta / 2))


def mp_log_prob(eta, x):
    return x * mpmath.mpf(eta) - mpmath.log1p(mpmath.exp(eta)) + mp_log_norm(eta)


def mp_mean(eta):
    eta = mpmath.mpf(eta)
    return mpmath.mpf(1) / 2 if eta == 0 else 1 / (1 - mpmath.exp(-eta)) - 1 / eta


def mp_variance(eta):
    half = mpmath.mpf(eta) / 2
    return mpmath.mpf(1) / 12 if half == 0 else (1 / half**2 - 1 / mpmath.sinh(half) ** 2) / 4


def mp_cdf(eta, x):
    eta = mpmath.mpf(eta)
    return mpmath.mpf(x) if eta == 0 else mpmath.expm1(eta * x) / mpmath.expm1(eta)


def given(dtype):
    return torch.tensor(LOGITS, dtype=dtype)


def close(got, expected, rel, absolute):
    assert got.tolist() == pytest.approx([float(e) for e in expected], rel=rel, abs=absolute)


def tolerance(dtype):
    return (2e-6, 2e-6) if dtype == torch.float32 else (1e-11, 1e-11)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("x", VALUES)
def test_log_prob(x, dtype):
    logits = given(dtype)
    got = ContinuousBernoulli(logits=logits).log_prob(torch.full_like(logits, x))
    close(got, [mp_log_prob(eta, float(torch.tensor(x, dtype=dtype))) for eta in logits.tolist()], *tolerance(dtype))


@pytest.mark.parametrize("eta", LOGITS)
def test_it_integrates_to_one_with_the_right_moments(eta):
    """By quadrature, which shares no formula with the code."""
    p = ContinuousBernoulli(logits=torch.tensor(eta, dtype=torch.float64))

    def moment(k):
        # All of the mass is within a few 1 / |eta| of one end.
        edge = min(0.5, 20 / abs(eta)) if eta else 0.5
        cuts = [0, edge, 1 - edge, 1]
        density = lambda x: x**k * math.exp(p.log_prob(torch.tensor(x, dtype=torch.float64)))  # noqa: E731
        return sum(
            integrate.quad(density, a, b, epsabs=1e-13, epsrel=1e-12)[0] for a, b in zip(cuts, cuts[1:], strict=False)
        )

    first = moment(1)
    assert moment(0) == pytest.approx(1, rel=1e-10)
    assert p.mean.item() == pytest.approx(first, rel=1e-10)
    assert p.variance.item() == pytest.approx(moment(2) - first**2, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mean_variance_and_entropy(dtype):
    logits = given(dtype)
    p = ContinuousBernoulli(logits=logits)
    close(p.mean, [mp_mean(eta) for eta in logits.tolist()], *tolerance(dtype))
    # Relative: at a logit of 300 the variance is 1e-5. 1 / h^2 - 1 / sinh^2 h loses up to 3 digits at h = 0.1.
    rel = 1e-4 if dtype == torch.float32 else 1e-11
    close(p.variance, [mp_variance(eta) for eta in logits.tolist()], rel, 0)
    entropy = [mpmath.log1p(mpmath.exp(eta)) - eta * mp_mean(eta) - mp_log_norm(eta) for eta in logits.tolist()]
    close(p.entropy(), entropy, *((1e-4, 1e-5) if dtype == torch.float32 else (1e-10, 1e-11)))


def test_entropy_is_minus_the_mean_log_density():
    p = ContinuousBernoulli(logits=torch.tensor([-20.0, -1.0, 0.0, 0.1, 4.0], dtype=torch.float64))
    draws = p.sample((20_000,))
    values = -p.log_prob(draws)
    error = values.std(0) / math.sqrt(20_000)
    assert ((values.mean(0) - p.entropy()).abs() <= 4 * error + 1e-12).all()


# The facts of the table


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_constant_at_one_half_is_two(dtype):
    p = ContinuousBernoulli(logits=torch.zeros((), dtype=dtype))
    x = torch.tensor([0.0, 0.25, 1.0], dtype=dtype)
    assert (p.log_prob(x) + math.log(2)).exp().tolist() == pytest.approx(
        [2, 2, 2], rel=1e-6 if dtype.itemsize == 4 else 1e-15
    )
    assert p.mean == 0.5 and p.variance.item() == pytest.approx(1 / 12, rel=1e-6)


def test_the_taylor_series_of_the_constant():
    """log C(l) = log 2 + 4/3 (l - 1/2)^2 + 104/45 (l - 1/2)^4 on [.49, .51], where the next term is below 4e-11."""
    probability = torch.linspace(0.49, 0.51, 41, dtype=torch.float64)
    logits = torch.logit(probability)
    log_norm = ContinuousBernoulli(logits=logits).log_prob(torch.ones_like(logits)) - torch.log(probability)
    d = probability - 0.5
    series = math.log(2) + 4 / 3 * d**2 + 104 / 45 * d**4
    assert (log_norm - series).abs().max() < 4e-11


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_series_and_closed_forms_meet(dtype):
    """No step where the code goes from the one to the other, at a half logit of 0.1."""
    for sign in (-1, 1):
        logits = sign * torch.tensor([0.2 * (1 - 1e-6), 0.2 * (1 + 1e-6)], dtype=dtype)
        p = ContinuousBernoulli(logits=logits)
        x = torch.full((2,), 0.7, dtype=dtype)
        for value, size in ((p.log_prob(x), 1e-6), (p.mean, 2e-6), (p.variance, 2e-5)):
            assert (value[0] - value[1]).abs() < (size if dtype == torch.float32 else 1e-6 * 0.2)


# Distribution function and sampling


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("x", VALUES)
def test_cdf(x, dtype):
    logits = given(dtype)
    got = ContinuousBernoulli(logits=logits).cdf(torch.full_like(logits, x))
    expected = [mp_cdf(eta, float(torch.tensor(x, dtype=dtype))) for eta in logits.tolist()]
    rel = 1e-4 if dtype == torch.float32 else 1e-11
    close(got, expected, rel, 1e-30)


@pytest.mark.parametrize("u", [1e-6, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_icdf_is_the_inverse(u):
    logits = given(torch.float64)
    p = ContinuousBernoulli(logits=logits)
    x = p.icdf(torch.full_like(logits, u))
    assert p.cdf(x).tolist() == pytest.approx([u] * len(LOGITS), rel=1e-9)
    single = ContinuousBernoulli(logits=logits.float()).icdf(torch.full_like(logits, u).float())
    assert torch.allclose(single.double(), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_icdf_at_the_ends(dtype):
    logits = given(dtype)
    p = ContinuousBernoulli(logits=logits)
    # At a logit of 30 the last digits of 1 - exp(-30) are lost: 5.5e-6 in place of 0.
    assert p.icdf(torch.zeros_like(logits)).max() < 1e-5
    assert p.icdf(torch.ones_like(logits)).min() > 1 - 1e-5


@pytest.mark.parametrize("eta", [-100.0, -3.0, -0.01, 0.0, 0.5, 8.0, 100.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_draws(eta, dtype):
    """A Kolmogorov-Smirnov test against mpmath's distribution function, and mean and variance."""
    p = ContinuousBernoulli(logits=torch.tensor(eta, dtype=dtype))
    draws = p.sample((4000,))
    assert draws.dtype == dtype and ((draws >= 0) & (draws <= 1)).all()
    assert stats.kstest([float(mp_cdf(eta, x)) for x in draws.tolist()], "uniform").pvalue > 1e-3
    assert abs(draws.mean() - p.mean) < 4 * (p.variance / 4000).sqrt()
    assert draws.var().item() == pytest.approx(p.variance.item(), rel=0.3)


# Gradients


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_gradient_of_log_prob_by_finite_differences(x):
    logits = given(torch.float64)[1:-1].requires_grad_()
    value = torch.full_like(logits, x)
    (slope,) = torch.autograd.grad(ContinuousBernoulli(logits=logits).log_prob(value).sum(), logits)
    step = 1e-4
    up, down = (ContinuousBernoulli(logits=logits.detach() + s).log_prob(value) for s in (step, -step))
    assert slope.tolist() == pytest.approx(((up - down) / (2 * step)).tolist(), abs=2e-7)
    exact = [x - float(mp_mean(eta)) for eta in logits.tolist()]  # an exponential family: x - E[x]
    assert slope.tolist() == pytest.approx(exact, rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_finite_and_right_at_every_logit(dtype):
    logits = given(dtype).requires_grad_()
    p = ContinuousBernoulli(logits=logits)
    (slope,) = torch.autograd.grad(p.log_prob(torch.full_like(logits, 0.25)).sum(), logits)
    close(slope, [0.25 - mp_mean(eta) for eta in logits.tolist()], 1e-5, 2e-5 if dtype == torch.float32 else 1e-10)
    (slope,) = torch.autograd.grad(p.mean.sum(), logits)
    rel = 1e-2 if dtype == torch.float32 else 1e-9
    close(slope, [mp_variance(eta) for eta in logits.tolist()], rel, 1e-8)
    draws = p.icdf(torch.full_like(logits, 0.4))
    (slope,) = torch.autograd.grad(draws.sum(), logits)
    assert torch.isfinite(slope).all() and (slope > 0).any()


# As a Pyro distribution


def test_it_expands_copies_and_masks():
    p = ContinuousBernoulli(logits=torch.tensor([-4.0, 0.0, 100.0]))
    x = torch.tensor([0.1, 0.5, 0.9])
    wide = p.expand([5, 3])
    assert isinstance(wide, ContinuousBernoulli) and wide.batch_shape == (5, 3)
    assert torch.equal(wide.log_prob(x), p.log_prob(x).expand(5, 3))
    assert wide.sample().shape == (5, 3) and p.to_event(1).event_shape == (3,)
    assert torch.equal(copy.deepcopy(p).log_prob(x), p.log_prob(x))
    assert torch.equal(p.mask(torch.tensor([True, False, True])).log_prob(x)[1], torch.tensor(0.0))


def test_it_validates():
    p = ContinuousBernoulli(logits=torch.zeros(2), validate_args=True)
    for value in (1.5, -0.5, math.nan):
        with pytest.raises(ValueError, match="within the support"):
            p.log_prob(torch.tensor([0.5, value]))
        with pytest.raises(ValueError, match="within the support"):
            p.cdf(torch.tensor([0.5, value]))


def test_torchs_own_is_wrong_where_this_is_right():
    """Why the class is there; if torch mends it, the class can go."""
    logits, x = torch.tensor(100.0), torch.tensor(1.0)
    assert ContinuousBernoulli(logits=logits).log_prob(x).item() == pytest.approx(math.log(100), rel=1e-6)
    assert abs(torch.distributions.ContinuousBernoulli(logits=logits).log_prob(x).item() - math.log(100)) > 1
