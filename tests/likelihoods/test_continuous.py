"""Laplace, Student's t, log-normal, beta, gamma, discretised logistic and the Gaussian of optimal scale."""

import copy
import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from scipy import stats
from torch.nn.functional import softplus

import pyrovae
from pyrovae import VAE, elbos, likelihoods
from pyrovae.distributions import to_scale
from pyrovae.likelihoods.gaussian import DECAY

FLOAT64 = torch.float64
DTYPES = [torch.float32, FLOAT64]
MODES = ["shared", "per_dimension", "network"]
SHAPE = (2, 4, 3)
GENERATOR = torch.Generator().manual_seed(0)
UNIT = torch.rand(40, *SHAPE, dtype=FLOAT64, generator=GENERATOR) * 0.6 + 0.2
SPREAD = torch.linspace(0.3, 3, 24, dtype=FLOAT64).reshape(SHAPE)
REAL = torch.randn(40, *SHAPE, dtype=FLOAT64, generator=GENERATOR) * SPREAD - 1
PIXELS = (UNIT * 255).round() / 255

LIKELIHOODS = {
    **{f"{name}(scale={scale})": REAL for name in ("laplace", "student_t") for scale in MODES},
    **{f"log_normal(scale={scale})": REAL.exp() for scale in MODES},
    "laplace(scale=0.5)": REAL,
    "student_t(df=shared, scale=network)": REAL,
    "gaussian(scale=optimal)": REAL,
    "gamma": REAL.exp(),
    "beta": UNIT,
    "discretised_logistic": PIXELS,
    "discretised_logistic(components=3)": PIXELS,
    "discretised_logistic_mixture": PIXELS,
    "discretised_logistic_mixture(components=1)": PIXELS,
}


def built(name, shape=(3,), dtype=FLOAT64):
    piece = likelihoods.make(name)
    piece.build(shape)
    return piece.to(dtype)


def fill(piece, *values):
    """Put learned parameters where a test wants them."""
    with torch.no_grad():
        for parameter, value in zip(piece.parameters(), values, strict=True):
            parameter.copy_(torch.as_tensor(value))
    return piece


# Every one of them


@pytest.mark.parametrize("shape", [(4,), SHAPE], ids=str)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_shapes(name, shape):
    piece = likelihoods.make(name)
    count = piece.build(shape)
    assert count == piece.numbers * torch.Size(shape).numel()
    p = piece(torch.zeros(6, 5, count))
    assert (p.batch_shape, p.event_shape) == ((6, 5), shape)
    x = p.sample()
    assert x.shape == p.mean.shape == p.stddev.shape == (6, 5, *shape) and piece.support.check(x).all()
    assert p.log_prob(x).shape == (6, 5) and p.expand([2, 6, 5]).log_prob(x).shape == (2, 6, 5)
    # Each element has its own numbers, and all elements the same ones here.
    element = piece(torch.zeros(count)).base_dist
    assert element.batch_shape == shape
    assert torch.allclose(p.log_prob(x)[0, 0], element.log_prob(x[0, 0]).sum(), rtol=1e-5) or "optimal" in name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_all_is_finite_at_the_extremes(name, dtype):
    """log p, its gradients, draws and means, for numbers of +-1e3 and values to the ends of each support."""
    values = {
        "real": [-1e6, -3.0, 0.0, 1e6],
        "the open interval (0, 1)": [1e-6, 0.3, 0.7, 1 - 1e-6],
        "GreaterThan(lower_bound=0.0)": [1e-6, 0.5, 3.0, 1e6],
        "{0, 1/255, ..., 1}": [0.0, 1 / 255, 0.2, 1.0],
    }
    piece = built(name, (4,), dtype)
    support = "real" if "Real" in str(piece.support) else str(piece.support)
    x = torch.tensor(values[support], dtype=dtype)
    if "student_t" in name and dtype == torch.float32:
        x = x.clamp(-1e5, 1e5)
    numbers = min(piece.numbers, 3)
    grid = torch.tensor(list(itertools.product([-1e3, -30.0, 0.0, 1.0, 30.0, 1e3], repeat=numbers)), dtype=dtype)
    grid = grid.repeat(1, 5)[:, : piece.numbers] if piece.numbers > 3 else grid
    params = grid.repeat_interleave(4, 1).requires_grad_()
    for raw in (-1e3, 0.0, 1e3):
        fill(piece, *[raw] * len(list(piece.parameters())))
        p = piece(params)
        log_prob = p.log_prob(x)
        assert torch.isfinite(log_prob).all() and log_prob.dtype == dtype
        for gradient in torch.autograd.grad(log_prob.sum(), [params, *piece.parameters()]):
            assert torch.isfinite(gradient).all()
        draws = p.sample((20,))
        assert draws.dtype == dtype and piece.support.check(draws).all() and torch.isfinite(draws).all()
        assert torch.isfinite(p.mean).all() and torch.isfinite(p.log_prob(draws)).all()


@pytest.mark.parametrize("decoder", ["mlp(hidden=[6])", "conv(channels=[3, 3])"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_model_starts_at_the_data(name, decoder):
    """With weights of 0, mean and standard deviation are those of the data (of their logarithm, for the log-normal)."""
    # An sd is the same for a channel, as the bias of feature maps is.
    x = LIKELIHOODS[name]
    x = x.log() if "log_normal" in name else x
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True, correction=0)
    x = (x - x.mean(0)) / x.std(0, correction=0) if "conv" in decoder else x
    target = {"Ga": (5.0, 0.7), "Be": (0.4, 0.1), "Di": (0.5, 0.1), "Lo": (0.0, 0.5)}
    mean, sd = target.get(type(likelihoods.make(name)).__name__[:2], (3.0, 0.5))
    x = mean + sd * x
    if "discretised" in name:
        x = (x * 255).round().clamp(0, 255) / 255
    vae = VAE(SHAPE, 2, likelihood=name, encoder="mlp(hidden=[6])", decoder=decoder).double()
    vae.initialize(x.exp() if "log_normal" in name else x)
    with torch.no_grad():
        vae.likelihood.head.weight.zero_()
    p = vae.decode(torch.zeros(2))
    means, sds = p.mean, p.stddev
    if "log_normal" in name:
        means, sds = p.base_dist.base_dist.mean, p.base_dist.base_dist.stddev
    shared = any(mode in name for mode in ("shared)", "optimal", "scale=0.5")) or "df=shared)" in name
    expected = x.var(0, correction=0)
    expected = (expected.mean() if shared else expected).sqrt().expand(SHAPE)
    if "conv" in decoder:
        # The mean of a channel's first numbers, all alike up to the rounding of pixels.
        assert torch.allclose(means, x.mean((0, 2, 3))[:, None, None].expand(SHAPE), rtol=0.01, atol=0.01)
    else:
        assert torch.allclose(means, x.mean(0), rtol=2e-3, atol=2e-3)
    if "scale=0.5" in name:
        expected = torch.full(SHAPE, 0.5 * math.sqrt(2), dtype=FLOAT64)
    assert torch.allclose(sds, expected, rtol=0.02)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_constant_column_or_a_single_row(name):
    vae = VAE((2,), 1, likelihood=name)
    for x in (torch.tensor([[0.4, 0.2]]), torch.tensor([[0.4, 0.2], [0.4, 0.6]])):
        vae.likelihood.head.bias.data.zero_()
        vae.initialize(x)
        assert torch.isfinite(vae.likelihood.head.bias).all()
        loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
        assert torch.isfinite(loss)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_it_trains_copies_and_is_saved(name, same, tmp_path):
    x = LIKELIHOODS[name].float()
    torch.manual_seed(0)
    vae = VAE(SHAPE, 2, likelihood=name, encoder="mlp(hidden=[8])", decoder="conv(channels=[3, 3])")
    vae.initialize(x)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(15)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in vae.parameters())
    vae.eval()  # where the optimal scale is the saved one
    loaded = pyrovae.load(pyrovae.save(vae, tmp_path))
    for other in (copy.deepcopy(vae), loaded):
        assert same(other, vae)
        torch.manual_seed(1)
        ours = Trace_ELBO().loss(vae.model, vae.guide, x)
        torch.manual_seed(1)
        assert Trace_ELBO().loss(other.model, other.guide, x) == ours


def test_registry_and_arguments():
    for name in LIKELIHOODS:
        family, arguments = pyrovae.registry.parse(name, "likelihood")
        config = pyrovae.registry.config(likelihoods.make(name), likelihoods.FAMILY)
        assert config["name"] == family and arguments.items() <= config.items()


# Location and scale

LOC = torch.tensor([[-1.0, 0.5, 2.0], [0.0, 3.0, -0.7]], dtype=FLOAT64)
RAW = torch.tensor([[-3.0, 0.0, 2.0], [40.0, -0.5, 1.0]], dtype=FLOAT64)
X = torch.tensor([[-0.5, 0.6, 9.0], [1e3, 3.0, -0.2]], dtype=FLOAT64)
SCIPY = {
    "laplace": (X, lambda x, loc, scale: -np.abs(x - loc) / scale - np.log(2 * scale)),  # scipy's is -inf far out
    "student_t": (X, lambda x, loc, scale: stats.t.logpdf(x, 4, loc, scale)),
    "log_normal": (X.abs(), lambda x, loc, scale: stats.lognorm.logpdf(x, scale, scale=np.exp(loc))),
}


@pytest.mark.parametrize("scale", [0.3, *MODES])
@pytest.mark.parametrize("name", SCIPY)
def test_densities_by_scipy(name, scale):
    x, logpdf = SCIPY[name]
    piece = built(f"{name}(scale={scale}, floor=0.05)")
    params = torch.cat([LOC, RAW], -1) if scale == "network" else LOC
    raw = {"shared": torch.tensor(-0.4), "per_dimension": torch.tensor([-2.0, 0.0, 3.0])}.get(scale)
    if raw is not None:
        fill(piece, raw)
    raw = RAW if scale == "network" else raw
    scale = 0.3 if raw is None else 0.05 + np.logaddexp(0, raw.double().numpy())
    expected = logpdf(x.numpy(), LOC.numpy(), scale).sum(-1)
    assert piece(params).log_prob(x).tolist() == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.parametrize("df", [2.5, 3.0, 30.0])
def test_degrees_of_freedom(df):
    expected = stats.t.logpdf(X.numpy(), df, LOC.numpy(), 0.3).sum(-1).tolist()
    assert built(f"student_t(df={df}, scale=0.3)")(LOC).log_prob(X).tolist() == pytest.approx(expected, rel=1e-9)
    learned = built("student_t(df=shared, scale=0.3)")
    assert to_scale(learned.raw_df, 2.1).item() == pytest.approx(4, rel=1e-6)
    fill(learned, torch.log(torch.expm1(torch.tensor(df - 2.1, dtype=FLOAT64))))
    assert learned(LOC).log_prob(X).tolist() == pytest.approx(expected, rel=1e-9)
    (slope,) = torch.autograd.grad(learned(LOC).log_prob(X).sum(), learned.raw_df)
    assert slope != 0
    assert torch.isfinite(fill(learned, -1e6)(LOC).stddev).all()


@pytest.mark.parametrize("df", [2, 1.0, 0, -1, math.nan, "network"])
def test_degrees_of_freedom_that_are_none(df):
    with pytest.raises(ValueError, match="StudentT df: expected shared, or"):
        likelihoods.StudentT(df=df)


@pytest.mark.parametrize("name", ["Laplace", "StudentT", "LogNormal"])
def test_scales_that_are_none(name):
    for scale in (0, math.nan, "diagonal", "optimal"):
        with pytest.raises(ValueError, match=f"{name} scale: expected shared, per_dimension, network, or a finite"):
            getattr(likelihoods, name)(scale=scale)
    with pytest.raises(ValueError, match=f"{name} floor: expected a finite number above 0"):
        getattr(likelihoods, name)(floor=0)


# What data they refuse


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("beta", 0.0, r"a value in the open interval \(0, 1\) \(Beta\), got 0 at row 1.*continuous_bernoulli"),
        ("beta", 1.0, r"a value in the open interval \(0, 1\) \(Beta\), got 1 at row 1.*continuous_bernoulli"),
        ("gamma", 0.0, r"a number above 0 \(Gamma\), got 0 at row 1.*shift zeros"),
        ("log_normal", -1.0, r"a number above 0 \(LogNormal\), got -1 at row 1.*shift zeros"),
        ("laplace", math.nan, "a finite number"),
        (
            "discretised_logistic",
            0.3,
            r"a value in \{0, 1/255, ..., 1\} \(DiscretisedLogistic\), got 0.3 at row 1, column 0.*by 255",
        ),
        ("discretised_logistic_mixture", 17.0, r"\{0, 1/255, ..., 1\}.*Divide whole numbers 0 to 255 by 255"),
        ("discretised_logistic(levels=4)", 0.5, r"\{0, 1/3, ..., 1\}.*Divide whole numbers 0 to 3 by 3"),
    ],
)
def test_values_outside(name, value, message):
    vae = VAE((2,), 1, likelihood=name)
    good = torch.tensor([[0.2, 0.4], [0.6, 0.2]]) if "levels=4" not in name else torch.tensor([[0.0, 1 / 3]] * 2)
    vae.check(good)
    good[1, 0] = value
    with pytest.raises(ValueError, match=message):
        vae.model(good)


@pytest.mark.parametrize("name", ["gamma", "log_normal"])
def test_networks_see_the_logarithms_of_positive_data(name):
    piece = likelihoods.make(name)
    x = torch.tensor([[1e-6, 1.0, 1e6]])
    assert torch.equal(piece.features(x), x.log()) and torch.isfinite(piece.features(torch.zeros(2, 3))).all()


# Gamma and beta by mean and spread


def test_gamma_by_mean_and_coefficient_of_variation():
    piece = built("gamma(floor=0.1)")
    params = torch.cat([LOC, RAW], -1)
    mean, spread = 1e-6 + np.logaddexp(0, LOC.numpy()), 0.1 + np.logaddexp(0, RAW.numpy())
    x = X.abs()
    expected = stats.gamma.logpdf(x.numpy(), spread**-2, scale=mean * spread**2).sum(-1)
    p = piece(params)
    assert p.log_prob(x).tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    assert torch.allclose(p.mean, torch.tensor(mean), rtol=1e-12)
    assert torch.allclose(p.stddev / p.mean, torch.tensor(spread), rtol=1e-12)


def test_beta_by_mean_and_spread():
    piece = built("beta(floor=0.1)")
    params = torch.cat([LOC, RAW], -1)
    mean = 1e-6 + (1 - 2e-6) / (1 + np.exp(-LOC.numpy()))
    c = (0.1 + np.logaddexp(0, RAW.numpy())) ** -2
    x = torch.sigmoid(X.clamp(-5, 5))
    expected = stats.beta.logpdf(x.numpy(), mean * c, (1 - mean) * c).sum(-1)
    p = piece(params)
    assert p.log_prob(x).tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    assert torch.allclose(p.mean, torch.tensor(mean), rtol=1e-12)
    assert torch.allclose(p.stddev, torch.tensor(np.sqrt(mean * (1 - mean) / (1 + c))), rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_mean_of_a_beta_is_never_an_end(dtype):
    params = torch.tensor([[-1e3, 1e3, 1e3, -1e3], [-1e3, 1e3, -1e3, 1e3]], dtype=dtype)
    mean = built("beta", (2,), dtype)(params).mean
    assert ((mean > 0) & (mean < 1)).all()
    assert mean[0].tolist() == pytest.approx([1e-6, 1 - 1e-6], rel=1e-6)


@pytest.mark.parametrize(("name", "floor"), [("gamma", 0.05), ("beta", 0.05)])
def test_spreads_do_not_fall_below_the_floor(name, floor):
    piece = built(f"{name}(floor={floor})", (1,))
    p = piece(torch.tensor([0.0, -1e6], dtype=FLOAT64))
    expected = math.log(2) * floor if name == "gamma" else 0.5 * floor / math.sqrt(1 + floor**2)
    assert p.stddev.item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=f"{name.title()} floor: expected a finite number above 0"):
        likelihoods.make(f"{name}(floor=0)")


# Discretised logistics


@pytest.mark.parametrize("components", [1, 2, 5])
@pytest.mark.parametrize("shape", [(2,), (2, 1, 3)], ids=str)
def test_discretised_logistic_by_the_papers(components, shape):
    """Weights times differences of distribution functions, with the numbers laid out (numbers, *event_shape)."""
    levels = 16
    piece = likelihoods.DiscretisedLogistic(components, levels, floor=0.01)
    count = piece.build(shape)
    params = torch.randn(4, count, dtype=FLOAT64)
    loc, raw, *weights = params.reshape(4, -1, components, *shape).unbind(1)
    weights = weights[0].softmax(1) if weights else torch.ones_like(loc)
    scale = 0.01 + softplus(raw)
    k = torch.randint(0, levels, (4, *shape)).double()
    k[0, 0], k[1, 0] = 0, levels - 1

    def cdf(k):
        edge = ((k + 0.5) / (levels - 1)).where((k >= 0) & (k < levels - 1), math.inf * (k + 0.5).sign())
        return stats.logistic.cdf(edge[:, None].numpy(), loc.numpy(), scale.numpy())

    mass = (weights.numpy() * (cdf(k) - cdf(k - 1))).sum(1)
    expected = np.log(mass).reshape(4, -1).sum(-1)
    p = piece(params)
    assert p.log_prob(k / (levels - 1)).tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    assert piece.support.is_discrete and p.support.is_discrete


@pytest.mark.parametrize("name", ["discretised_logistic(levels=9)", "discretised_logistic_mixture(levels=9)"])
def test_the_masses_of_pairs_sum_to_one(name):
    piece = likelihoods.make(name)
    params = 3 * torch.randn(piece.build((2,)), dtype=FLOAT64)
    pairs = torch.cartesian_prod(torch.arange(9), torch.arange(9)).double() / 8
    masses = piece(params).log_prob(pairs).exp()
    assert masses.sum().item() == pytest.approx(1, rel=1e-9)
    p = piece(params)
    assert torch.allclose((masses[:, None] * pairs).sum(0), p.mean, rtol=1e-9)
    draws = p.sample((20_000,))
    assert ((draws.mean(0) - p.mean).abs() < 4 * p.stddev / math.sqrt(20_000) + 1e-9).all()


def test_a_mixture_is_the_same_with_more_components():
    names = ["discretised_logistic(components=5)", "discretised_logistic_mixture"]
    a, b = (built(name) for name in names)
    params = torch.randn(2, 45, dtype=FLOAT64)
    x = torch.tensor([0.2, 1.0, 0.0], dtype=FLOAT64)
    assert torch.equal(a(params).log_prob(x), b(params).log_prob(x))
    assert likelihoods.DiscretisedLogistic().build((3,)) == 6
    first = b.initial(torch.tensor([[0.2, 0.4, 1.0], [0.6, 0.8, 0.0]], dtype=FLOAT64)).reshape(3, 5, 3)
    assert (first[0].diff(dim=0) > 0).all() and (first[1] == first[1, :1]).all() and (first[2] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"components": 0}, "components: expected a whole number of at least 1"),
        ({"levels": 1}, "levels: expected a whole number of at least 2"),
        ({"levels": 2**20}, "levels: expected at most 65536"),
        ({"floor": -1}, "floor: expected a finite number above 0"),
    ],
)
def test_settings_that_are_none(arguments, message):
    for kind in (likelihoods.DiscretisedLogistic, likelihoods.DiscretisedLogisticMixture):
        with pytest.raises(ValueError, match=message):
            kind(**arguments)


# The optimal scale


def optimal(floor=1e-3, dtype=FLOAT64):
    return built(f"gaussian(scale=optimal, floor={floor})", dtype=dtype)


ROWS = torch.randn(5, 3, dtype=FLOAT64, generator=GENERATOR)
FIT = torch.randn(5, 3, dtype=FLOAT64, generator=GENERATOR)


def test_the_negative_log_likelihood_at_the_optimum():
    """D/2 (ln 2 pi s2 + 1) a row with s2 the MSE over rows and elements; with particles, over those too."""
    piece = optimal()
    mse = (ROWS - FIT).square().mean().item()
    nll = -piece(FIT).log_prob(ROWS).mean().item()
    assert nll == pytest.approx(1.5 * (math.log(2 * math.pi * mse) + 1), rel=1e-12)
    fits = torch.stack([FIT, FIT + 0.5])
    mse = (ROWS - fits).square().mean().item()
    nll = -piece(fits).log_prob(ROWS).mean().item()
    assert nll == pytest.approx(1.5 * (math.log(2 * math.pi * mse) + 1), rel=1e-12)


def test_row_by_row_it_is_a_normal_of_that_scale():
    rmse = (ROWS - FIT).square().mean().sqrt().item()
    expected = stats.norm.logpdf(ROWS, FIT, rmse).sum(-1).tolist()
    assert optimal()(FIT).log_prob(ROWS).tolist() == pytest.approx(expected, rel=1e-12)
    assert optimal(floor=50.0)(FIT).log_prob(ROWS).tolist() == pytest.approx(
        stats.norm.logpdf(ROWS, FIT, 50).sum(-1).tolist(), rel=1e-12
    )


def test_the_gradient_is_that_with_the_scale_in_the_graph():
    """The envelope theorem: the sum's gradient is the same whether or not it flows through the scale."""
    fit = FIT.clone().requires_grad_()
    (ours,) = torch.autograd.grad(optimal()(fit).log_prob(ROWS).sum(), fit)
    mse = (ROWS - fit).square().mean()
    (through,) = torch.autograd.grad(-15 / 2 * (torch.log(2 * math.pi * mse) + 1), fit)
    assert torch.allclose(ours, through, rtol=1e-12)


def step(piece, fit):
    """What a step of training does to the estimate."""
    piece(fit.clone().requires_grad_()).log_prob(ROWS).sum().backward()


def test_evaluation_is_at_the_running_estimate():
    """The first batch sets it, later ones move it by 1 - DECAY; evaluation and a loss without a step do not."""
    piece = optimal()
    batches = [FIT, FIT + 1, FIT - 2]
    running = None
    for fit in batches:
        step(piece, fit)
        mse = (ROWS - fit).square().mean().item()
        running = mse if running is None else DECAY * running + (1 - DECAY) * mse
        assert piece.mean_square.item() == pytest.approx(running, rel=1e-12)
    piece((FIT + 9).requires_grad_()).log_prob(ROWS)
    with torch.no_grad():
        piece(FIT + 9).log_prob(ROWS)
    piece.eval()
    step(piece, FIT + 9)
    p = piece(FIT + 9)
    expected = stats.norm.logpdf(ROWS, FIT + 9, math.sqrt(running)).sum(-1).tolist()
    assert p.log_prob(ROWS).tolist() == pytest.approx(expected, rel=1e-12)
    # A density: rows do not depend on one another.
    assert torch.equal(p.log_prob(ROWS)[:1], piece((FIT + 9)[:1]).log_prob(ROWS[:1]))
    assert piece.mean_square.item() == pytest.approx(running, rel=1e-12) and piece.batches == 3
    piece.train()
    assert piece(FIT).stddev.unique().item() == pytest.approx(math.sqrt(running), rel=1e-12)


def test_a_distribution_in_use_keeps_its_scale():
    piece = optimal().eval()
    p = piece(FIT)
    before = p.log_prob(ROWS)
    step(piece.train(), FIT + 1)
    assert torch.equal(p.log_prob(ROWS), before) and not list(piece.parameters())


def test_a_fit_learns_the_noise(linear):
    """On a linear-Gaussian model with its exact posterior, the running scale is the expected squared error's root."""
    model = linear(n=2000, scale=0.5, likelihood="gaussian(scale=optimal)")
    vae = model.vae
    vae.requires_grad_(False)
    vae.likelihood.head.bias.requires_grad_()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), Trace_ELBO())
    for _ in range(20):
        svi.step(model.x)
    # E_q ||x - f(z)||^2 at the true posterior averages to the noise's variance.
    assert vae.likelihood.piece.mean_square.sqrt().item() == pytest.approx(0.5, rel=0.02)
    torch.manual_seed(0)
    with pyrovae.modes.evaluating(vae):
        terms = elbos.terms(vae.model, vae.guide, model.x, num_particles=20)
    assert terms.log_weights.mean().item() == pytest.approx(model.log_prob.mean().item(), abs=0.02)


def test_fitting_moves_the_estimate_and_validation_does_not(tiny, same):
    x, held = torch.randn(60, 3), 100 * torch.randn(20, 3)
    vae = tiny(likelihood="gaussian(scale=optimal)")
    pyrovae.fit(vae, x, validation=held, epochs=1, batch_size=60, progress=False)
    piece = vae.likelihood.piece
    assert piece.batches == 1 and 0.5 < piece.mean_square < 2
    state = {key: value.clone() for key, value in vae.state_dict().items()}
    pyrovae.evaluate(vae, held, num_samples=5)
    vae.reconstruct(held)
    vae.sample(5)
    assert all(torch.equal(value, state[key]) for key, value in vae.state_dict().items())
    assert same(copy.deepcopy(vae), vae)


def test_data_set_the_estimate_before_training(tiny):
    x = 7 * torch.randn(50, 3) + 2
    vae = tiny(likelihood="gaussian(scale=optimal)")
    vae.initialize(x)
    assert vae.likelihood.piece.mean_square.item() == pytest.approx(x.var(0, correction=0).mean().item(), rel=1e-6)
    assert vae.likelihood.head.bias.tolist() == pytest.approx(x.mean(0).tolist(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_a_traced_step_is_refused(tiny):
    vae = tiny(likelihood="gaussian(scale=optimal)")
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), JitTrace_ELBO(ignore_jit_warnings=True))
    with pytest.raises(ValueError, match="expected steps that are not traced"):
        svi.step(torch.randn(5, 3))


def test_the_message_knows_of_it():
    with pytest.raises(ValueError, match="got 'optimum'; or optimal"):
        likelihoods.Gaussian(scale="optimum")
