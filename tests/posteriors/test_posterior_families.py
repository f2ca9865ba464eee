"""Each family against scipy, its draws against closed forms, and all of them at extreme numbers."""

import math

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

from pyrovae import posteriors
from pyrovae.distributions import same_support, sphere

FLOAT64 = torch.float64

# Name in text, latent_dim, numbers it needs, support.
FAMILIES = {
    "full_rank": (3, 9, constraints.real),
    "low_rank(rank=2)": (3, 12, constraints.real),
    "student_t": (3, 6, constraints.real),
    "student_t(df=4)": (3, 6, constraints.real),
    "laplace": (3, 6, constraints.real),
    "mixture(components=4)": (3, 28, constraints.real),
    "power_spherical": (3, 4, sphere),
    "delta": (3, 3, constraints.real),
    "categorical(classes=3)": (6, 6, None),
    "categorical": (6, 6, None),
    "relaxed_categorical(classes=3)": (6, 6, None),
    "relaxed_categorical(temperature=0.3)": (6, 6, constraints.simplex),
    "gamma": (3, 6, constraints.positive),
    "dirichlet": (3, 3, constraints.simplex),
}


def made(text, dim=None, dtype=FLOAT64):
    piece = posteriors.make(text)
    piece.build((dim or FAMILIES[text][0],))
    return piece.to(dtype)


def numbers(text, rows=5, dtype=FLOAT64):
    return torch.randn(rows, FAMILIES[text][1], dtype=dtype, generator=torch.Generator().manual_seed(0))


def softplus(x):
    return np.logaddexp(0, x)


def draw(q, *shape):
    return q.rsample(shape) if q.has_rsample else q.sample(shape)


# The contract


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("text", FAMILIES)
def test_shapes_and_support(text, dtype):
    dim, count, support = FAMILIES[text]
    piece = posteriors.make(text)
    assert piece.build((dim,)) == count
    q = piece.to(dtype)(numbers(text, dtype=dtype))
    assert (q.batch_shape, q.event_shape) == ((5,), (dim,))
    assert same_support(piece.support, q.support)
    assert support is None or piece.support is support
    wide = q.expand((2, 5))
    z = draw(wide, 4)
    assert z.shape == (4, 2, 5, dim) and z.dtype == dtype and q.support.check(z).all()
    if not piece.point:
        log_prob = wide.log_prob(z)
        assert log_prob.shape == (4, 2, 5) and log_prob.dtype == dtype and torch.isfinite(log_prob).all()
        assert torch.allclose(log_prob[:, 0], q.log_prob(z[:, 0]))
    more = piece(numbers(text, dtype=dtype).expand(3, 5, count))
    assert (more.batch_shape, more.event_shape) == ((3, 5), (dim,))


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("dim", [6, 24])
@pytest.mark.parametrize("text", FAMILIES)
def test_all_is_finite(text, dim, dtype):
    """Draws, densities and gradients, for numbers of +-1000 and for zeros."""
    piece = posteriors.make(text)
    noise = torch.randn(100, piece.build((dim,)), dtype=dtype)
    for own in (-1e3, 1e3):
        for p in piece.to(dtype).parameters():
            p.data.fill_(own)
        for params in (0 * noise, 0 * noise - 1e3, 0 * noise + 1e3, 1e3 * noise.sign(), 30 * noise):
            params.requires_grad_()
            q = piece(params)
            z = draw(q)
            assert torch.isfinite(z).all() and q.support.check(z).all()
            if piece.point:
                continue
            log_prob = q.log_prob(z)
            assert torch.isfinite(log_prob).all()
            for gradient in torch.autograd.grad((log_prob - z.square().sum(-1)).sum(), [params, *piece.parameters()]):
                assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("text", [t for t in FAMILIES if not t.startswith(("power", "categ", "relaxed", "delta"))])
def test_the_first_posterior_is_sensible(text):
    """With zeros from the network: scales of 0.5 to 1 about a centre at 0, or about a mean near 1."""
    q = made(text)(torch.zeros(1, FAMILIES[text][1], dtype=FLOAT64))
    mean, sd = q.mean[0], q.stddev[0]
    if text == "dirichlet":
        assert torch.allclose(mean, torch.tensor(1 / 3, dtype=FLOAT64))
    elif text == "gamma":
        assert ((mean > 0.6) & (mean < 1.1) & (sd > 0.5) & (sd < 1.1)).all()
    else:
        assert (mean == 0).all() and ((sd > 0.6) & (sd < 1.3)).all()


def test_the_first_posterior_of_the_others():
    q = made("power_spherical")(torch.zeros(1, 4, dtype=FLOAT64))
    assert 0.5 < q.concentration.item() < 1.5
    q = made("categorical(classes=3)")(torch.zeros(1, 6, dtype=FLOAT64))
    assert torch.allclose(q.mean, torch.tensor(1 / 3, dtype=FLOAT64))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("full_rank(floor=0)", "full_rank floor: expected a finite number above 0, got 0"),
        ("low_rank(rank=0)", "low_rank rank: expected a whole number of at least 1, got 0"),
        ("low_rank(floor=-1)", "low_rank floor: expected"),
        ("student_t(df=2)", "student_t df: expected shared, or a number above 2"),
        ("student_t(df=free)", "student_t df: expected shared, or a finite number above 0, got 'free'"),
        ("student_t(floor=0)", "StudentT floor: expected"),
        ("laplace(floor=0)", "Laplace floor: expected"),
        ("mixture(components=0)", "mixture components: expected a whole number of at least 1, got 0"),
        ("mixture(floor=0)", "mixture floor: expected"),
        ("power_spherical(floor=0)", "power_spherical floor: expected"),
        ("categorical(classes=1)", "categorical classes: expected a whole number of at least 2, got 1"),
        ("relaxed_categorical(temperature=0)", "relaxed_categorical temperature: expected a finite number above 0"),
        ("relaxed_categorical(classes=2.5)", "relaxed_categorical classes: expected a whole number"),
        ("gamma(floor=0)", "gamma floor: expected"),
        ("gamma(mean_floor=0)", "gamma mean_floor: expected"),
        ("dirichlet(floor=0)", "dirichlet floor: expected"),
    ],
)
def test_arguments_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        posteriors.make(text)


@pytest.mark.parametrize("text", ["power_spherical", "dirichlet", "categorical", "relaxed_categorical"])
def test_one_dimension_is_too_few(text):
    with pytest.raises(ValueError, match=f"{text}.* at least 2, got 1"):
        posteriors.make(text).build((1,))


@pytest.mark.parametrize("text", ["categorical(classes=4)", "relaxed_categorical(classes=4)"])
def test_classes_that_do_not_divide(text):
    with pytest.raises(ValueError, match="expected latent_dim to be a multiple of classes=4, got 6"):
        posteriors.make(text).build((6,))


# Densities


def check_log_prob(text, expected, tolerance=1e-9):
    """q.log_prob of each row against ``expected(row of numbers, z)``."""
    params = numbers(text)
    q = made(text)(params)
    z = draw(q).detach()
    rows = [expected(p, v) for p, v in zip(params.numpy(), z.numpy(), strict=True)]
    assert q.log_prob(z).tolist() == pytest.approx(rows, rel=tolerance)
    return q


def test_full_rank():
    """Below the diagonal row by row: L_21, L_31, L_32."""

    def covariance(p):
        scale = 1e-4 + softplus(p[3:6])
        unit = np.eye(3)
        unit[1, 0], unit[2, 0], unit[2, 1] = np.arcsinh(p[6:]) / math.sqrt(3)
        lower = np.diag(scale) @ unit
        return lower @ lower.T

    q = check_log_prob("full_rank", lambda p, z: stats.multivariate_normal.logpdf(z, p[:3], covariance(p)))
    expected = np.stack([covariance(p) for p in numbers("full_rank").numpy()])
    assert torch.allclose(q.covariance_matrix, torch.tensor(expected))


def test_low_rank():
    def covariance(p):
        scale, factors = np.diag(1e-4 + softplus(p[3:6])), np.arcsinh(np.stack([p[6:9], p[9:]], -1))
        return scale @ (np.eye(3) + factors @ factors.T) @ scale

    q = check_log_prob("low_rank(rank=2)", lambda p, z: stats.multivariate_normal.logpdf(z, p[:3], covariance(p)))
    expected = np.stack([covariance(p) for p in numbers("low_rank(rank=2)").numpy()])
    assert torch.allclose(q.covariance_matrix, torch.tensor(expected))


def test_student_t():
    def expected(df):
        return lambda p, z: stats.t.logpdf(z, df, p[:3], 1e-4 + softplus(p[3:])).sum()

    check_log_prob("student_t(df=4)", expected(4))
    # The parameter is made in float32.
    q = check_log_prob("student_t", expected(5), tolerance=1e-6)
    assert torch.allclose(q.base_dist.df, torch.tensor(5.0, dtype=FLOAT64), rtol=1e-6)


def test_learned_degrees_of_freedom():
    """One parameter, which has a gradient and stays above 2, where the variance is finite."""
    piece = made("student_t")
    assert [p.shape for p in piece.parameters()] == [()] and not list(made("student_t(df=4)").parameters())
    q = piece(numbers("student_t"))
    (gradient,) = torch.autograd.grad(q.log_prob(q.rsample()).sum(), piece.raw_df)
    assert gradient != 0
    piece.raw_df.data.fill_(-1e3)
    q = piece(numbers("student_t"))
    assert (q.base_dist.df > 2).all() and torch.isfinite(q.stddev).all()


def test_laplace():
    check_log_prob("laplace", lambda p, z: stats.laplace.logpdf(z, p[:3], 1e-4 + softplus(p[3:])).sum())


def test_mixture():
    def expected(p, z):
        weights = np.exp(p[:4]) / np.exp(p[:4]).sum()
        parts = stats.norm.pdf(z, p[4:16].reshape(4, 3), 1e-4 + softplus(p[16:].reshape(4, 3))).prod(-1)
        return np.log(weights @ parts)

    check_log_prob("mixture(components=4)", expected)


def test_gamma():
    def expected(p, z):
        mean, concentration = 1e-4 + softplus(p[:3]), 0.2 + softplus(p[3:])
        return stats.gamma.logpdf(z, concentration, scale=mean / concentration).sum()

    q = check_log_prob("gamma", expected)
    assert torch.allclose(q.mean, 1e-4 + torch.nn.functional.softplus(numbers("gamma")[:, :3]))


def test_dirichlet():
    check_log_prob("dirichlet", lambda p, z: stats.dirichlet.logpdf(z[:-1], 0.2 + softplus(p)))


def test_power_spherical():
    """Up to a constant the density is (1 + mu.z)^kappa, at two points and with mu the direction of the numbers."""
    params = numbers("power_spherical")
    q = made("power_spherical")(params)
    a, b = draw(q), draw(q)
    loc = params[:, :3] / params[:, :3].norm(dim=-1, keepdim=True)
    kappa = 1e-3 + torch.nn.functional.softplus(params[:, 3])
    expected = kappa * (torch.log1p((loc * a).sum(-1)) - torch.log1p((loc * b).sum(-1)))
    assert torch.allclose(q.log_prob(a) - q.log_prob(b), expected)
    assert torch.allclose(q.mode, loc)


def test_categorical():
    def expected(classes):
        def log_prob(p, z):
            blocks = p.reshape(-1, classes)
            return (z.reshape(-1, classes) * (blocks - np.log(np.exp(blocks).sum(-1, keepdims=True)))).sum()

        return log_prob

    q = check_log_prob("categorical(classes=3)", expected(3))
    assert str(q.support) == str(made("categorical(classes=3)").support) == "OneHotBlocks(classes=3)"
    assert q.enumerate_support().shape == (9, 5, 6) and not q.has_rsample
    q = check_log_prob("categorical", expected(6))
    assert str(q.support) == str(made("categorical").support) == "OneHotBlocks(classes=6)"


def test_relaxed_categorical():
    """The Concrete density of k classes in the form of Maddison et al. (2017), Definition 1."""

    def expected(classes, temperature):
        def log_prob(p, z):
            total = 0
            for eta, y in zip(p.reshape(-1, classes), z.reshape(-1, classes), strict=True):
                density = math.factorial(classes - 1) * temperature ** (classes - 1)
                density *= np.prod(np.exp(eta) * y ** (-temperature - 1))
                total += np.log(density / (np.exp(eta) * y**-temperature).sum() ** classes)
            return total

        return log_prob

    check_log_prob("relaxed_categorical(classes=3)", expected(3, 0.5))
    assert str(made("relaxed_categorical(classes=3)").support) == "SimplexBlocks(classes=3)"
    check_log_prob("relaxed_categorical(temperature=0.3)", expected(6, 0.3))


def test_delta_is_a_point():
    """log q is 0 at the point: what is then the KL is -log p(z)."""
    piece = made("delta")
    assert piece.point and not posteriors.make("laplace").point
    params = numbers("delta")
    q = piece(params)
    assert torch.equal(q.rsample(), params) and torch.equal(q.mean, params)
    assert q.log_prob(params).tolist() == [0] * 5
    with pyro.validation_enabled(False):
        assert q.log_prob(params + 1).tolist() == [-math.inf] * 5


# Gradients through draws


def raw_scale(x):
    return 1e-4 + torch.nn.functional.softplus(x)


def full_rank_moment(p, w):
    unit = torch.eye(3, dtype=FLOAT64)
    unit[1, 0], unit[2, 0], unit[2, 1] = torch.asinh(p[6:]) / math.sqrt(3)
    return (w @ p[:3]) ** 2 + (w @ (raw_scale(p[3:6])[:, None] * unit)).square().sum()


def low_rank_moment(p, w):
    weighted = w * raw_scale(p[3:6])
    factors = torch.asinh(torch.stack([p[6:9], p[9:]], -1))
    return (w @ p[:3]) ** 2 + weighted.square().sum() + (weighted @ factors).square().sum()


def independent_moment(variance):
    return lambda p, w: (w @ p[:3]) ** 2 + (w.square() * variance(p)).sum()


def mixture_moment(p, w):
    loc, scale = p[4:16].reshape(4, 3), raw_scale(p[16:].reshape(4, 3))
    return p[:4].softmax(0) @ ((loc @ w) ** 2 + scale.square() @ w.square())


def gamma_moment(p, w):
    mean, concentration = raw_scale(p[:3]), 0.2 + torch.nn.functional.softplus(p[3:])
    return (w @ mean) ** 2 + (w.square() * mean.square() / concentration).sum()


def dirichlet_moment(p, w):
    a = 0.2 + torch.nn.functional.softplus(p)
    total = a.sum()
    return ((w @ a) ** 2 + w.square() @ a) / (total * (total + 1))


# E[(w.z)^2] in closed form, as a function of the numbers.
MOMENTS = {
    "full_rank": full_rank_moment,
    "low_rank(rank=2)": low_rank_moment,
    "student_t(df=9)": independent_moment(lambda p: raw_scale(p[3:]).square() * 9 / 7),
    "laplace": independent_moment(lambda p: 2 * raw_scale(p[3:]).square()),
    "mixture(components=4)": mixture_moment,
    "gamma": gamma_moment,
    "dirichlet": dirichlet_moment,
}


@pytest.mark.parametrize("text", MOMENTS)
def test_draws_carry_the_gradient_of_expectations(text):
    n, w = 20000, torch.tensor([1.0, -0.6, 1.7], dtype=FLOAT64)
    one = numbers(text if text in FAMILIES else "student_t", rows=1)[0]
    piece = made(text, dim=3)
    params = one.expand(n, -1).clone().requires_grad_()
    value = (piece(params).rsample() @ w).square()
    (draws,) = torch.autograd.grad(value.sum(), params)
    leaf = one.clone().requires_grad_()
    exact = MOMENTS[text](leaf, w)
    (truth,) = torch.autograd.grad(exact, leaf)
    assert abs(value.mean() - exact) < 4 * value.std() / math.sqrt(n)
    assert ((draws.mean(0) - truth) / (draws.std(0) / math.sqrt(n)).clamp_min(1e-12)).abs().max() < 4


def test_learned_degrees_of_freedom_by_draws():
    """d E[|z|] / d nu of a t distribution is negative: its tails become lighter."""
    piece = made("student_t")
    z = piece(torch.zeros(20000, 6, dtype=FLOAT64)).rsample()
    (draws,) = torch.autograd.grad(z.abs().mean(), piece.raw_df)

    def mean_abs(df):
        return 2 * math.sqrt(df) * math.gamma((df + 1) / 2) / (math.sqrt(math.pi) * math.gamma(df / 2) * (df - 1))

    scale = 1e-4 + math.log(2)
    by_df = scale * (mean_abs(5.001) - mean_abs(4.999)) / 0.002
    by_raw = by_df * torch.sigmoid(piece.raw_df).item()
    assert draws.item() == pytest.approx(by_raw, rel=0.1)
