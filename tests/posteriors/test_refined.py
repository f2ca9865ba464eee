import copy
import json

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import MultivariateNormal, kl_divergence

import pyrovae
from pyrovae import VAE, posteriors, registry

FLOAT64 = torch.float64


def refine(vae, **arguments):
    """The same VAE, its posterior refined."""
    vae = copy.deepcopy(vae)
    piece = posteriors.Refined(**arguments)
    piece.build((vae.latent_dim,))
    piece.bind(vae)
    vae.posterior.piece = piece
    return vae


def gap(case, vae):
    """KL(q || p(z | x)) of each row, exactly: the ELBO's distance from log p(x)."""
    mean, covariance = case.truth.posterior(case.rows)
    with torch.no_grad():
        q = vae.encode(case.x).base_dist
    normal = MultivariateNormal(q.loc, torch.diag_embed(q.scale.square()))
    return kl_divergence(normal, MultivariateNormal(mean, covariance))


@pytest.mark.parametrize(("shift", "stretch", "scale"), [(0.3, 1.5, 0.5), (1.0, 3.0, 0.5), (0.3, 1.5, 0.1), (0, 2, 1)])
def test_approaches_the_exact_posterior(linear, shift, stretch, scale):
    case = linear(shift=shift, stretch=stretch, scale=scale)
    before, after, more = (
        gap(case, vae) for vae in (case.vae, refine(case.vae), refine(case.vae, steps=30, num_particles=64))
    )
    assert after.mean() < 0.5 * before.mean() and (after < before).float().mean() > 0.9
    assert more.mean() < 0.35 * after.mean() + 0.02


def test_the_exact_posterior_stays(linear):
    case = linear(n=50)
    assert gap(case, case.vae).max() < 1e-9
    assert gap(case, refine(case.vae)).mean() < 0.15
    assert gap(case, refine(case.vae, num_particles=64)).mean() < 0.02


def test_one_step_is_a_gradient_step_of_one_of_the_lengths(linear):
    """With very many particles, the slope is that of the ELBO in closed form."""
    case = linear(n=5, shift=0.3, stretch=1.5)
    vae = refine(case.vae, steps=1, num_particles=20000, lr=0.1)
    params = vae.posterior.params(case.x).detach().requires_grad_()
    q = case.vae.posterior.distribution(params)
    mean, covariance = case.truth.posterior(case.rows)
    normal = MultivariateNormal(q.base_dist.loc, torch.diag_embed(q.base_dist.scale.square()))
    (slope,) = torch.autograd.grad(-kl_divergence(normal, MultivariateNormal(mean, covariance)).sum(), params)
    step = (vae.posterior.piece.refine(params, case.x) - params).detach()
    lengths = (step * slope).sum(-1) / slope.square().sum(-1)
    for length, row in zip(lengths, step / lengths[:, None] - slope, strict=True):
        assert min(abs(length / (0.1 * 0.1**i) - 1) for i in range(4)) < 0.05
        assert row.abs().max() < 0.05 * slope.abs().max()


def test_steps_that_overshoot_are_not_taken(linear):
    case = linear(shift=0.3, scale=0.1)
    assert (gap(case, refine(case.vae, lr=1e9, steps=1)) - gap(case, case.vae)).abs().max() < 1e-9


def test_rows_do_not_see_one_another(linear):
    case = linear(n=6, shift=0.3)
    vae = refine(case.vae)
    other = case.x.clone()
    other[1:] = 100 * torch.randn_like(other[1:])
    a, b = (vae.encode(x).base_dist for x in (case.x, other))
    assert torch.allclose(a.loc[0], b.loc[0]) and torch.allclose(a.scale[0], b.scale[0])
    assert not torch.allclose(a.loc[1:], b.loc[1:])


def test_is_a_function_of_x_and_leaves_random_numbers_and_gradients_alone(linear):
    vae = refine(linear(n=6, shift=0.3).vae)
    x = torch.randn(6, 6, dtype=FLOAT64)
    state = torch.get_rng_state()
    first = vae.encode(x)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    with torch.no_grad():
        second = vae.encode(x)
    assert torch.equal(first.mean, second.mean) and first.mean.requires_grad and not second.mean.requires_grad
    assert all(p.grad is None for p in vae.parameters())
    with torch.no_grad():
        assert vae.posterior(x.expand(3, 6, 6)).batch_shape == (3, 6)


def test_training_goes_through_the_steps(linear):
    """The derivative of a loss of the refined numbers, by decoder and encoder, against differences."""
    case = linear(n=4, shift=0.3)
    vae = refine(case.vae, steps=2, num_particles=2)

    def loss():
        return vae.encode(case.x).mean.square().sum()

    for parameter in (vae.likelihood.head.weight, vae.posterior.head.weight):
        (slope,) = torch.autograd.grad(loss(), parameter)
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-6 * direction)
                values.append(loss().item())
                parameter.sub_(sign * 1e-6 * direction)
        assert (slope * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)
        assert slope.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("normal", {}),
        ("normal", {"prior": "gamma"}),
        ("normal", {"prior": "flow(hidden=[8])"}),
        ("normal", {"condition_dim": 2}),
        ("normal", {"likelihood": "bernoulli"}),
        ("iaf(hidden=[8], transforms=1)", {}),
        ("planar(transforms=2)", {"prior": "gamma"}),
        ("mixture", {}),
        ("delta", {}),
    ],
)
def test_in_a_vae(base, options, dtype, tiny, same, tmp_path):
    vae = tiny(posterior=posteriors.Refined(base, steps=2, num_particles=2), **options).to(dtype)
    x = torch.rand(5, 3, dtype=dtype).round() if "likelihood" in options else torch.randn(5, 3, dtype=dtype)
    data = (x, torch.randn(5, 2, dtype=dtype) if options.get("condition_dim") else None)
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    elbo = Trace_ELBO(2, vectorize_particles=True, max_plate_nesting=1)
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), elbo).step(*data)
    for name, p in vae.named_parameters():
        assert torch.isfinite(p).all() and not torch.equal(p, before[name]), name
    with torch.no_grad():
        moved = (vae.posterior.params(*data) - vae.posterior.piece.refine(vae.posterior.params(*data), *data)).abs()
    assert (moved.max(-1).values > 0).float().mean() > 0.3
    assert vae.posterior.piece.point == (base == "delta")
    assert vae.reconstruct(*data).dtype == dtype
    loaded, twin = pyrovae.load(pyrovae.save(vae, tmp_path)), copy.deepcopy(vae)
    for other in (loaded, twin):
        assert same(other, vae)
        assert torch.equal(other.reconstruct(*data), vae.reconstruct(*data))
    with torch.no_grad():
        twin.likelihood.head.weight.mul_(2.0)  # a copy refines by its own decoder
    assert not torch.equal(twin.encode(*data).sample(), vae.encode(*data).sample())


def test_its_configuration_is_json():
    piece = posteriors.make("refined(base='normal(floor=0.1)', steps=3, lr=0.5, num_particles=2)")
    assert piece.piece.floor == 0.1
    saved = json.loads(json.dumps(registry.config(piece, posteriors.FAMILY)))
    assert posteriors.make(saved).piece.floor == 0.1
    assert posteriors.Refined({"name": "normal", "floor": 0.2}).piece.floor == 0.2


def test_mistakes(tiny):
    with pytest.raises(ValueError, match="refined base: expected a name such as 'normal', got a Normal"):
        posteriors.Refined(posteriors.Normal())
    with pytest.raises(ValueError, match="expected a posterior of the encoder alone"):
        tiny(posterior="refined(base=refined)")
    for name in ("categorical", "gamma"):
        with pytest.raises(ValueError, match=f"expected a posterior whose draws have second derivatives, got '{name}'"):
            tiny(posterior=f"refined(base={name})", prior=name)
    with pytest.raises(ValueError, match="refined steps: expected a whole number of at least 1"):
        posteriors.Refined(steps=0)
    piece = posteriors.Refined()
    with pytest.raises(ValueError, match="expected to be the posterior of a VAE"):
        piece(torch.zeros(1, piece.build((2,))), torch.zeros(1, 3))


def test_positive_data_do_not_stop_the_vae_from_learning_shapes():
    """The zeros that it looks with are outside the likelihood's support."""
    vae = VAE((3,), 2, likelihood="gamma", posterior="refined(steps=1)")
    assert vae.encode(torch.rand(5, 3) + 0.1).batch_shape == (5,)
