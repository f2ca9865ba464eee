import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from scipy import stats
from torch.distributions import MultivariateNormal

from pyrovae import VAE, posteriors

NUMBERS = ["planar", "sylvester", "sylvester(rotation=triangular)", "householder"]
NETWORKS = ["iaf", "maf", "nsf", "coupling"]
KINDS = NUMBERS + NETWORKS
FLOAT64 = torch.float64


def make(kind, size, seed=0, noise=0.1):
    """A posterior in float64 and what it needs for one row, away from where it starts."""
    torch.manual_seed(seed)
    piece = posteriors.make(kind)
    count = piece.build((size,))
    piece.double()
    with torch.no_grad():
        for parameter in piece.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return piece, 1.5 * torch.randn(count, dtype=FLOAT64)


def grid(q, points):
    """A grid that holds all but nothing of q, and the volume of its cells."""
    z = q.sample((5000,))
    low, high = z.min(0).values, z.max(0).values
    ends = torch.stack([low - 0.5 * (high - low), high + 0.5 * (high - low)])
    axes = [torch.linspace(*end.tolist(), points, dtype=FLOAT64) for end in ends.T]
    volume = math.prod((axis[1] - axis[0]).item() for axis in axes)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)), volume


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_integrates_to_one_and_is_no_normal(kind):
    piece, params = make(kind, 2, seed=1)
    q = piece(params)
    values, volume = grid(q, 161)
    with torch.no_grad():
        log_prob = q.log_prob(values)
    assert (log_prob.exp().sum() * volume).item() == pytest.approx(1, abs=2e-2)
    start = posteriors.Normal()
    start.build((2,))
    other = (start(params[:4]).log_prob(values).exp() - log_prob.exp()).abs().sum() * volume
    assert other > 0.1  # total variation, twice


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "coupling"])
def test_draws_follow_the_density_in_one_dimension(kind):
    piece, params = make(kind, 1, seed=3)
    q = piece(params)
    values, volume = grid(q, 4001)
    with torch.no_grad():
        density = q.log_prob(values).exp().numpy()
    cdf = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * volume)])
    assert cdf[-1] == pytest.approx(1, abs=1e-4)
    draws = q.sample((5000,)).squeeze(-1).numpy()
    test = stats.kstest(draws, lambda z: np.interp(z, values.squeeze(-1).numpy(), cdf))
    assert test.pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_draw_has_the_density_that_any_value_there_has(kind, size):
    """Against the change of variables by autograd."""
    if kind == "coupling" and size == 1:
        return
    piece, params = make(kind, size)
    q = piece(params.expand(3, -1))
    z = q.rsample()
    kept = q.log_prob(z)
    assert torch.allclose(q.log_prob(z.clone()), kept, atol=1e-7)
    transform = q.transforms[0]
    start = transform.inv(z.detach())
    jacobian = torch.autograd.functional.jacobian(lambda e: transform(e).sum(0), start).movedim(1, 0)
    expected = q.base_dist.log_prob(start) - torch.linalg.slogdet(jacobian)[1]
    assert torch.allclose(kept, expected, atol=1e-7)


@pytest.mark.parametrize(
    "kind", ["planar(transforms=2)", "sylvester(transforms=1, reflections=1)", "householder(transforms=2)", *NETWORKS]
)
def test_derivatives(kind):
    """Of the density by value and numbers against differences; of a draw's, whichever way it is found."""
    piece, params = make(kind, 2)
    value = piece(params).sample() + 0.1

    def log_prob(params, value):
        return piece(params).log_prob(value)

    assert torch.autograd.gradcheck(log_prob, [params.requires_grad_(), value.requires_grad_()], atol=1e-4)
    parameters = [params, *piece.parameters()]
    torch.manual_seed(1)
    q = piece(params)
    z = q.rsample()
    kept, foreign = (
        torch.autograd.grad(q.log_prob(value), parameters, retain_graph=True, allow_unused=True)
        for value in (z, z.clone())
    )
    for a, b in zip(kept, foreign, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_starts_near_the_normal_posterior(kind):
    torch.manual_seed(0)
    piece, normal = posteriors.make(kind), posteriors.Normal()
    for size in (2, 16):
        params = 0.3 * torch.randn(200, piece.build((size,)))  # as a head gives
        normal.build((size,))
        q, start = piece(params), normal(params[:, : 2 * size])
        z = start.sample()
        assert (start.log_prob(z) - q.log_prob(z)).mean().abs() < 0.02 * size
        zeros = piece(torch.zeros_like(params))
        if kind in NUMBERS:
            assert torch.allclose(zeros.log_prob(z), normal(torch.zeros(200, 2 * size)).log_prob(z), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 6])
def test_extreme_numbers_stay_finite(kind, size, dtype):
    piece = posteriors.make(kind)
    count = piece.build((size,))
    piece.to(dtype)
    generator = torch.Generator().manual_seed(0)
    signs = (torch.rand(20, count, generator=generator) < 0.5) * 2.0 - 1
    rows = torch.cat([signs, torch.ones(1, count), -torch.ones(1, count)])
    for scale in (0.0, 1.0, 30.0, 1e3):
        params = (scale * rows).to(dtype).requires_grad_()
        q = piece(params)
        z = q.rsample((3,))
        assert z.dtype == dtype and torch.isfinite(z).all()
        loss = (q.log_prob(z) + z.square().mean(-1)).mean()
        gradients = torch.autograd.grad(loss, [params, *piece.parameters()], allow_unused=True)
        assert torch.isfinite(loss)
        assert all(torch.isfinite(g).all() for g in gradients if g is not None)
        assert torch.isfinite(q.log_prob(torch.zeros(size, dtype=dtype))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_particles(kind):
    """A row's density depends on its own numbers only; particles are folded in on the left."""
    piece, _ = make(kind, 3)
    params = torch.randn(5, piece.build((3,)), dtype=FLOAT64)
    piece.double()
    q, z = piece(params), torch.randn(5, 3, dtype=FLOAT64)
    for row in range(5):
        assert torch.allclose(piece(params[row]).log_prob(z[row]), q.log_prob(z)[row], atol=1e-9)
    assert len(set(q.log_prob(z[0]).tolist())) == 5
    wide = q.expand((4, 5))
    draws = wide.rsample((2,))
    assert draws.shape == (2, 4, 5, 3) and wide.log_prob(draws).shape == (2, 4, 5)
    assert torch.allclose(q.log_prob(draws), wide.log_prob(draws), atol=1e-8)
    assert torch.allclose(piece(params.expand(4, 5, -1)).log_prob(draws), wide.log_prob(draws), atol=1e-8)


def test_counts_of_numbers():
    size, t, h = 5, 3, 2
    for kind, extra in {
        f"planar(transforms={t})": t * (2 * size + 1),
        f"householder(transforms={t})": t * size,
        f"sylvester(transforms={t}, reflections={h})": t * (size**2 + 2 * size + h * size),
        f"sylvester(transforms={t}, rotation=triangular)": t * (size**2 + 2 * size),
        "iaf(context=7)": 7,
        "nsf(context=7, bins=4, hidden=[8])": 7,
    }.items():
        assert posteriors.make(kind).build((size,)) == 2 * size + extra


def test_householder_is_a_normal_with_a_full_covariance():
    piece, params = make("householder(transforms=3)", 4)
    q = piece(params)
    loc, raw, vectors = params[:4], params[4:8], 1 + 0.1 * params[8:].reshape(3, 4)
    rotation = torch.eye(4, dtype=FLOAT64)
    for v in vectors:
        rotation = (torch.eye(4, dtype=FLOAT64) - 2 * torch.outer(v, v) / v.dot(v)) @ rotation
    scale = 1e-4 + torch.nn.functional.softplus(raw)
    normal = MultivariateNormal(rotation @ loc, rotation @ scale.square().diag() @ rotation.T)
    z = torch.randn(20, 4, dtype=FLOAT64)
    assert torch.allclose(q.log_prob(z), normal.log_prob(z), atol=1e-8)


@pytest.mark.parametrize("rotation", ["householder", "triangular"])
def test_sylvester_by_matrices(rotation):
    """z + Q R tanh(S Q'z + b), the whole of it written out."""
    size, t = 3, 2
    piece, params = make(f"sylvester(transforms={t}, reflections=2, rotation={rotation})", size)
    z0 = torch.randn(size, dtype=FLOAT64)
    z = z0.numpy()
    for i, step in enumerate(params[2 * size :].reshape(t, -1, size).numpy()):
        matrix, (diagonal, b), vectors = step[:size], step[size : size + 2], 1 + step[size + 2 :]
        r = 0.1 * np.triu(matrix, 1) + 0.999 * np.diag(np.tanh(0.1 * np.diag(matrix)))
        s = np.triu(matrix.T, 1) + 0.999 * np.diag(np.tanh(diagonal))
        q = np.eye(size)[::-1] if i % 2 and rotation == "triangular" else np.eye(size)
        for v in vectors:
            q = (np.eye(size) - 2 * np.outer(v, v) / v.dot(v)) @ q
        z = z + q @ r @ np.tanh(s @ q.T @ z + b)
    assert piece(params).transforms[0](z0).tolist() == pytest.approx(z.tolist(), rel=1e-10)


@pytest.mark.parametrize("kind", ["iaf", "maf", "nsf", "coupling"])
def test_what_costs_one_pass(kind):
    """Of the networks: a draw and its density, or the density of any value."""
    piece, params = make(kind, 5)
    passes = []
    for step in piece.network.transforms:
        step.hyper.register_forward_hook(lambda *_: passes.append(1))
    q = piece(params)
    z = q.rsample()
    q.log_prob(z)
    draw, _ = len(passes), passes.clear()
    q.log_prob(z.clone())
    steps = len(piece.network.transforms)
    assert (draw == steps) == (kind != "maf")
    # zuko's determinant of an inverse takes a pass of its own.
    assert len(passes) == {"maf": 1, "coupling": 2}.get(kind, 6) * steps


def test_the_mean_and_scale_move_a_network_flow():
    piece, params = make("nsf", 2)
    shape = piece(params)
    moved = params.clone()
    moved[:2] += 10
    torch.manual_seed(0)
    a = shape.rsample()
    torch.manual_seed(0)
    assert torch.allclose(piece(moved).rsample(), a + 10)


def test_mistakes():
    with pytest.raises(ValueError, match="splits z in two: expected 2 or more latent dimensions, got 1"):
        VAE((3,), 1, likelihood="gaussian", posterior="coupling")
    with pytest.raises(ValueError, match="planar transforms: expected a whole number of at least 1, got 0"):
        posteriors.Planar(transforms=0)
    with pytest.raises(ValueError, match="unknown sylvester rotation 'orthogonal'"):
        posteriors.Sylvester(rotation="orthogonal")
    with pytest.raises(ValueError, match="hidden: expected one or more positive widths"):
        posteriors.IAF(hidden=()).build((2,))
    with pytest.raises(ValueError, match="nsf bins: expected a whole number of at least 2, got 1"):
        posteriors.NSF(bins=1)


@pytest.mark.parametrize("kind", KINDS)
def test_bends_to_what_a_normal_cannot_be(kind):
    """A target with correlation 0.9, from which independent normals stay log(1 / sqrt(1 - 0.81)) = 0.83 nats away."""
    target = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    torch.manual_seed(0)
    piece = posteriors.make(kind)
    params = (0.3 * torch.randn(piece.build((2,)))).requires_grad_()
    optimizer = torch.optim.Adam([{"params": [params], "lr": 0.08}, {"params": piece.parameters(), "lr": 0.02}])
    divergences = []
    for _ in range(70):
        q = piece(params)
        z = q.rsample((64,))
        divergences.append((q.log_prob(z) - target.log_prob(z)).mean())
        optimizer.zero_grad()
        divergences[-1].backward()
        optimizer.step()
    assert sum(divergences[-20:]).item() / 20 < 0.4


# In a VAE


@pytest.mark.parametrize("prior", ["normal", "gamma"])
@pytest.mark.parametrize("kind", KINDS)
def test_in_a_vae(kind, prior, tiny):
    """Also carried to positive numbers, and with many particles."""
    vae = tiny(posterior=kind, prior=prior)
    x = torch.randn(6, 3)
    for elbo in (Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=1), TraceMeanField_ELBO()):
        assert math.isfinite(SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), elbo).step(x))
    assert vae.reconstruct(x).shape == x.shape
    assert vae.prior.piece.support.check(vae.encode(x).sample()).all()
