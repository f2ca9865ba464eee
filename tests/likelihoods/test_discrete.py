"""Classes, counts and rows of counts: their numbers, where they start, exposures and the edges."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from pyrovae import VAE, checks, likelihoods
from pyrovae.distributions import expectation, to_scale
from pyrovae.likelihoods.counts import bounded

DTYPES = [torch.float32, torch.float64]
COUNTS = [
    likelihoods.Poisson,
    likelihoods.NegativeBinomial,
    likelihoods.ZeroInflatedPoisson,
    likelihoods.ZeroInflatedNegativeBinomial,
]
NEGATIVE_BINOMIALS = [likelihoods.NegativeBinomial, likelihoods.ZeroInflatedNegativeBinomial]
COMPOSITIONS = [likelihoods.Multinomial, likelihoods.DirichletMultinomial]
PIECES = [
    *COUNTS,
    lambda: likelihoods.NegativeBinomial("shared"),
    lambda: likelihoods.NegativeBinomial("network"),
    lambda: likelihoods.ZeroInflatedNegativeBinomial("network"),
    *COMPOSITIONS,
    lambda: likelihoods.Categorical(5),
    lambda: likelihoods.Ordinal(5),
]


def built(piece, shape=(3,), dtype=torch.float64):
    piece.build(shape)
    return piece.to(dtype)


def start(piece, x, condition=None):
    """The distribution that the piece starts with on rows x."""
    built(piece, x.shape[1:], x.dtype)
    if condition is None:
        return piece(piece.initial(x))
    return piece(piece.initial(x, condition), None, condition)


def counts(n=4000, seed=0, theta=2.0):
    rng = np.random.default_rng(seed)
    mean = np.array([0.3, 4.0, 150.0])
    x = rng.negative_binomial(theta, theta / (theta + mean), size=(n, 3))
    return torch.tensor(x, dtype=torch.float64)


# All of them


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", PIECES)
def test_finite_at_the_edge(make, dtype):
    """Numbers of +-1000 and counts of a million: log p, its slopes, moments and draws."""
    torch.manual_seed(0)
    piece = make()
    n = piece.build((3,))
    piece.to(dtype)
    largest = piece.classes - 1 if hasattr(piece, "classes") else 1e6
    params = torch.cat([torch.full((1, n), v) for v in (-1e3, -30.0, 0.0, 30.0, 1e3)] + [1e3 * torch.randn(20, n)])
    params = params.to(dtype).requires_grad_()
    for x in ([0.0, 0.0, 0.0], [0.0, 1.0, largest], [largest, largest, largest]):
        p = piece(params)
        log_prob = p.log_prob(torch.tensor(x, dtype=dtype))
        assert log_prob.dtype == dtype and log_prob.shape == (25,) and log_prob.isfinite().all()
        assert (log_prob < 1e-6).all()
        slopes = torch.autograd.grad(log_prob.sum(), [params, *piece.parameters()])
        assert all(slope.isfinite().all() for slope in slopes)
    assert expectation(p).isfinite().all()
    if not isinstance(piece, likelihoods.Categorical):
        assert p.mean.isfinite().all() and p.variance.isfinite().all() and (p.variance >= 0).all()
    draws = p.sample((10,))
    assert draws.dtype == dtype and draws.shape == (10, 25, 3) and piece.support.check(draws).all()


@pytest.mark.parametrize("make", COUNTS)
def test_a_count_far_above_a_tiny_mean_still_pulls(make):
    piece = built(make(), (1,), torch.float32)
    params = torch.full((piece.build((1,)),), -1e3, requires_grad=True)
    (slope,) = torch.autograd.grad(piece(params).log_prob(torch.tensor([50.0])), params)
    assert slope[0] > 1e-4


@pytest.mark.parametrize("make", PIECES)
def test_particles_and_events_of_any_shape(make):
    piece = make()
    shape = (3,) if type(piece) in COMPOSITIONS else (2, 3)
    params = torch.randn(4, 5, piece.build(shape))
    p = piece(params)
    assert (p.batch_shape, p.event_shape) == ((4, 5), shape)
    x = p.sample()
    expanded = piece(params[:, :1]).expand((4, 5)).log_prob(x)
    assert torch.allclose(expanded[:, 0], p.log_prob(x)[:, 0], rtol=1e-5)
    assert torch.allclose(piece(params[2, 3]).log_prob(x[2, 3]), p.log_prob(x)[2, 3], rtol=1e-5)


@pytest.mark.parametrize("make", PIECES)
@pytest.mark.parametrize("value", [-1.0, 0.5, math.nan])
def test_data_that_are_no_counts_and_no_classes(make, value):
    vae = VAE((3,), 2, likelihood=make(), encoder="mlp(hidden=[4])", decoder="mlp(hidden=[4])")
    with pytest.raises(ValueError, match="x: expected a .*at row 1, column 2"):
        vae.check(torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, value]]))


@pytest.mark.parametrize("make", PIECES)
def test_rows_of_zeros_give_a_finite_start(make):
    x = torch.zeros(7, 3)
    p = start(make(), x)
    assert p.log_prob(x).isfinite().all()
    assert make().features(x).isfinite().all()


# Counts


@pytest.mark.parametrize("make", COUNTS)
def test_counts_start_at_the_data_mean(make):
    x = counts()
    p = start(make(), x)
    assert torch.allclose(p.mean, x.mean(0), rtol=1e-12)


@pytest.mark.parametrize("make", NEGATIVE_BINOMIALS)
def test_the_first_dispersion_is_that_of_the_data(make):
    x = counts(20_000)
    for dispersion, shape in (("per_dimension", (3,)), ("shared", ()), ("network", (3,))):
        piece = make(dispersion)
        base = start(piece, x).base_dist
        theta = getattr(base, "base", base).theta
        assert theta.log().sub(math.log(2)).abs().max() < 0.5 and theta.shape == (3,)
        assert [p.shape for p in piece.parameters()] == ([] if dispersion == "network" else [shape])
        poisson = torch.tensor(np.random.default_rng(0).poisson(3.0, size=(50, 3)), dtype=torch.float64)
        base = start(piece, torch.full_like(poisson, 3.0)).base_dist
        assert torch.allclose(getattr(base, "base", base).theta, torch.tensor(math.exp(5)).double())


@pytest.mark.parametrize("make", [likelihoods.ZeroInflatedPoisson, likelihoods.ZeroInflatedNegativeBinomial])
def test_half_of_the_zeros_start_at_the_gate(make):
    x = counts()
    gate = torch.sigmoid(start(make(), x).base_dist.gate_logits)
    share = (x == 0).double().mean(0) / 2
    assert torch.allclose(gate, share.clamp_min(0.01)) and share[2] < 0.01


def test_poisson_is_scipys():
    params = torch.tensor([-1.0, 0.5, 6.0], dtype=torch.float64)
    x = torch.tensor([[0.0, 3.0, 410.0], [2.0, 0.0, 380.0]], dtype=torch.float64)
    expected = stats.poisson.logpmf(x.numpy(), np.exp(params.numpy())).sum(-1)
    assert built(likelihoods.Poisson())(params).log_prob(x).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


@pytest.mark.parametrize("dispersion", ["shared", "per_dimension", "network"])
@pytest.mark.parametrize("inflated", [False, True])
def test_negative_binomial_is_scipys(dispersion, inflated):
    """The numbers are log means, log inverse dispersions and gate logits, in this order."""
    piece = built(NEGATIVE_BINOMIALS[inflated](dispersion))
    eta, gate = np.array([-1.0, 0.5, 6.0]), np.array([-2.0, 0.0, 1.0])
    raw = {"shared": np.array(0.7)}.get(dispersion, np.array([-0.5, 0.7, 3.0]))
    numbers = [eta]
    if dispersion == "network":
        numbers.append(raw)
    else:
        with torch.no_grad():
            piece.raw_theta.copy_(torch.tensor(raw))
    if inflated:
        numbers.append(gate)
    x = np.array([[0.0, 3.0, 410.0], [2.0, 0.0, 0.0]])
    theta = np.exp(raw)
    expected = stats.nbinom.logpmf(x, theta, theta / (theta + np.exp(eta)))
    if inflated:
        extra = special.expit(gate)
        expected = np.log(extra * (x == 0) + (1 - extra) * np.exp(expected))
    params = torch.tensor(np.concatenate(numbers))
    assert copy.deepcopy(piece).build((3,)) == len(params)
    assert piece(params).log_prob(torch.tensor(x)).tolist() == pytest.approx(expected.sum(-1).tolist(), rel=1e-10)


def test_zero_inflated_poisson_by_its_formula():
    piece = built(likelihoods.ZeroInflatedPoisson())
    eta, gate, x = np.array([-1.0, 0.5, 2.0]), np.array([-2.0, 0.0, 1.0]), np.array([0.0, 3.0, 0.0])
    extra = special.expit(gate)
    expected = np.log(extra * (x == 0) + (1 - extra) * stats.poisson.pmf(x, np.exp(eta))).sum()
    assert piece(torch.tensor(np.concatenate([eta, gate]))).log_prob(torch.tensor(x)).item() == pytest.approx(expected)


def test_bounded_is_the_identity_within_and_smooth_at_the_bound():
    raw = torch.tensor([-1e8, -1e3, -20.0, -3.0, 0.0, 20.0, 21.0, 1e3, 1e8], requires_grad=True)
    value = bounded(raw)
    assert value[2:6].tolist() == [-20.0, -3.0, 0.0, 20.0] and value.exp().isfinite().all() and (value.exp() > 0).all()
    assert value.exp()[6].item() == pytest.approx(2 * math.exp(20), rel=1e-5)  # linear, with the slope at the bound
    (slope,) = torch.autograd.grad(value.sum(), raw)
    assert (slope > 0).all() and slope[2:6].tolist() == [1.0] * 4 and slope[6] == 0.5


def test_networks_see_the_logarithm_of_counts():
    x = torch.tensor([[0.0, 9.0, 1e6]])
    assert torch.allclose(likelihoods.NegativeBinomial().features(x), torch.log(1 + x))


# Exposure


@pytest.mark.parametrize("make", COUNTS)
def test_exposure_multiplies_the_mean(make):
    piece, plain = built(make(exposure=1), (2, 3)), built(make(), (2, 3))
    n = 6 * piece.numbers
    params, condition = torch.randn(4, 5, n).double(), torch.randn(5, 2).double()
    assert piece.contextual and not plain.contextual
    p = piece(params, None, condition)
    assert (p.batch_shape, p.event_shape) == ((4, 5), (2, 3))
    shifted = params.clone()
    shifted[..., :6] += condition[:, 1:]
    x = p.sample()
    assert torch.allclose(p.log_prob(x), plain(shifted).log_prob(x), rtol=1e-12)
    one = piece(params[0, 2], None, condition[2])
    assert torch.allclose(one.log_prob(x[0, 2]), p.log_prob(x)[0, 2], rtol=1e-12)


@pytest.mark.parametrize("make", COUNTS)
@pytest.mark.parametrize("size", [0.0, 800.0])
def test_exposure_at_the_start(make, size):
    """All counts over all exposure, and the dispersion that is left."""
    rng = np.random.default_rng(0)
    offset = rng.normal(0, 1.5, size=(4000, 1))
    x = torch.tensor(rng.poisson(np.exp(offset) * np.array([0.5, 3.0, 40.0]))).double()
    condition = torch.tensor(offset) + size
    p = start(make(exposure=0), x, condition)
    assert torch.allclose(p.mean.mean(0), x.mean(0), rtol=1e-9) if size == 0 else p.mean.isfinite().all()
    theta = getattr(getattr(p.base_dist, "base", p.base_dist), "theta", None)
    if theta is not None and size == 0:
        assert (theta > 20).all()


def test_exposure_that_is_not_there():
    piece = built(likelihoods.Poisson(exposure=2))
    for condition in (None, torch.zeros(5, 2)):
        columns = 0 if condition is None else 2
        message = f"exposure in column 2 of the condition, got a condition of {columns} columns"
        with pytest.raises(ValueError, match=message):
            piece(torch.zeros(5, 3), None, condition)
        with pytest.raises(ValueError, match=message):
            piece.initial(torch.ones(5, 3), condition)
    for exposure in (-1, 1.5, True, "size"):
        with pytest.raises(ValueError, match="exposure: expected a whole number of at least 0"):
            likelihoods.NegativeBinomial(exposure=exposure)


def test_exposure_through_a_vae():
    torch.manual_seed(0)
    vae = VAE((3,), 2, likelihood="zero_inflated_negative_binomial(exposure=0)", condition_dim=1)
    x = torch.poisson(torch.full((6, 3), 4.0))
    condition = x.sum(-1, keepdim=True).clamp_min(1).log()
    vae.initialize(x, condition)
    assert vae.encode(x, condition).event_shape == (2,)
    ratio = vae.decode(torch.zeros(1, 2), condition[:1] + math.log(2)).base_dist.base.mean
    # The decoder sees the condition too: only its bias is known here.
    assert ratio.shape == (1, 3) and vae.sample(6, condition).shape == (6, 3)


# Classes


@pytest.mark.parametrize("make", [likelihoods.Categorical, likelihoods.Ordinal])
def test_classes_start_at_their_frequencies(make):
    x = torch.tensor([[0.0, 3.0], [0.0, 2.0], [1.0, 3.0], [3.0, 3.0]])
    p = start(make(4), x)
    seen = torch.tensor([[2.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 3.0]])
    assert torch.allclose(p.base_dist.probs, (seen + 0.5) / 6, atol=2e-3)
    assert torch.equal(p.mode, torch.tensor([0.0, 3.0]))


def test_categorical_logits_are_by_class_and_then_element():
    piece = likelihoods.Categorical(4)
    assert piece.build((2, 3)) == 24
    logits = torch.randn(5, 4, 2, 3, dtype=torch.float64)
    x = torch.randint(4, (5, 2, 3)).double()
    log_softmax = special.log_softmax(logits.numpy(), axis=1)
    expected = np.take_along_axis(log_softmax, x[:, None].long().numpy(), 1).sum((1, 2, 3))
    assert piece(logits.flatten(1)).log_prob(x).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_networks_see_indicators_of_classes():
    x = torch.randint(4, (5, 2, 3)).float()
    seen = likelihoods.Categorical(4).features(x)
    assert seen.shape == (5, 2, 12) and seen.dtype == x.dtype
    one_hot = torch.nn.functional.one_hot(x.long(), 4).float()
    assert torch.equal(seen.reshape(5, 2, 3, 4), one_hot)
    # Of images, more channels: those of the first channel, then those of the second.
    image = likelihoods.Categorical(4).features(x[..., None])
    assert image.shape == (5, 8, 3, 1)
    assert torch.equal(image.reshape(5, 2, 4, 3), one_hot.movedim(-1, 2))
    vae = VAE((2, 3), 2, likelihood="categorical(classes=4)")
    assert vae.encode(x).batch_shape == (5,) and vae.reconstruct(x).shape == x.shape


@pytest.mark.parametrize("name", ["categorical", "ordinal"])
def test_a_class_that_is_not_among_the_classes(name):
    vae = VAE((2,), 1, likelihood=f"{name}(classes=4)", encoder="mlp(hidden=[4])", decoder="mlp(hidden=[4])")
    assert vae.check([[0, 3]]).tolist() == [[0.0, 3.0]]
    with pytest.raises(ValueError, match="got 4 at row 0, column 1 .* Number the classes from 0 to 3"):
        vae.check([[0, 4]])


def test_networks_see_ranks():
    assert likelihoods.Ordinal(5).features(torch.arange(5.0)).tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_ordinal_is_a_difference_of_sigmoids():
    piece = built(likelihoods.Ordinal(4), (2,))
    with torch.no_grad():
        piece.raw_gaps.copy_(torch.tensor([[-1.0, 2.0], [0.3, 0.0]]))
    gaps = to_scale(piece.raw_gaps, 1e-3).detach().numpy()
    cuts = np.stack([np.zeros(2), gaps[:, 0], gaps.sum(1)], 1)
    cuts -= cuts.mean(1, keepdims=True)
    eta = np.array([[0.7, -3.0], [1.0, 5.0]])
    below = np.concatenate([np.zeros((2, 2, 1)), special.expit(cuts - eta[..., None]), np.ones((2, 2, 1))], -1)
    x = np.array([[0, 3], [2, 1]])
    expected = np.log(np.take_along_axis(np.diff(below), x[..., None], -1)).sum((1, 2))
    got = piece(torch.tensor(eta)).log_prob(torch.tensor(x).double())
    assert got.tolist() == pytest.approx(expected.tolist(), rel=1e-10)


@pytest.mark.parametrize("raw", [-1e3, 0.0, 1e3])
def test_cutpoints_stay_in_order(raw):
    piece = built(likelihoods.Ordinal(6, floor=0.01), (2,), torch.float32)
    with torch.no_grad():
        piece.raw_gaps.fill_(raw)
    assert piece.cutpoints.shape == (2, 5) and (piece.cutpoints.diff() > 0.0099).all()
    assert torch.allclose(piece.cutpoints.mean(-1), torch.zeros(2), atol=1e-3)


def test_two_ordered_classes():
    piece = built(likelihoods.Ordinal(2), (3,))
    params = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    assert torch.allclose(piece(params).mean, torch.sigmoid(params))
    copy.deepcopy(piece)


@pytest.mark.parametrize("name", ["categorical", "ordinal"])
def test_the_number_of_classes_must_be_given(name):
    with pytest.raises(ValueError, match="classes: expected a whole number of at least 2, got none. Write classes=K"):
        likelihoods.make(name)
    for classes in (1, 0, 2.5, True, "four"):
        with pytest.raises(ValueError, match="classes: expected a whole number of at least 2, got"):
            likelihoods.make({"name": name, "classes": classes})
    assert checks.words(likelihoods.make(f"{name}(classes=3)").support)


# Rows of counts


@pytest.mark.parametrize("make", COMPOSITIONS)
def test_compositions_start_at_the_shares_of_all_counts(make):
    x = torch.tensor([[1.0, 3.0, 0.0], [4.0, 10.0, 0.0]], dtype=torch.float64)
    p = start(make(), x)
    assert p.total_count.item() == 9 and torch.allclose(p.mean, 9 * (x.sum(0) + 0.5) / 19.5)


def test_the_first_concentration_is_that_of_the_data():
    rng = np.random.default_rng(0)
    alpha = np.array([0.5, 2.0, 4.0, 1.5])
    totals = rng.integers(20, 60, 5000)
    x = torch.tensor(np.array([rng.multinomial(n, rng.dirichlet(alpha)) for n in totals])).double()
    piece = built(likelihoods.DirichletMultinomial(), (4,))
    got = piece.initial(x).exp()
    assert torch.allclose(got, torch.tensor(alpha), rtol=0.15)
    same = torch.tensor([[5.0, 5.0, 5.0, 5.0]] * 9).double()
    assert piece.initial(same).exp().sum().item() == pytest.approx(1e4)


@pytest.mark.parametrize("make", COMPOSITIONS)
def test_draws_have_the_total_that_was_asked_for_or_seen(make):
    x = torch.tensor([[1.0, 3.0], [4.0, 11.0]])
    given, seen = make(total_count=20), make()
    for piece, total in ((given, 20), (seen, 10)):
        draws = start(piece, x).sample((9,))
        assert (draws.sum(-1) == total).all()
    assert list(seen.state_dict()) == ["total"] and not given.state_dict()
    fresh = built(make(), (2,), torch.float32)
    fresh.load_state_dict(seen.state_dict())
    assert (fresh(torch.zeros(2)).sample((9,)).sum(-1) == 10).all()
    with pytest.raises(ValueError, match="total_count: expected a whole number of at least 1"):
        make(total_count=0)


def test_a_row_is_explained_given_its_own_total():
    x = torch.tensor([[1.0, 3.0, 0.0], [40.0, 10.0, 2.0]], dtype=torch.float64)
    params = torch.tensor([[0.0, 1.0, -1.0], [0.5, 0.1, -2.0]], dtype=torch.float64)
    rows = list(zip(x.numpy(), params.numpy(), strict=True))
    expected = [float(stats.multinomial.logpmf(k, k.sum(), special.softmax(v))) for k, v in rows]
    assert built(likelihoods.Multinomial(7))(params).log_prob(x).tolist() == pytest.approx(expected, rel=1e-11)
    expected = [float(stats.dirichlet_multinomial.logpmf(k.astype(int), np.exp(v), int(k.sum()))) for k, v in rows]
    assert built(likelihoods.DirichletMultinomial(7))(params).log_prob(x).tolist() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("make", COMPOSITIONS)
def test_networks_see_shares_and_the_total(make):
    x = torch.tensor([[1.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    seen = make().features(x)
    expected = [[math.log(2), math.log(4), 0, 0, math.log(5)], [0, 0, 0, 0, 0]]
    assert torch.allclose(seen, torch.tensor(expected))
    vae = VAE((4,), 2, likelihood=make())
    vae.initialize(x)
    assert vae.encode(x).batch_shape == (2,) and vae.sample(3).sum(-1).tolist() == [2.0] * 3


@pytest.mark.parametrize("make", COMPOSITIONS)
def test_compositions_are_rows(make):
    with pytest.raises(ValueError, match=r"expected rows of D counts, event_shape \(D,\), got \(1, 28, 28\)"):
        make().build((1, 28, 28))


def test_dispersions_that_are_none():
    for dispersion in ("gene", 3.0, None):
        with pytest.raises(ValueError, match="unknown dispersion .* expected one of network, per_dimension, shared"):
            likelihoods.NegativeBinomial(dispersion)
