import copy
import math
from types import SimpleNamespace

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy import stats
from scipy.special import expit
from torch.distributions import Independent, Normal, kl_divergence

import pyrovae
from pyrovae import VAE, priors
from pyrovae.distributions import inverse_scale
from pyrovae.distributions.gp import GaussianProcess, InducedGaussianProcess
from pyrovae.priors import GP

FLOAT64 = torch.float64
KERNELS = ["rbf", "matern32", "matern52"]
N, D, C = 12, 2, 3


def built(columns=C, d=D, dtype=FLOAT64, rows=None, **arguments):
    """A prior as a VAE builds it, its parameters moved off where they start."""
    piece = GP(**arguments)
    piece.build((d,))
    piece.bind(SimpleNamespace(condition_dim=columns, like=torch.zeros((), dtype=dtype)))
    with torch.no_grad():
        if rows is not None:
            piece.initial(torch.zeros(len(rows), 1), rows)
        if piece.learned:
            piece.raw_lengthscales.copy_(torch.tensor([0.3, 1.5, -0.2])[:columns])
            piece.raw_noise.fill_(-1.3)
    return piece


@pytest.fixture
def c():
    return torch.randn(N, C, dtype=FLOAT64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def z():
    return torch.randn(N, D, dtype=FLOAT64, generator=torch.Generator().manual_seed(2))


def sigma(piece):
    return piece.jitter + (1 - 2 * piece.jitter) * float(expit(piece.raw_noise.item()))


def dense(piece, a, b=None):
    """Covariance of z at rows a, or of the process at rows a with that at rows b, element by element."""
    raw = piece.raw_lengthscales.detach().numpy()
    lengthscales = 1e-3 * piece.lengthscale + np.log1p(np.exp(raw))
    noise, same, b = sigma(piece), b is None, a if b is None else b
    result = np.zeros((len(a), len(b)))
    for n, u in enumerate(a.tolist()):
        for m, v in enumerate(b.tolist()):
            r = math.sqrt(sum(((i - j) / s) ** 2 for i, j, s in zip(u, v, lengthscales, strict=True)))
            result[n, m] = (1 - noise) * {
                "rbf": math.exp(-(r**2) / 2),
                "matern32": (1 + math.sqrt(3) * r) * math.exp(-math.sqrt(3) * r),
                "matern52": (1 + math.sqrt(5) * r + 5 * r**2 / 3) * math.exp(-math.sqrt(5) * r),
            }[piece.kernel]
            result[n, m] += noise * (same and n == m)
    return result


def joint(covariance, z):
    return stats.multivariate_normal(np.zeros(len(covariance)), covariance).logpdf(z.T.numpy()).sum()


# Exact


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_sum_to_the_joint_density(kernel, c, z):
    piece = built(kernel=kernel)
    p = piece(None, None, c)
    assert (p.batch_shape, p.event_shape) == ((N,), (D,)) and piece.joint
    covariance = dense(piece, c)
    assert np.allclose(covariance.diagonal(), 1)
    assert p.log_prob(z).sum().item() == pytest.approx(joint(covariance, z), rel=1e-9)
    # The chain rule: what the first rows have does not hang on those after them.
    for n in (1, 5):
        assert p.log_prob(z)[:n].sum().item() == pytest.approx(joint(covariance[:n, :n], z[:n]), rel=1e-9)


def test_particles_are_independent_copies(c, z):
    piece = built()
    p = piece(None, None, c)
    many = torch.stack([z, 2 * z, -z])
    expected = torch.stack([p.log_prob(value) for value in many])
    for other in (p.expand((3, N)), piece(None, None, c.expand(3, N, C)), piece(None, None, c.repeat(3, 1, 1))):
        assert (other.batch_shape, other.event_shape) == ((3, N), (D,))
        assert torch.allclose(other.log_prob(many), expected)
        assert other.log_prob(z).shape == (3, N)
        assert other.mean.shape == other.variance.shape == (3, N, D)
        draws = other.rsample((400,)).flatten(2)
        between = torch.corrcoef(torch.stack([draws[:, 0].flatten(), draws[:, 1].flatten()]))[0, 1]
        # 400 draws of 24 numbers, of which near rows agree: about 1/sqrt(400) at most.
        assert abs(between) < 4 / 20
    # One factorisation for all particles.
    deep = piece(None, None, c.expand(2, 3, N, C))
    assert deep.scale_tril.shape == (N, N) and deep.log_prob(many).shape == (2, 3, N)
    assert piece(None, None, torch.stack([c, c + 1, 2 * c])).log_prob(z)[2].sum() != expected[0].sum()


def test_draws_have_the_covariance(c):
    piece = built()
    draws = piece(None, None, c).sample((40_000,))
    covariance = torch.tensor(dense(piece, c))
    for d in range(D):
        got = draws[..., d].T @ draws[..., d] / len(draws)
        # Var of a product of normals: C_nn C_mm + C_nm^2.
        error = ((1 + covariance.square()) / len(draws)).sqrt()
        assert ((got - covariance) / error).abs().max() < 4.5
    crossed = draws[..., 0].T @ draws[..., 1] / len(draws) * math.sqrt(len(draws))
    assert crossed.abs().max() < 4.5
    assert torch.allclose(piece(None, None, c).variance, torch.ones(N, D, dtype=FLOAT64))


def test_rows_are_neither_repeated_nor_left_out(c):
    p = built()(None, None, c)
    for shape in ((N + 1,), (3, 1), (N, 2), ()):
        with pytest.raises(ValueError, match=rf"at {N} rows: expected a batch shape that ends in {N}, got"):
            p.expand(shape)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("inducing", [None, 6])
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
def test_near_and_equal_rows_and_a_constant_column(kernel, inducing, dtype):
    """200 rows of which many agree to 1e-6, far from the origin: in float32 as in float64."""
    c = 2000 + torch.arange(200) // 4 * 0.5 + 1e-6 * torch.randn(200)
    c = torch.stack([c, torch.full((200,), 7.0)], -1).to(dtype)
    piece = built(2, kernel=kernel, inducing=inducing, noise=1e-3, dtype=dtype, rows=c)
    with torch.no_grad():
        piece.raw_noise.fill_(math.log(1e-4))
    z = torch.randn(200, D, dtype=dtype)
    p = piece(None, None, c)
    total = p.log_prob(z).sum()
    twin = copy.deepcopy(piece).double()
    assert total.item() == pytest.approx(twin(None, None, c.double()).log_prob(z.double()).sum().item(), rel=1e-4)
    assert p.rsample().dtype == total.dtype == dtype
    total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in piece.parameters())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("inducing", [None, 4])
@pytest.mark.parametrize("value", [-1e3, 1e3])
@pytest.mark.parametrize("training", [True, False])
def test_numbers_stay_finite_at_the_ends(kernel, inducing, value, training, c, z):
    piece = built(kernel=kernel, inducing=inducing, dtype=torch.float32, rows=c.float()).train(training)
    with torch.no_grad():
        for parameter in piece.parameters():
            parameter.fill_(value)
    p = piece(None, None, c.float())
    total = p.log_prob(z.float()).sum() + p.rsample().sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(q.grad).all() for q in piece.parameters() if q.grad is not None)
    assert sigma(piece) >= piece.jitter and (p.variance > 0).all()


def test_what_is_learned_and_what_is_not(c):
    learned = {name for name, _ in built().named_parameters()}
    assert learned == {"raw_lengthscales", "raw_noise"}
    fixed = GP(learned=False, lengthscale=2.0, noise=0.25)
    fixed.build((D,))
    fixed.start(C)
    assert not list(fixed.parameters()) and not fixed.state_dict()
    fixed.double()
    assert fixed.lengthscales.tolist() == [2.0] * C and fixed.noise_value().item() == pytest.approx(0.25, rel=1e-6)
    start = GP(lengthscale=2.0, noise=0.25)
    start.build((D,))
    start.start(C)
    assert start.positive_value("lengthscales").tolist() == pytest.approx([2.0] * C)
    assert start.noise_value().item() == pytest.approx(0.25, rel=1e-6)
    assert torch.allclose(start(None, None, c).scale_tril, fixed(None, None, c).scale_tril, atol=1e-6)


# Sparse


def at_rows(c, **arguments):
    """A sparse prior whose q(u) is of random numbers."""
    piece = built(inducing=5, jitter=1e-9, rows=c, **arguments)
    with torch.no_grad():
        piece.loc.normal_()
        piece.raw_lower.normal_(std=0.3)
        piece.raw_scale.normal_()
    return piece


def whitened(piece):
    """Mean and covariance of q(v) of each dimension, from the raw parameters."""
    lower = np.tril(piece.raw_lower.detach().numpy(), -1)
    diagonal = 1e-3 + np.log1p(np.exp(piece.raw_scale.detach().numpy()))
    factor = lower + diagonal[..., None] * np.eye(lower.shape[-1])
    return piece.loc.detach().numpy(), factor @ factor.transpose(0, 2, 1)


def test_the_bound_at_the_rows_and_the_best_q_is_the_joint_density(c, z):
    """With u = f at all rows and q(u) = p(u | z), the sum of the rows is log p(z), whatever the batches."""
    piece = built(inducing=N, jitter=1e-10, rows=c)
    with torch.no_grad():
        piece.locations.copy_(c)
    covariance, noise = dense(piece, c), sigma(piece)
    kff = covariance - noise * np.eye(N)
    root = np.linalg.cholesky(kff + 1e-10 * (1 - noise) * np.eye(N))
    a = kff @ np.linalg.inv(root).T
    precision = np.eye(N) + a.T @ a / noise
    best, spread = np.linalg.solve(precision, a.T @ z.numpy() / noise), np.linalg.cholesky(np.linalg.inv(precision))
    with torch.no_grad():
        piece.loc.copy_(torch.tensor(best.T))
        piece.raw_lower.copy_(torch.tensor(spread).expand(D, N, N))
        piece.raw_scale.copy_(inverse_scale(torch.tensor(spread).diagonal(), 1e-3))
    value = joint(covariance, z)
    assert spread.diagonal().min() > 1e-3
    assert piece(None, None, c).log_prob(z).sum().item() == pytest.approx(value, abs=1e-6)
    parts = [piece(None, None, c[rows]).log_prob(z[rows]).sum() for rows in (slice(0, 5), slice(5, N))]
    assert sum(parts).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_bound_is_one(kernel, c, z):
    """Below log p(z) for any q(u) and locations, for rows that agree and rows that do not; near it at the best q(u)."""
    torch.manual_seed(0)
    near = c.clone()
    near[1::2] = near[::2] + 1e-3
    for rows in (c, near):
        piece = at_rows(rows, kernel=kernel)
        covariance, noise = dense(piece, rows), sigma(piece)
        for _ in range(20):
            with torch.no_grad():
                piece.locations.normal_()
                piece.loc.normal_(std=0.3)
                piece.raw_lower.normal_(std=0.1)
                piece.raw_scale.normal_(-1, 1)
            for value in (z, torch.zeros_like(z), torch.tensor(np.linalg.cholesky(covariance)) @ z, z.sign()):
                assert piece(None, None, rows).log_prob(value).sum().item() < joint(covariance, value)
        # Titsias's (2009) collapsed bound at these locations is below ours at its best q(u).
        kuu = dense(piece, piece.locations, piece.locations) + 1e-9 * (1 - noise) * np.eye(5)
        kuf = dense(piece, piece.locations, rows)
        a = np.linalg.solve(np.linalg.cholesky(kuu), kuf)
        residual = 1 - noise - (a**2).sum(0)
        collapsed = joint(a.T @ a + noise * np.eye(N), z) - D * residual.sum() / (2 * noise)
        precision = np.eye(5) + a @ a.T / noise
        spread = np.linalg.cholesky(np.linalg.inv(precision))
        with torch.no_grad():
            piece.loc.copy_(torch.tensor(np.linalg.solve(precision, a @ z.numpy() / noise).T))
            piece.raw_lower.copy_(torch.tensor(spread).expand(D, 5, 5))
            piece.raw_scale.copy_(inverse_scale(torch.tensor(spread).diagonal(), 1e-3))
        ours = piece(None, None, rows).log_prob(z).sum().item()
        # Titsias (2025): the trace becomes a sum of logarithms.
        tighter = collapsed + D * (residual.sum() / noise - np.log1p(residual / noise).sum()) / 2
        assert ours == pytest.approx(tighter, abs=1e-6)
        assert collapsed < ours < joint(covariance, z)


def test_a_row_of_the_bound_is_what_it_says(c, z):
    """Its expectation by draws of u: E_q(u) log N(z; A u, s2) - log(1 + k~ / s2) / 2 - KL(q(u) | p(u)) / N."""
    torch.manual_seed(0)
    piece = at_rows(c)
    p = piece(None, None, c[:3])
    noise = sigma(piece)
    kuu = dense(piece, piece.locations, piece.locations) + 1e-9 * (1 - noise) * np.eye(5)
    root = np.linalg.cholesky(kuu)
    a = np.linalg.solve(root, dense(piece, piece.locations, c[:3])).T
    residual = 1 - noise - (a**2).sum(1)
    means, covariances = whitened(piece)
    divergence = sum(
        0.5 * (np.trace(s) + m @ m - 5 - np.linalg.slogdet(s)[1]) for m, s in zip(means, covariances, strict=True)
    )
    rng = np.random.default_rng(0)
    draws = np.stack([rng.multivariate_normal(m, s, 100_000) for m, s in zip(means, covariances, strict=True)], -1)
    logs = stats.norm.logpdf(z[:3].numpy(), np.einsum("nm,kmd->knd", a, draws), math.sqrt(noise)).sum(-1)
    error = logs.std(0) / math.sqrt(len(logs))
    expected = logs.mean(0) - D * 0.5 * np.log1p(residual / noise) - divergence / N
    assert np.abs((p.log_prob(z[:3]).detach().numpy() - expected) / error).max() < 4
    assert torch.equal(piece.rows, torch.tensor(N))


def test_the_marginals_are_those_of_gp_regression(c):
    """Textbook formulae, unwhitened: mean K_nu K_uu^-1 m, covariance k - K_nu K_uu^-1 (K_uu - S) K_uu^-1 K_un + s2."""
    torch.manual_seed(0)
    piece = at_rows(c)
    new = torch.randn(7, C, dtype=FLOAT64)
    noise = sigma(piece)
    kuu = dense(piece, piece.locations, piece.locations) + 1e-9 * (1 - noise) * np.eye(5)
    knu = dense(piece, new, piece.locations)
    root, gain = np.linalg.cholesky(kuu), knu @ np.linalg.inv(kuu)
    means, covariances = whitened(piece)
    loc = np.stack([gain @ root @ m for m in means], -1)
    variance = np.stack(
        [(1 - noise) - np.diag(gain @ (kuu - root @ s @ root.T) @ gain.T) + noise for s in covariances], -1
    )
    z = torch.randn(7, D, dtype=FLOAT64)
    for training in (True, False):
        p = piece.train(training)(None, None, new)
        assert np.allclose(p.mean.detach(), loc) and np.allclose(p.variance.detach(), variance)
        draws = p.sample((20_000,)).numpy()
        assert np.abs((draws.mean(0) - loc) / np.sqrt(variance / 20_000)).max() < 4
        assert np.abs(draws.var(0) / variance - 1).max() < 4 * math.sqrt(2 / 20_000)
    expected = stats.norm.logpdf(z.numpy(), loc, np.sqrt(variance)).sum(-1)
    assert p.log_prob(z).tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_predictions_are_those_of_exact_regression(c, z):
    """With u at all rows and q(u) = p(u | z), a new row's marginal is that of exact GP regression on z."""
    piece = built(inducing=N, jitter=1e-10, rows=c)
    covariance, noise = dense(piece, c), sigma(piece)
    with torch.no_grad():
        piece.locations.copy_(c)
    kff = covariance - noise * np.eye(N)
    root = np.linalg.cholesky(kff + 1e-10 * (1 - noise) * np.eye(N))
    posterior_mean = kff @ np.linalg.solve(covariance, z.numpy())
    posterior = kff - kff @ np.linalg.solve(covariance, kff)
    inverse = np.linalg.inv(root)
    spread = np.linalg.cholesky(inverse @ posterior @ inverse.T)
    with torch.no_grad():
        piece.loc.copy_(torch.tensor((inverse @ posterior_mean).T))
        piece.raw_lower.copy_(torch.tensor(spread).expand(D, N, N))
        piece.raw_scale.copy_(inverse_scale(torch.tensor(spread).diagonal(), 1e-3))
    new = torch.randn(7, C, dtype=FLOAT64)
    cross = dense(piece, new, c)
    p = piece.eval()(None, None, new)
    assert np.allclose(p.mean.detach(), cross @ np.linalg.solve(covariance, z.numpy()), atol=1e-6)
    variance = 1 - np.diag(cross @ np.linalg.solve(covariance, cross.T))
    assert np.allclose(p.variance.detach(), variance[:, None], atol=1e-6)


def test_sparse_starts_at_the_prior(c, z):
    piece = GP(inducing=4)
    piece.build((D,))
    piece.bind(SimpleNamespace(condition_dim=C, like=c))
    p = piece.eval()(None, None, c)
    assert not piece.joint
    assert torch.allclose(p.mean, torch.zeros(N, D, dtype=FLOAT64))
    assert torch.allclose(p.variance, torch.ones(N, D, dtype=FLOAT64), atol=1e-6)
    # Without a count of rows, those of the call stand for all.
    with torch.no_grad():
        piece.loc.fill_(1.0)
    piece.train()
    assert piece(None, None, c).penalty.item() == pytest.approx(0.5 * 4 * D / N, rel=1e-5)
    assert piece(None, None, c.expand(3, N, C)).log_prob(z).shape == (3, N)


def test_inducing_points_are_spread_over_the_rows_once(c):
    piece = built(inducing=4, rows=c)
    chosen = piece.locations.detach().clone()
    assert all((c == row).all(-1).any() for row in chosen)
    assert len(chosen.unique(dim=0)) == 4
    distances = torch.cdist(c, c)
    expected = [(c - c.mean(0)).norm(dim=-1).argmin().item()]
    for _ in range(3):
        expected.append(distances[:, expected].min(-1).values.argmax().item())
    assert torch.equal(chosen, c[expected])
    piece.initial(torch.zeros(3, 1), c[:3] + 1)
    assert torch.equal(piece.locations, chosen) and piece.rows.item() == 3
    assert {"started", "rows"} <= set(piece.state_dict())


# Kullback-Leibler divergences


@pytest.mark.parametrize("inducing", [None, 5])
def test_the_divergence_from_independent_normals(inducing, c, z):
    torch.manual_seed(0)
    piece = built() if inducing is None else at_rows(c)
    q = Independent(Normal(z, 0.5 + torch.rand(N, D, dtype=FLOAT64)), 1)
    for p in (piece(None, None, c), piece(None, None, c).expand((2, N))):
        assert isinstance(p, GaussianProcess if inducing is None else InducedGaussianProcess)
        draws = q.sample((40_000, 1))
        logs = (q.log_prob(draws) - p.log_prob(draws)).detach()[:, 0]
        got = kl_divergence(q, p)
        assert (((logs.mean(0) - got) / (logs.std(0) / 200)).abs() < 4.5).all()
        assert got.shape in ((N,), (2, N))


def test_the_divergence_from_others_is_left_to_draws(c):
    q = Independent(torch.distributions.Laplace(torch.zeros(N, D), 1.0), 1)
    with pytest.raises(NotImplementedError):
        kl_divergence(q, built(dtype=torch.float32)(None, None, c.float()))


# In a VAE


@pytest.mark.parametrize("prior", ["gp", "gp(kernel=matern52, inducing=3)"])
def test_in_a_vae(prior, same, tmp_path):
    x, c = torch.randn(20, 3), torch.rand(20, 2)
    vae = VAE((3,), 2, likelihood="gaussian", prior=prior, condition_dim=2)
    vae.initialize(x, c)
    torch.manual_seed(0)
    mean_field = TraceMeanField_ELBO(num_particles=300, vectorize_particles=True, max_plate_nesting=1)
    trace = Trace_ELBO(num_particles=300, vectorize_particles=True, max_plate_nesting=1)
    assert trace.loss(vae.model, vae.guide, x, c) == pytest.approx(
        mean_field.loss(vae.model, vae.guide, x, c), rel=0.02
    )
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    before = {name: p.detach().clone() for name, p in vae.prior.named_parameters()}
    for _ in range(3):
        svi.step(x, c)
    assert all(not torch.equal(p, before[name]) for name, p in vae.prior.named_parameters())
    assert same(pyrovae.load(pyrovae.save(vae, tmp_path)), vae)
    assert vae.sample(7, c[:7]).shape == (7, 3)
    assert type(vae.prior.piece) is GP is priors.FAMILY["gp"]


def test_training_finds_the_lengthscale():
    """Draws of a process of lengthscale 0.5 and noise 0.05, taken for z: the likeliest is found, from 2 and 0.3."""
    torch.manual_seed(0)
    c = torch.linspace(0, 10, 150, dtype=FLOAT64)[:, None]
    truth = GP(lengthscale=0.5, noise=0.05, learned=False)
    piece = GP(lengthscale=2.0, noise=0.3)
    for prior in (truth, piece):
        prior.build((10,))
        prior.bind(SimpleNamespace(condition_dim=1, like=c))
    z = truth(None, None, c).sample()
    optimizer = torch.optim.Adam(piece.parameters(), lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        (-piece(None, None, c).log_prob(z).mean()).backward()
        optimizer.step()
    assert piece.positive_value("lengthscales").item() == pytest.approx(0.5, rel=0.1)
    assert piece.noise_value().item() == pytest.approx(0.05, rel=0.15)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": "matern12"}, "unknown gp kernel 'matern12': expected one of matern32, matern52, rbf"),
        ({"inducing": 0}, "gp inducing: expected a whole number of at least 1, got 0"),
        ({"lengthscale": 0}, "gp lengthscale: expected a finite number above 0, got 0"),
        ({"jitter": -1}, "gp jitter: expected a finite number above 0, got -1"),
        ({"noise": 1.0}, "gp noise: expected a part of 1 between the jitter and 1 less that, got 1.0"),
        ({"noise": 1e-7}, "gp noise: expected a part of 1 between the jitter and 1 less that, got 1e-07"),
    ],
)
def test_arguments_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        GP(**arguments)


def test_without_a_condition():
    with pytest.raises(ValueError, match=r"gp: expected .*condition.*, got"):
        VAE((3,), 2, likelihood="gaussian", prior="gp")
    with pytest.raises(ValueError, match=r"gp: expected a condition of shape \(B, C\), .* got None"):
        built()(None, None, None)
    with pytest.raises(ValueError, match="gp: expected to be the prior of a VAE before it is used, got no VAE"):
        GP()(None, None, torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"gp: expected a latent vector of shape \(D,\), got \(2, 3\)"):
        GP().build((2, 3))
