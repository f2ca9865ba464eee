import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import kl_divergence
from torch.nn.functional import normalize

from pyrovae.distributions import HypersphericalUniform, PowerSpherical, map_tensors, sphere

FLOAT64 = torch.float64


def unit(*values, dtype=FLOAT64):
    return normalize(torch.tensor(values, dtype=dtype), dim=-1)


def circle():
    """Points on the circle and their weights in an integral."""
    angle = torch.arange(4000, dtype=FLOAT64) * (2 * math.pi / 4000)
    return torch.stack([angle.cos(), angle.sin()], -1), torch.full((4000,), 2 * math.pi / 4000, dtype=FLOAT64)


def ball():
    """Points on the sphere in three dimensions and their weights in an integral."""
    height, weight = (torch.tensor(a, dtype=FLOAT64) for a in np.polynomial.legendre.leggauss(200))
    angle = torch.arange(400, dtype=FLOAT64) * (2 * math.pi / 400)
    height, angle = torch.broadcast_tensors(height[:, None], angle)
    radius = (1 - height.square()).sqrt()
    points = torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1).flatten(0, 1)
    return points, (weight[:, None] * (2 * math.pi / 400)).expand(200, 400).flatten()


CASES = [(circle, unit(-0.3, 0.8)), (ball, unit(0.5, -0.7, 0.4)), (ball, unit(-1.0, 0.0, 0.0))]


@pytest.mark.parametrize("concentration", [0.0, 2.5, 200.0])
@pytest.mark.parametrize(("grid", "loc"), CASES, ids=["circle", "sphere", "pole"])
def test_integrals_over_the_circle_and_the_sphere(grid, loc, concentration):
    """The density sums to 1; mean, variance, entropy and KL are the integrals that define them."""
    x, weight = grid()
    p = PowerSpherical(loc, torch.tensor(concentration, dtype=FLOAT64))
    log_prob = p.log_prob(x)
    mass = log_prob.exp() * weight
    assert mass.sum().item() == pytest.approx(1, abs=1e-8)
    mean = (mass[:, None] * x).sum(0)
    assert torch.allclose(p.mean, mean, atol=1e-8)
    assert torch.allclose(p.variance, (mass[:, None] * (x - mean).square()).sum(0), atol=1e-8)
    entropy = -(mass * log_prob.clamp_min(-1e4)).sum()
    assert p.entropy().item() == pytest.approx(entropy.item(), abs=1e-7)
    uniform = HypersphericalUniform(len(loc), like=loc)
    expected = (mass * (log_prob.clamp_min(-1e4) - uniform.log_prob(x))).sum()
    assert kl_divergence(p, uniform).item() == pytest.approx(expected.item(), abs=1e-7)


@pytest.mark.parametrize("concentration", [0.0, 0.3, 5.0, 200.0])
@pytest.mark.parametrize("dim", [2, 4, 9])
def test_the_density_of_the_cosine_sums_to_one(dim, concentration):
    """The points at cosine t to the centre are a sphere of dimension D - 2 and radius sqrt(1 - t^2)."""
    p = PowerSpherical(torch.eye(dim, dtype=FLOAT64)[0], torch.tensor(concentration, dtype=FLOAT64))
    area = 2 * math.pi ** ((dim - 1) / 2) / math.gamma((dim - 1) / 2)

    def density(angle):
        x = torch.zeros(dim, dtype=FLOAT64)
        x[0], x[1] = math.cos(angle), math.sin(angle)
        return area * math.sin(angle) ** (dim - 2) * p.log_prob(x).exp().item()

    assert integrate.quad(density, 0, math.pi, points=[0.1, 0.5])[0] == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("concentration", [1e-3, 2.0, 1000.0])
@pytest.mark.parametrize("cosine", [-1 + 1e-9, -0.4, 0.999])
def test_the_formula_of_the_paper(cosine, concentration, dtype):
    """log N(alpha, beta) + kappa log(1 + mu.x) of De Cao & Aziz (2020), also close to the opposite pole."""
    dim = 4
    loc = torch.eye(dim, dtype=dtype)[0]
    sine = math.sqrt((1 - cosine) * (1 + cosine))
    x = torch.tensor([cosine, sine, 0, 0], dtype=dtype)
    with mpmath.workdps(50):
        # The dot product of the points as they are rounded.
        a, b = (mpmath.mpf(v.item()) for v in x[:2])
        beta = mpmath.mpf(dim - 1) / 2
        alpha = beta + concentration
        constant = mpmath.log(2) * (alpha + beta) + mpmath.log(mpmath.pi) * beta
        constant += mpmath.loggamma(alpha) - mpmath.loggamma(alpha + beta)
        expected = float(concentration * mpmath.log(((1 + a) ** 2 + b**2) / 2) - constant)
    got = PowerSpherical(loc, torch.tensor(concentration, dtype=dtype)).log_prob(x).item()
    tolerance = 1e-10 if dtype == FLOAT64 else 1e-6
    assert got == pytest.approx(expected, rel=tolerance, abs=tolerance * (1 + 10 * concentration))


@pytest.mark.parametrize(
    "loc",
    [
        unit(1.0, 0.0, 0.0),
        unit(-1.0, 0.0, 0.0),
        unit(0.0, 1.0, 0.0),
        unit(-0.2, 0.5, -0.9),
        unit(0.6, 0.8),
        unit(1, 2, 3, -4, 5, 6),
    ],
    ids=str,
)
@pytest.mark.parametrize("concentration", [0.0, 1.5, 300.0])
def test_draws(loc, concentration):
    """Cosines to the centre have a Beta distribution, and all coordinates the mean and the variance."""
    n, dim = 5000, len(loc)
    p = PowerSpherical(loc, torch.tensor(concentration, dtype=FLOAT64))
    x = p.sample((n,))
    assert x.shape == (n, dim) and sphere.check(x).all()
    beta = (dim - 1) / 2
    assert stats.kstest(((1 + x @ loc) / 2).numpy(), stats.beta(beta + concentration, beta).cdf).pvalue > 1e-3
    centred = x - p.mean
    assert (centred.mean(0) / (p.stddev / math.sqrt(n)).clamp_min(1e-9)).abs().max() < 4
    square = centred.square()
    assert ((square.mean(0) - p.variance) / (square.std(0) / math.sqrt(n)).clamp_min(1e-9)).abs().max() < 4


def test_draws_have_the_right_correlations():
    """E[x x'] = across I + (along - across) mu mu' + mean mean', off the diagonal too."""
    loc, concentration, n = unit(-0.5, 0.3, 0.8), 4.0, 20000
    x = PowerSpherical(loc, torch.tensor(concentration, dtype=FLOAT64)).sample((n,))
    products = x[:, :, None] * x[:, None, :]
    error = products.mean(0) - second_moment(loc, torch.tensor(concentration, dtype=FLOAT64))
    assert (error / (products.std(0) / math.sqrt(n))).abs().max() < 4


def second_moment(loc, concentration):
    """E[x x'] from E[t^2], where (1 + t) / 2 is Beta distributed."""
    dim = loc.shape[-1]
    b = (dim - 1) / 2
    a = b + concentration
    first, second = a / (a + b), a * (a + 1) / ((a + b) * (a + b + 1))
    along = 4 * second - 4 * first + 1
    outer = loc[..., :, None] * loc[..., None, :]
    return along * outer + (1 - along) / (dim - 1) * (torch.eye(dim, dtype=loc.dtype) - outer)


@pytest.mark.parametrize("raw", [[2.0, 0.0, 0.0], [-0.4, 0.7, 1.1], [0.5, -0.8], [-1.0, 0.2, 0.3, 0.4, -0.6]])
@pytest.mark.parametrize("concentration", [0.2, 6.0])
def test_gradients_of_expectations(raw, concentration):
    """Draws carry the gradient of E[(w.x)^2 + w.x] in closed form, to centre and concentration."""
    n, dim = 40000, len(raw)
    weight = torch.linspace(-1, 1.5, dim, dtype=FLOAT64)

    def leaves(*shape):
        loc = torch.tensor(raw, dtype=FLOAT64).expand(*shape, dim).clone().requires_grad_()
        return loc, torch.full(shape, concentration, dtype=FLOAT64, requires_grad=True)

    loc, kappa = leaves(n)
    projection = PowerSpherical(normalize(loc, dim=-1), kappa).rsample() @ weight
    draws = torch.autograd.grad((projection.square() + projection).sum(), (loc, kappa))
    loc, kappa = leaves()
    mu = normalize(loc, dim=-1)
    exact = weight @ second_moment(mu, kappa) @ weight + kappa / (kappa + dim - 1) * (mu @ weight)
    for draw, truth in zip(draws, torch.autograd.grad(exact, (loc, kappa)), strict=True):
        error = (draw.std(0) / math.sqrt(n)).clamp_min(1e-12)
        assert ((draw.mean(0) - truth) / error).abs().max() < 4


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("concentration", [1e-6, 1.0, 1e4])
def test_all_is_finite_and_on_the_sphere(concentration, dtype):
    loc = normalize(torch.randn(2000, 3, dtype=dtype), dim=-1).requires_grad_()
    kappa = torch.full((2000,), concentration, dtype=dtype, requires_grad=True)
    p = PowerSpherical(loc, kappa)
    x = p.rsample()
    assert x.dtype == dtype and p.support.check(x).all()
    assert (torch.linalg.vector_norm(x, dim=-1) - 1).abs().max() < 10 * torch.finfo(dtype).eps
    log_prob = p.log_prob(x)
    assert log_prob.dtype == dtype and torch.isfinite(log_prob).all()
    for gradient in torch.autograd.grad((log_prob + x.sum(-1)).sum(), (loc, kappa)):
        assert torch.isfinite(gradient).all()
    opposite = p.log_prob(-loc)
    assert torch.isfinite(opposite).all()


def test_shapes():
    p = PowerSpherical(unit(1.0, 1.0), torch.ones(4, dtype=FLOAT64))
    assert (p.batch_shape, p.event_shape) == ((4,), (2,))
    wide = p.expand((3, 4))
    assert wide.rsample((5,)).shape == (5, 3, 4, 2) and wide.log_prob(wide.sample()).shape == (3, 4)
    assert wide.mean.shape == wide.variance.shape == (3, 4, 2) and torch.equal(wide.mode, p.mode.expand(3, 4, 2))
    u = HypersphericalUniform(3)
    assert u.log_prob(u.sample((7,))).shape == (7,)
    wide = u.expand((2, 4))
    assert wide.sample((5,)).shape == (5, 2, 4, 3) and wide.log_prob(wide.sample()).shape == (2, 4)
    assert wide.log_prob(u.sample()).shape == wide.entropy().shape == (2, 4)
    p = PowerSpherical(unit(1.0, 1.0, 0.0), torch.ones(4, dtype=FLOAT64))
    assert kl_divergence(p, HypersphericalUniform(3)).shape == (4,)


def test_kl_by_draws():
    p = PowerSpherical(unit(1, 2, 3, 4, 5), torch.tensor(3.0, dtype=FLOAT64))
    u = HypersphericalUniform(5, like=p.loc)
    x = p.sample((20000,))
    terms = p.log_prob(x) - u.log_prob(x)
    assert abs(terms.mean() - kl_divergence(p, u)) < 4 * terms.std() / math.sqrt(20000)


@pytest.mark.parametrize(("dim", "area"), [(2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2)])
def test_the_uniform_density_is_one_over_the_area(dim, area):
    u = HypersphericalUniform(dim)
    assert u.log_prob(torch.eye(dim)[0]).item() == pytest.approx(-math.log(area), rel=1e-6)
    assert u.entropy().item() == pytest.approx(math.log(area), rel=1e-6)


def test_uniform_draws():
    """On the sphere in three dimensions each coordinate is uniform (Archimedes)."""
    u = HypersphericalUniform(3)
    x = u.sample((5000,))
    assert u.support.check(x).all()
    for column in x.T.numpy():
        assert stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert u.mean.tolist() == [0, 0, 0] and u.variance.tolist() == pytest.approx([1 / 3] * 3)


def test_dtype_of_the_uniform():
    assert HypersphericalUniform(2).sample().dtype == torch.float32
    assert HypersphericalUniform(2, like=torch.zeros(1, dtype=FLOAT64)).sample().dtype == FLOAT64
    assert map_tensors(torch.Tensor.double, HypersphericalUniform(2)).sample().dtype == FLOAT64


def test_what_lies_on_the_sphere():
    assert str(sphere) == "Sphere()"
    x = torch.tensor([[0.6, 0.8], [0.6, 0.7], [0.0, 0.0], [math.nan, 1.0]])
    assert sphere.check(x).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="within the support"):
        PowerSpherical(unit(1.0, 0.0), torch.tensor(1.0, dtype=FLOAT64)).log_prob(torch.ones(2, dtype=FLOAT64))
    with pytest.raises(ValueError, match="loc"):
        PowerSpherical(torch.ones(2), torch.tensor(1.0))


def test_one_dimension_has_no_sphere():
    with pytest.raises(ValueError, match="2 or more elements, got"):
        PowerSpherical(torch.ones(4, 1), torch.ones(4))
    with pytest.raises(ValueError, match="dim: expected a whole number of at least 2, got 1"):
        HypersphericalUniform(1)
