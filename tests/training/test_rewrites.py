"""Graphs in other forms have the numbers that they had, up to rounding, and are in those forms."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.special import expit, log_expit
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

import pyrovae
from pyrovae import elbos
from pyrovae.training import traced
from pyrovae.training.rewrites import FACTORS, _factors

aten = torch.ops.aten


def count(graph, target):
    return sum(node.target is target for node in graph.graph.nodes)


def log_bernoulli(logits, x):
    """Of each row, and its gradient."""
    logits = logits.detach().requires_grad_()
    value = dist.Bernoulli(logits=logits).to_event(logits.ndim - 1).log_prob(x)
    return value, *torch.autograd.grad(value.sum(), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(784,), (1, 28, 28), (64,), (12,), (2, 3), (2,)], ids=str)
def test_log_bernoulli(as_traced, shape, dtype):
    """Against scipy's logs of probabilities, in float64."""
    logits = 4 * torch.randn(5, *shape, dtype=dtype)
    logits[0], logits[1], logits[2] = 0.0, 1e3, -1e3
    x = (torch.rand(5, *shape) < 0.5).to(dtype)
    value, gradient = traced.Traced(log_bernoulli)(logits, x)
    assert count(as_traced[0], aten.prod.dim_int) == 1
    assert not count(as_traced[0], aten.binary_cross_entropy_with_logits.default)
    exact = log_expit(torch.where(x == 1, logits, -logits).double().flatten(1).numpy()).sum(1)
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(value.double(), exact, rtol=4 * eps, atol=4 * math.prod(shape) * eps)
    torch.testing.assert_close(gradient, x - torch.sigmoid(logits))


@pytest.mark.parametrize("size", [1, 67, 787])
def test_of_what_has_no_divisor_each_pixel_has_its_logarithm(as_traced, size):
    logits, x = 4 * torch.randn(3, size), torch.ones(3, size)
    value, _ = traced.Traced(log_bernoulli)(logits, x)
    assert not count(as_traced[0], aten.prod.dim_int)
    np.testing.assert_allclose(value, log_expit(logits.double().numpy()).sum(1), rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, x: cross_entropy(a, x, x + 1, reduction="none").neg(),
        lambda a, x: cross_entropy(a, x, pos_weight=x, reduction="none").neg(),
        lambda a, x: cross_entropy(a, x, reduction="none"),
        lambda a, x: a.exp().neg(),
    ],
    ids=["weighted", "weighted ones", "a loss", "no entropy"],
)
def test_other_sums_stay_as_they_are(as_traced, function):
    def summed(logits, x):
        return (function(logits, x).reshape(3, 8).sum(-1),)

    logits, x = torch.randn(3, 2, 4), (torch.rand(3, 2, 4) < 0.5).float()
    (value,) = traced.Traced(summed)(logits, x)
    assert not count(as_traced[0], aten.prod.dim_int)
    torch.testing.assert_close(value, summed(logits, x)[0])


def test_a_sum_over_another_dimension_is_no_product(as_traced):
    def summed(logits, x):
        return (dist.Bernoulli(logits=logits).log_prob(x).view(4, 6).sum(0),)

    logits, x = torch.randn(4, 6), torch.ones(4, 6)
    torch.testing.assert_close(traced.Traced(summed)(logits, x)[0], summed(logits, x)[0])
    assert not count(as_traced[0], aten.prod.dim_int)


EDGES = [-torch.inf, -1e30, -200.0, -1e-30, -0.0, 0.0, 1e-30, 1e-6, 200.0, 1e30, torch.inf]


def numbers(dtype):
    """Where functions change, where they end, and beyond."""
    return torch.cat([torch.linspace(-110, 110, 400_001), torch.linspace(-2, 2, 100_001), torch.tensor(EDGES)]).to(
        dtype
    )


def errors(function, exact, a):
    """How far a function is from the exact one, and that one; of nan it is nan."""
    found = traced.Traced(lambda a: (function(a),))(torch.cat([a, a.new_tensor([torch.nan])]))[0]
    assert found[-1].isnan() and found.dtype == a.dtype
    exact = torch.from_numpy(exact(a.double().numpy()))
    return (found[:-1].double() - exact).abs(), exact.abs()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tanh(as_traced, dtype):
    error, _ = errors(torch.tanh, np.tanh, numbers(dtype))
    assert not count(as_traced[0], aten.tanh.default)
    assert error.max() <= 3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sigmoid(as_traced, dtype):
    error, exact = errors(torch.sigmoid, expit, numbers(dtype))
    assert not count(as_traced[0], aten.sigmoid.default)
    assert (error <= 4 * torch.finfo(dtype).eps * exact + (2e-38 if dtype == torch.float32 else 0)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_softplus(as_traced, dtype):
    """The smallest of them too, such as a scale of which somebody takes the logarithm."""
    error, exact = errors(torch.nn.functional.softplus, lambda a: np.logaddexp(0, a), numbers(dtype))
    assert not count(as_traced[0], aten.softplus.default)
    finite = exact.isfinite()
    assert (error <= 4 * torch.finfo(dtype).eps * exact + 2 * np.finfo(np.float32).smallest_subnormal)[finite].all()


def test_softplus_of_another_slope_stays_as_it_is(as_traced):
    def both(a):
        a = a.detach().requires_grad_()
        value = torch.nn.functional.softplus(a, beta=2.0)
        return value.detach(), *torch.autograd.grad(value.sum(), a)

    a = torch.randn(5)
    for ours, theirs in zip(traced.Traced(both)(a), both(a), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("function", [torch.tanh, torch.sigmoid, torch.nn.functional.softplus])
def test_gradients(as_traced, function):
    def gradient(a):
        a = a.detach().requires_grad_()
        return torch.autograd.grad(function(a).sum(), a)

    a = numbers(torch.float32)
    torch.testing.assert_close(traced.Traced(gradient)(a)[0], gradient(a)[0], rtol=1e-6, atol=1e-6)


def test_machine_code_of_them():
    """One graph of all, because a compiler takes seconds: there products and sums may become one operation."""
    eps = torch.finfo(torch.float32).eps
    cases = [  # and the error that each may have where it is small
        (torch.tanh, np.tanh, 4 * eps),
        (torch.sigmoid, expit, 2e-38),
        (torch.nn.functional.softplus, lambda a: np.logaddexp(0, a), 4e-45),
    ]
    a = torch.cat([numbers(torch.float32), torch.tensor([torch.nan])])
    found = traced.Traced(lambda a: tuple(function(a) for function, _, _ in cases))(a)
    for value, (_, function, least) in zip(found, cases, strict=True):
        with np.errstate(invalid="ignore"):
            exact = torch.from_numpy(function(a.double().numpy()))
        assert torch.equal(value.isnan(), exact.isnan())
        finite = exact.isfinite() & value.isfinite()
        error = (value.double() - exact).abs()[finite]
        assert (error <= (4 * eps * exact.abs()[finite]).clamp_min(least)).all() and finite.sum() >= len(a) - 2


@pytest.mark.parametrize("options", [{"device": "meta"}, {"dtype": torch.bfloat16}], ids=str)
def test_what_is_elsewhere_or_coarse_stays_as_it_is(as_traced, options):
    x = torch.ones(3, 8, **options)
    traced.Traced(lambda a: (torch.tanh(a), cross_entropy(a, a, reduction="none").neg().view(3, 8).sum(-1)))(x)
    for target in (aten.tanh.default, aten.binary_cross_entropy_with_logits.default):
        assert count(as_traced[0], target) == 1


def test_factors():
    for size in range(1, 2000):
        factors = _factors(size)
        assert size % factors == 0 and 1 <= factors <= FACTORS
    assert _factors(784) == 49 and _factors(64) == 8 and _factors(67) == 1


def test_a_vae_has_both():
    """Machine code too: log p(x, z) and log q(z | x) of a VAE are those of Pyro, by the same draws."""
    vae = pyrovae.VAE(
        (1, 28, 28), 5, encoder="mlp(hidden=[9], activation=tanh)", decoder="mlp(hidden=[9], activation=tanh)"
    )
    x = (torch.rand(3, 1, 28, 28) < 0.3).float()

    def terms(x):
        return tuple(elbos.terms(vae.model, vae.guide, x, None, 4))

    torch.manual_seed(1)
    found = traced.Traced(terms)(x)
    torch.manual_seed(1)
    for ours, theirs in zip(found, terms(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-4)
