import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import optimize, stats

from pyrovae.distributions import NormalMixture

FLOAT64 = torch.float64
LOGITS = torch.tensor([0.2, -0.5, 0.1], dtype=FLOAT64)
LOC = torch.tensor([[0.0, 1.0, 0.2], [2.0, -1.0, 0.0], [-1.0, 0.3, 0.7]], dtype=FLOAT64)
SCALE = torch.tensor([[0.5, 1.2, 0.8], [1.0, 0.4, 1.1], [0.7, 0.9, 0.3]], dtype=FLOAT64)


def parameters(dim=3):
    return tuple(p.clone().requires_grad_() for p in (LOGITS, LOC[:, :dim], SCALE[:, :dim]))


def test_density():
    z = torch.randn(6, 3, dtype=FLOAT64)
    weights = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum()
    parts = stats.norm.pdf(z.numpy()[:, None], LOC.numpy(), SCALE.numpy()).prod(-1)
    got = NormalMixture(LOGITS, LOC, SCALE).log_prob(z)
    assert got.tolist() == pytest.approx(np.log(parts @ weights).tolist(), rel=1e-12)


def test_moments():
    p = NormalMixture(LOGITS, LOC, SCALE)
    weights = LOGITS.softmax(0)[:, None]
    mean = (weights * LOC).sum(0)
    assert torch.allclose(p.mean, mean)
    assert torch.allclose(p.variance, (weights * (SCALE**2 + LOC**2)).sum(0) - mean**2)
    z = p.sample((20000,))
    assert ((z.mean(0) - mean) / (p.stddev / math.sqrt(20000))).abs().max() < 4


def conditional_cdf(z, d, logits, loc, scale):
    """F_d(z_d | z_1 .. z_{d-1}), written with scipy."""
    log_weights = logits + stats.norm.logpdf(z[:d], loc[:, :d], scale[:, :d]).sum(-1)
    weights = np.exp(log_weights - log_weights.max())
    return (weights / weights.sum()) @ stats.norm.cdf(z[d], loc[:, d], scale[:, d])


def transport(u, logits, loc, scale):
    """The z whose conditional distribution functions are u."""
    z = np.zeros(len(u))
    for d in range(len(u)):

        def excess(value, d=d):
            z[d] = value
            return conditional_cdf(z, d, logits, loc, scale) - u[d]

        z[d] = optimize.brentq(excess, -30, 30, xtol=1e-14, rtol=1e-15)
    return z


@pytest.mark.parametrize("z", [[0.4, -0.3, 0.9], [2.5, -1.2, -2.0], [-1.8, 1.5, 0.6]], ids=str)
def test_draws_move_as_the_inverse_distribution_function(z, monkeypatch):
    """dz / d(logits, loc, scale) at fixed uniforms, against finite differences of the numerical inverse."""
    arguments = [p.numpy() for p in (LOGITS, LOC, SCALE)]
    u = [conditional_cdf(np.array(z), d, *arguments) for d in range(3)]
    leaves = parameters()
    p = NormalMixture(*leaves)
    monkeypatch.setattr(p, "sample", lambda shape: torch.tensor(z, dtype=FLOAT64))
    draw = p.rsample()
    assert draw.tolist() == z
    step = 1e-5
    for d in range(3):
        gradients = torch.autograd.grad(draw[d], leaves, retain_graph=True)
        for i, gradient in enumerate(gradients):
            for index in np.ndindex(*gradient.shape):
                ends = []
                for side in (step, -step):
                    moved = [a.copy() for a in arguments]
                    moved[i][index] += side
                    ends.append(transport(u, *moved)[d])
                assert gradient[index].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_gradients_of_expectations(dim):
    """The gradient of E[sum z^2 + z_1 z_D], to weights, locations and scales."""
    n = 40000
    logits, loc, scale = (p.expand(n, *p.shape).detach().requires_grad_() for p in parameters(dim))
    z = NormalMixture(logits, loc, scale).rsample()
    draws = torch.autograd.grad((z.square().sum(-1) + z[:, 0] * z[:, -1]).sum(), (logits, loc, scale))
    logits, loc, scale = leaves = parameters(dim)
    each = (loc.square() + scale.square()).sum(-1) + loc[:, 0] * loc[:, -1]
    each = each + scale[:, 0].square() if dim == 1 else each
    exact = (logits.softmax(0) * each).sum()
    for draw, truth in zip(draws, torch.autograd.grad(exact, leaves), strict=True):
        assert ((draw.mean(0) - truth) / (draw.std(0) / math.sqrt(n))).abs().max() < 4


@pytest.mark.parametrize("value", [-6.0, 6.0])
def test_tails_in_float32(value, monkeypatch):
    """A draw far out: dz / d loc_k = w_k N_k(z) / p(z), and for weights -(w_k / p(z)) (Phi_k(z) - F(z))."""
    logits, loc, scale = torch.tensor([0.0, 0.4]), torch.tensor([[-0.2], [0.3]]), torch.tensor([[1.0], [1.1]])
    leaves = tuple(p.requires_grad_() for p in (logits, loc, scale))
    p = NormalMixture(*leaves)
    monkeypatch.setattr(p, "sample", lambda shape: torch.tensor([value]))
    by_logits, by_loc, by_scale = torch.autograd.grad(p.rsample().sum(), leaves)
    with mpmath.workdps(40):
        weight = [mpmath.exp(mpmath.mpf(v.item())) for v in logits]
        weight = [w / sum(weight) for w in weight]
        pairs = [(mpmath.mpf(m.item()), mpmath.mpf(s.item())) for m, s in zip(loc[:, 0], scale[:, 0], strict=True)]
        pdf = [w * mpmath.npdf(value, m, s) for w, (m, s) in zip(weight, pairs, strict=True)]
        cdf = [mpmath.ncdf(value, m, s) for m, s in pairs]
        total = sum(w * c for w, c in zip(weight, cdf, strict=True))
        expected_loc = [float(f / sum(pdf)) for f in pdf]
        expected_scale = [float(f / sum(pdf) * (value - m) / s) for f, (m, s) in zip(pdf, pairs, strict=True)]
        expected_logits = [float(-w * (c - total) / sum(pdf)) for w, c in zip(weight, cdf, strict=True)]
    assert by_loc[:, 0].tolist() == pytest.approx(expected_loc, rel=1e-4)
    assert by_scale[:, 0].tolist() == pytest.approx(expected_scale, rel=1e-4)
    assert by_logits.tolist() == pytest.approx(expected_logits, rel=1e-4)


def test_equal_components_are_one_normal():
    """dz / d loc sums to 1 over components, dz / d scale to the standardised draw, and weights do not matter."""
    leaves = (LOGITS.clone().requires_grad_(), *(torch.full((3, 2), v, dtype=FLOAT64) for v in (0.3, 1.5)))
    for leaf in leaves:
        leaf.requires_grad_()
    z = NormalMixture(*leaves).rsample((50,))
    by_logits, by_loc, by_scale = torch.autograd.grad(z.sum(), leaves)
    assert torch.allclose(by_logits, torch.zeros(3, dtype=FLOAT64), atol=1e-12)
    assert torch.allclose(by_loc.sum(0), torch.full((2,), 50.0, dtype=FLOAT64))
    assert torch.allclose(by_scale.sum(0), ((z - 0.3) / 1.5).sum(0))


def test_a_component_that_is_far_in_one_dimension_only(monkeypatch):
    """In float32 its far dimension leaves no rounding error in its weight given the others."""
    logits = torch.zeros(2, requires_grad=True)
    loc, scale = torch.tensor([[0.0, 0.0], [0.0, 1e9]]), torch.tensor([[1.0, 1.0], [0.1, 1.0]])
    p = NormalMixture(logits, loc, scale)
    monkeypatch.setattr(p, "sample", lambda shape: torch.tensor([0.0, 0.3]))
    (gradient,) = torch.autograd.grad(p.rsample()[1], logits)
    # At z_1 = 0, their common median, the second is ten times as likely, and it lies wholly above z_2.
    expected = -10 / 11 * stats.norm.cdf(0.3) / stats.norm.pdf(0.3)
    assert gradient.tolist() == pytest.approx([expected, -expected], rel=1e-5)


def test_shapes():
    p = NormalMixture(LOGITS, LOC, SCALE).expand((4,))
    assert (p.batch_shape, p.event_shape) == ((4,), (3,))
    wide = p.expand((5, 4))
    assert isinstance(wide, NormalMixture) and wide.rsample((2,)).shape == (2, 5, 4, 3)
    assert wide.log_prob(wide.sample()).shape == (5, 4)
    with torch.no_grad():
        assert p.rsample((6,)).shape == (6, 4, 3)
    assert NormalMixture(LOGITS.float(), LOC.float(), SCALE.float()).rsample().dtype == torch.float32
