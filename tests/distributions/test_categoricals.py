import itertools
import math

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from scipy import integrate, stats
from torch.distributions import constraints, kl_divergence

from pyrovae.distributions import Categoricals, RelaxedCategoricals, blocks, one_hot_blocks, simplex_blocks

FLOAT64 = torch.float64


def logits(*shape, seed=0, dtype=FLOAT64):
    return 2 * torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def values(m, k):
    """All one-hot vectors of m variables of k classes, by hand."""
    rows = [np.concatenate([np.eye(k)[i] for i in choice]) for choice in itertools.product(range(k), repeat=m)]
    return torch.tensor(np.array(rows))


# Blocks


def test_blocks():
    assert blocks(6, 3, "q") == (2, 3) and blocks(6, None, "q") == (1, 6)
    with pytest.raises(ValueError, match="q: expected latent_dim to be a multiple of classes=4, got 6"):
        blocks(6, 4, "q")
    with pytest.raises(ValueError, match="q classes: expected a whole number of at least 2, got 1"):
        blocks(1, None, "q")


def test_what_lies_in_blocks():
    one_hot, simplex = one_hot_blocks(2), simplex_blocks(2)
    assert (str(one_hot), str(simplex)) == ("OneHotBlocks(classes=2)", "SimplexBlocks(classes=2)")
    assert one_hot.is_discrete and not simplex.is_discrete and one_hot.event_dim == simplex.event_dim == 1
    x = torch.tensor([[0.0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0.5, 0.5], [0, 1, -1, 2], [1, 1, 0, 0]])
    assert one_hot.check(x).tolist() == [True, False, False, False, False]
    assert simplex.check(x).tolist() == [True, False, True, False, False]
    assert not one_hot.check(x[:, :3]).any()


# Categoricals


@pytest.mark.parametrize(("m", "k"), [(1, 2), (1, 5), (2, 3), (3, 2)])
def test_probabilities(m, k):
    """The product of m categorical probabilities; all values together have probability 1."""
    raw = logits(4, m, k)
    p = Categoricals(raw)
    assert (p.batch_shape, p.event_shape, p.support.event_dim) == ((4,), (m * k,), 1)
    x = p.enumerate_support()
    assert torch.equal(x[:, 0], values(m, k)) and torch.equal(x, x[:, :1].expand(-1, 4, -1))
    assert torch.equal(p.enumerate_support(expand=False), x[:, :1])
    log_prob = p.log_prob(x)
    assert log_prob.shape == (k**m, 4) and torch.allclose(log_prob.exp().sum(0), torch.ones(4, dtype=FLOAT64))
    for row in range(4):
        probs = np.exp(raw[row].numpy()) / np.exp(raw[row].numpy()).sum(-1, keepdims=True)
        for value, got in zip(x[:, row].numpy(), log_prob[:, row], strict=True):
            expected = sum(stats.multinomial.logpmf(v, 1, q) for v, q in zip(value.reshape(m, k), probs, strict=True))
            assert got.item() == pytest.approx(expected, rel=1e-9)
    mean = (log_prob.exp()[..., None] * x).sum(0)
    assert torch.allclose(p.mean, mean)
    assert torch.allclose(p.variance, (log_prob.exp()[..., None] * (x - mean).square()).sum(0))
    assert torch.allclose(p.entropy(), -(log_prob.exp() * log_prob).sum(0))
    assert torch.equal(p.mode, x[log_prob.argmax(0), torch.arange(4)])


@pytest.mark.parametrize(("m", "k"), [(1, 4), (2, 3)])
def test_kl_is_the_sum_over_all_values(m, k):
    p, q = Categoricals(logits(3, m, k)), Categoricals(logits(m, k, seed=1))
    x = p.enumerate_support()
    expected = (p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x))).sum(0)
    assert torch.allclose(kl_divergence(p, q), expected)
    assert torch.equal(kl_divergence(p, p), torch.zeros(3, dtype=FLOAT64))


def test_kl_of_other_sizes():
    with pytest.raises(ValueError, match=r"as many variables and classes, got \(1, 6\) and \(2, 3\)"):
        kl_divergence(Categoricals(torch.zeros(1, 6)), Categoricals(torch.zeros(2, 3)))


def test_draws():
    p = Categoricals(logits(2, 2, 3))
    x = p.sample((6000,))
    assert x.shape == (6000, 2, 6) and x.dtype == FLOAT64 and p.support.check(x).all()
    for row in range(2):
        counts = [(x[:, row] == value).all(-1).sum().item() for value in values(2, 3)]
        expected = 6000 * p.expand((9, 2)).log_prob(p.enumerate_support()).exp()[:, row]
        assert stats.chisquare(counts, expected.numpy()).pvalue > 1e-3
    assert not p.has_rsample


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
def test_extreme_logits(dtype):
    raw = torch.tensor([[1e3, -1e3, 0.0]], dtype=dtype, requires_grad=True)
    p, q = Categoricals(raw), Categoricals(-raw.detach())
    assert p.log_prob(torch.tensor([0.0, 1, 0], dtype=dtype)).item() == -2000
    assert kl_divergence(p, q).item() == pytest.approx(2000)
    (gradient,) = torch.autograd.grad(kl_divergence(p, q) + p.entropy() + p.log_prob(p.sample()), raw)
    assert torch.isfinite(gradient).all() and p.sample().dtype == dtype


def test_too_many_values():
    p = Categoricals(torch.zeros(5, 20, 10))
    with pytest.raises(ValueError, match=r"at most 4096 values to sum over, got 10\^20"):
        p.enumerate_support()
    assert Categoricals(torch.zeros(12, 2)).enumerate_support().shape == (4096, 24)


def test_shapes():
    p = Categoricals(torch.zeros(4, 2, 3)).expand((5, 4))
    assert p.sample((2,)).shape == (2, 5, 4, 6) and p.log_prob(p.sample()).shape == (5, 4)
    assert p.enumerate_support().shape == (9, 5, 4, 6) and p.enumerate_support(expand=False).shape == (9, 1, 1, 6)
    assert p.mean.shape == p.mode.shape == (5, 4, 6) and p.entropy().shape == (5, 4)
    with pytest.raises(ValueError, match="within the support"):
        p.log_prob(torch.full((6,), 0.5))
    with pytest.raises(ValueError, match="logits: expected shape"):
        Categoricals(torch.zeros(3))


@pytest.mark.parametrize(("m", "k"), [(1, 3), (2, 3)])
@pytest.mark.parametrize("rows", [1, 4])
def test_enumeration_is_the_exact_elbo(m, k, rows):
    """TraceEnum_ELBO in a plate: sum_z q(z | x) (log p(x, z) - log q(z | x)), and its gradient."""
    x = torch.randn(rows, 2, dtype=FLOAT64)
    leaves = [p.requires_grad_() for p in (logits(m, k, seed=1), logits(rows, m, k, seed=2), logits(m * k, 2, seed=3))]
    prior, posterior, weight = leaves

    def model():
        with pyro.plate("data", rows):
            z = pyro.sample("z", Categoricals(prior))
            pyro.sample("x", dist.Normal(torch.tanh(z @ weight), 1.0).to_event(1), obs=x)

    def guide():
        with pyro.plate("data", rows):
            pyro.sample("z", Categoricals(posterior), infer={"enumerate": "parallel"})

    elbo = -TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide)
    exact = 0
    for value in values(m, k):
        log_q = (value.reshape(m, k) * posterior.log_softmax(-1)).sum((-2, -1))
        log_p = (value.reshape(m, k) * prior.log_softmax(-1)).sum()
        log_p = log_p - 0.5 * ((x - torch.tanh(value @ weight)).square() + math.log(2 * math.pi)).sum(-1)
        exact = exact + (log_q.exp() * (log_p - log_q)).sum()
    assert elbo.item() == pytest.approx(exact.item(), rel=1e-10)
    for got, expected in zip(torch.autograd.grad(elbo, leaves), torch.autograd.grad(exact, leaves), strict=True):
        assert torch.allclose(got, expected, atol=1e-10)


# Relaxed categoricals


def concrete(y, eta, temperature):
    """Definition 1 of Maddison et al. (2017), in 60 digits, at the numbers as they are rounded."""
    with mpmath.workdps(60):
        y, eta = [mpmath.mpf(v) for v in y], [mpmath.mpf(v) for v in eta]
        t, k = mpmath.mpf(temperature), len(y)
        total = sum(mpmath.exp(e) * v**-t for e, v in zip(eta, y, strict=True))
        each = [e - (t + 1) * mpmath.log(v) - mpmath.log(total) for e, v in zip(eta, y, strict=True)]
        return float(mpmath.loggamma(k) + (k - 1) * mpmath.log(t) + sum(each))


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(
    "y", [[0.2, 0.5, 0.3], [1 - 2e-7, 1e-7, 1e-7], [1e-20, 1 - 1e-6, 1e-6], [1e-30, 1e-25, 1.0]], ids=str
)
@pytest.mark.parametrize("eta", [[0.3, -1.0, 0.0], [40.0, -60.0, 5.0]], ids=str)
def test_relaxed_density(y, eta, temperature, dtype):
    y, eta, temperature = (torch.tensor(v, dtype=dtype) for v in (y, eta, temperature))
    got = RelaxedCategoricals(temperature, eta[None]).log_prob(y).item()
    expected = concrete(y.tolist(), eta.tolist(), temperature.item())
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert got == pytest.approx(expected, rel=tolerance, abs=200 * tolerance)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_relaxed_density_sums_to_one(temperature):
    """Over u = log(y_i / y_k), whose Jacobian is the product of y; two blocks are a product of two densities."""
    eta = torch.tensor([[0.5, -1.0, 0.2]], dtype=FLOAT64)
    u = torch.linspace(-60, 60, 601, dtype=FLOAT64)
    grid = torch.stack([*torch.meshgrid(u, u, indexing="ij"), torch.zeros(601, 601, dtype=FLOAT64)], -1)
    y = grid.softmax(-1)
    p = RelaxedCategoricals(temperature, eta)
    mass = (p.log_prob(y) + grid.log_softmax(-1).sum(-1)).exp().sum() * (u[1] - u[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-8)
    other = RelaxedCategoricals(temperature, -eta)
    both = RelaxedCategoricals(temperature, torch.stack([eta[0], -eta[0]]))
    a, b = y[300, 310], y[290, 333]
    assert both.log_prob(torch.cat([a, b])).item() == pytest.approx((p.log_prob(a) + other.log_prob(b)).item())


@pytest.mark.parametrize("temperature", [0.3, 1.5])
def test_relaxed_draws(temperature):
    """temperature * log(y_i / y_j) is logistic around eta_i - eta_j, and the largest is i with probability pi_i."""
    eta = logits(2, 3)
    p = RelaxedCategoricals(temperature, eta)
    y = p.sample((4000,)).unflatten(-1, (2, 3))
    for block in range(2):
        for i, j in ((0, 1), (1, 2)):
            odds = temperature * (y[:, block, i] / y[:, block, j]).log()
            centre = (eta[block, i] - eta[block, j]).item()
            assert stats.kstest(odds.numpy(), stats.logistic(centre).cdf).pvalue > 1e-3
        counts = y[:, block].argmax(-1).bincount(minlength=3)
        assert stats.chisquare(counts.numpy(), (4000 * eta[block].softmax(-1)).numpy()).pvalue > 1e-3
    assert abs(np.corrcoef(y[:, 0, 0].numpy(), y[:, 1, 0].numpy())[0, 1]) < 4 / math.sqrt(4000)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_relaxed_gradients_of_expectations(temperature):
    """d E[y_1] / d eta for two classes, where y_1 = sigmoid((eta_1 - eta_2 + L) / temperature), L logistic."""
    n, eta = 20000, [0.7, -0.4]

    def slope(noise):
        y = 1 / (1 + math.exp(-(eta[0] - eta[1] + noise) / temperature))
        return y * (1 - y) / temperature * stats.logistic.pdf(noise)

    truth = integrate.quad(slope, -40, 40, epsabs=1e-12)[0]
    leaf = torch.tensor(eta, dtype=FLOAT64).expand(n, 1, 2).clone().requires_grad_()
    (draws,) = torch.autograd.grad(RelaxedCategoricals(temperature, leaf).rsample()[:, 0].sum(), leaf)
    error = draws.std(0) / math.sqrt(n)
    assert ((draws.mean(0) - torch.tensor([truth, -truth])) / error).abs().max() < 4


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
def test_relaxed_is_finite(temperature, dtype):
    """Draws do not reach 0; densities and gradients of saturated variables are finite, multiplied by a scale too."""
    raw = torch.tensor([[1e3, -1e3, 0.0], [0.0, 0.0, 0.0]], dtype=dtype).expand(2000, 2, 3).clone().requires_grad_()
    p = RelaxedCategoricals(temperature, raw)
    y = p.rsample()
    assert y.dtype == dtype and (y > 0).all() and p.support.check(y).all()
    log_prob = p.log_prob(y)
    (gradient,) = torch.autograd.grad(1e4 * (log_prob + y.log().sum(-1)).sum(), raw)
    assert torch.isfinite(log_prob).all() and torch.isfinite(gradient).all()
    corner = torch.tensor([1.0, 0, 0, 1, 0, 0], dtype=dtype)
    assert torch.isfinite(p.log_prob(corner)).all()


def test_relaxed_shapes():
    p = RelaxedCategoricals(torch.tensor(0.5), torch.zeros(4, 2, 3)).expand((5, 4))
    assert (p.batch_shape, p.event_shape, p.has_rsample) == ((5, 4), (6,), True)
    assert p.rsample((2,)).shape == (2, 5, 4, 6) and p.log_prob(p.sample()).shape == (5, 4)
    assert str(p.support) == "SimplexBlocks(classes=3)"
    assert RelaxedCategoricals(0.5, torch.zeros(1, 6)).support is constraints.simplex
    with pytest.raises(ValueError, match="temperature: expected one number"):
        RelaxedCategoricals(torch.ones(4), torch.zeros(4, 2, 3))
    with pytest.raises(ValueError, match="logits: expected shape"):
        RelaxedCategoricals(0.5, torch.zeros(3))
    with pytest.raises(ValueError, match="temperature"):
        RelaxedCategoricals(0.0, torch.zeros(1, 3))
