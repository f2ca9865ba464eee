import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import softplus

from pyrovae import VAE, likelihoods

FLOAT64 = torch.float64


def built(piece, shape=(3,)):
    piece.build(shape)
    return piece


# Bernoulli


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-100.0, -30.0, -1.0, 0.0, 0.5, 17.0, 100.0])
def test_bernoulli_by_its_logit(logit, value, dtype):
    """log p = x eta - log(1 + exp eta) and its derivative x - sigmoid(eta), to 1e-6, where a probability saturates."""
    logits = torch.full((1,), logit, dtype=dtype, requires_grad=True)
    log_prob = built(likelihoods.Bernoulli(), (1,))(logits).log_prob(torch.tensor([value], dtype=dtype))
    (gradient,) = torch.autograd.grad(log_prob, logits)
    with mpmath.workdps(60):
        eta = mpmath.mpf(logit)
        expected = float(value * eta - mpmath.log1p(mpmath.exp(eta)))
        slope = float(value - 1 / (1 + mpmath.exp(-eta)))
    assert log_prob.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert gradient.item() == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_bernoulli_sums_over_the_event():
    p = built(likelihoods.Bernoulli(), (2, 3))(torch.zeros(5, 4, 6))
    assert (p.batch_shape, p.event_shape) == ((5, 4), (2, 3))
    assert torch.allclose(p.log_prob(torch.ones(5, 4, 2, 3)), torch.tensor(-6 * math.log(2)))
    assert torch.equal(p.mean, torch.full((5, 4, 2, 3), 0.5))


def test_one_number_for_each_element_is_a_view_of_what_the_network_gives():
    """Its gradient is not copied, which it would be in parts."""
    params = torch.arange(24.0).reshape(2, 2, 6).requires_grad_()
    (logits,) = built(likelihoods.Bernoulli(), (2, 3)).split(params)
    assert logits.shape == (2, 2, 2, 3) and logits.data_ptr() == params.data_ptr()
    slope = torch.ones_like(logits)
    (gradient,) = torch.autograd.grad(logits, params, slope)
    assert gradient.data_ptr() == slope.data_ptr()


def test_bernoulli_relaxed_warns_and_gives_the_cross_entropy():
    with pytest.warns(UserWarning, match="relaxed Bernoulli is no density"):
        piece = built(likelihoods.Bernoulli(relaxed=True), (1,))
    x, logits = torch.tensor([0.3]), torch.tensor([0.7])
    expected = 0.3 * 0.7 - math.log1p(math.exp(0.7))
    assert piece(logits).log_prob(x).item() == pytest.approx(expected, rel=1e-6)
    assert built(likelihoods.Bernoulli(), (1,)).support.check(x).item() is False


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli"])
def test_binary_and_grey_likelihoods_start_at_the_data_mean(tiny, name):
    x = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    vae = tiny(likelihood=name)
    vae.initialize(x)
    logit = math.log(0.999 / 0.001)
    assert vae.likelihood.head.bias.tolist() == pytest.approx([-logit, logit, math.log(3)], rel=1e-4)


def test_continuous_bernoulli_is_the_librarys_own():
    from pyrovae.distributions import ContinuousBernoulli

    p = built(likelihoods.ContinuousBernoulli())(torch.full((4, 3), 100.0))
    assert isinstance(p.base_dist, ContinuousBernoulli)
    assert torch.allclose(p.log_prob(torch.ones(4, 3)), torch.tensor(3 * math.log(100)))


# Gaussian

X = torch.randn(5, 3, dtype=FLOAT64, generator=torch.Generator().manual_seed(0))
LOC = torch.randn(5, 3, dtype=FLOAT64, generator=torch.Generator().manual_seed(1))
RAW = torch.linspace(-40, 40, 15, dtype=FLOAT64).reshape(5, 3)


def logpdf(scale):
    return stats.norm.logpdf(X.numpy(), LOC.numpy(), np.asarray(scale)).sum(-1).tolist()


def test_gaussian_of_a_fixed_scale():
    piece = built(likelihoods.Gaussian(scale=0.3))
    assert not list(piece.parameters())
    assert piece(LOC).log_prob(X).tolist() == pytest.approx(logpdf(0.3), rel=1e-12)


def test_gaussian_of_a_tiny_fixed_scale_has_no_floor():
    piece = built(likelihoods.Gaussian(scale=1e-6))
    assert piece(LOC).base_dist.scale.unique().tolist() == [1e-6]


def test_gaussian_of_a_shared_scale():
    piece = built(likelihoods.Gaussian()).double()
    assert piece.raw_scale.shape == ()
    with torch.no_grad():
        piece.raw_scale.fill_(-0.7)
    expected = 1e-3 + math.log1p(math.exp(-0.7))
    assert piece(LOC).log_prob(X).tolist() == pytest.approx(logpdf(expected), rel=1e-12)


def test_gaussian_of_a_scale_per_dimension():
    piece = built(likelihoods.Gaussian(scale="per_dimension", floor=0.1)).double()
    assert piece.raw_scale.shape == (3,)
    raw = torch.tensor([-2.0, 0.0, 3.0], dtype=FLOAT64)
    with torch.no_grad():
        piece.raw_scale.copy_(raw)
    assert piece(LOC).log_prob(X).tolist() == pytest.approx(logpdf(0.1 + np.log1p(np.exp(raw.numpy()))), rel=1e-12)


def test_gaussian_of_a_scale_by_network():
    piece = likelihoods.Gaussian(scale="network", floor=0.05)
    assert piece.build((3,)) == 6 and not list(piece.parameters())
    params = torch.cat([LOC, RAW], -1)
    expected = logpdf(0.05 + np.logaddexp(0, RAW.numpy()))
    assert piece(params).log_prob(X).tolist() == pytest.approx(expected, rel=1e-12)
    piece.build((1, 3))
    p = piece(params[None])
    assert (p.batch_shape, p.event_shape) == ((1, 5), (1, 3))
    assert p.log_prob(X[:, None]).flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "network"])
@pytest.mark.parametrize("floor", [1e-3, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
def test_no_scale_falls_below_the_floor(scale, floor, dtype):
    piece = built(likelihoods.Gaussian(scale=scale, floor=floor)).to(dtype)
    with torch.no_grad():
        for p in piece.parameters():
            p.fill_(-1e6)
    params = torch.full((2, 6 if scale == "network" else 3), -1e6, dtype=dtype)
    assert torch.allclose(piece(params).base_dist.scale, torch.tensor(floor, dtype=dtype), rtol=1e-6)
    loc = params[..., :3]
    top = -3 * (math.log(floor) + 0.5 * math.log(2 * math.pi))
    assert piece(params).log_prob(loc).tolist() == pytest.approx([top, top], rel=1e-6)


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "network"])
def test_learned_scales_start_at_one(scale):
    piece = built(likelihoods.Gaussian(scale=scale))
    assert all(softplus(p).add(1e-3).sub(1).abs().max() < 1e-6 for p in piece.parameters())
    assert len(list(piece.parameters())) == (scale != "network")


def test_the_optimal_shared_variance_is_the_mean_squared_error():
    """s2* = MSE, and the negative log-likelihood there is D/2 (ln 2 pi s2* + 1) a row: both by value and by slope."""
    piece = built(likelihoods.Gaussian()).double()
    mse = (X - LOC).square().mean().item()

    def nll(variance):
        with torch.no_grad():
            piece.raw_scale.copy_(torch.log(torch.expm1(torch.tensor(variance, dtype=FLOAT64).sqrt() - piece.floor)))
        return -piece(LOC).log_prob(X).mean()

    best = nll(mse)
    assert best.item() == pytest.approx(1.5 * (math.log(2 * math.pi * mse) + 1), rel=1e-12)
    (slope,) = torch.autograd.grad(best, piece.raw_scale)
    assert abs(slope.item()) < 1e-12
    assert nll(mse * 1.01) > best and nll(mse * 0.99) > best


DATA = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1.0, 5.0]) + 3


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "network"])
def test_the_first_output_is_the_normal_of_the_data(scale):
    """With weights of 0 the first model is the maximum-likelihood normal: 1/2 (ln 2 pi s2 + 1) for each element."""
    vae = VAE((2, 3), 2, likelihood=likelihoods.Gaussian(scale=scale, floor=1e-4))
    vae.initialize(DATA)
    with torch.no_grad():
        vae.likelihood.head.weight.zero_()
    p = vae.decode(torch.zeros(50, 2))
    assert torch.allclose(p.mean[0], DATA.mean(0), rtol=1e-5)
    variance = DATA.var(0, correction=0)
    variance = variance.mean().expand(2, 3) if scale == "shared" else variance
    expected = 0.5 * ((2 * math.pi * variance).log() + 1).sum()
    assert -p.log_prob(DATA).mean().item() == pytest.approx(expected.item(), rel=1e-4)


def test_initialize_leaves_a_trained_head_alone():
    vae = VAE((2, 3), 2, likelihood=likelihoods.Gaussian())
    with torch.no_grad():
        vae.likelihood.head.bias[0] = 0.5
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    vae.initialize(DATA)
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())


def test_initialize_moves_the_likelihood_only():
    vae = VAE((2, 3), 2, likelihood=likelihoods.Gaussian())
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    vae.initialize(DATA)
    moved = {key for key, value in vae.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"likelihood.head.bias", "likelihood.piece.raw_scale"}


def test_initialize_of_feature_maps_is_by_channel():
    x = torch.randn(9, 2, 4, 4) + torch.tensor([1.0, -2.0])[:, None, None]
    vae = VAE((2, 4, 4), 2, likelihood="gaussian(scale=network)", decoder="conv(channels=[3, 3])")
    vae.initialize(x)
    bias = vae.likelihood.head.bias
    assert torch.allclose(bias[:2], x.mean((0, 2, 3)), rtol=1e-5)
    raw = torch.log(torch.expm1(x.std(0, correction=0) - 1e-3)).mean((1, 2))
    assert torch.allclose(bias[2:], raw, rtol=1e-4)


def test_a_constant_column_or_a_single_row_starts_at_the_floor():
    vae = VAE((2,), 1, likelihood="gaussian(scale=per_dimension, floor=0.01)")
    vae.initialize(torch.tensor([[1.0, 2.0]]))
    scale = vae.decode(torch.zeros(1, 1)).base_dist.scale
    assert torch.isfinite(vae.likelihood.piece.raw_scale).all()
    assert ((scale >= 0.01) & (scale < 0.0101)).all()


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, "diagonal", ""])
def test_scales_that_are_none(scale):
    with pytest.raises(ValueError, match="scale: expected shared, per_dimension, network, or a finite number above 0"):
        likelihoods.Gaussian(scale=scale)


@pytest.mark.parametrize("floor", [0, -1e-3, math.nan])
def test_floors_that_are_none(floor):
    with pytest.raises(ValueError, match="floor: expected a finite number above 0"):
        likelihoods.Gaussian(floor=floor)
