import copy
import json
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from scipy import integrate, special, stats
from torch import nn
from torch.distributions import StickBreakingTransform

import pyrovae
from pyrovae import VAE, posteriors, priors, registry
from pyrovae.distributions import PowerSpherical, Uniform, to_scale
from pyrovae.piece import Piece

FLOAT64 = torch.float64
SIZE = 4
Z = torch.randn(7, SIZE, dtype=FLOAT64, generator=torch.Generator().manual_seed(0))
SIMPLEX = torch.softmax(2 * Z, -1)

# Every prior without a network, in each of its forms, with a posterior for it.
NAMES = {
    "normal": "normal",
    "normal(learned=True)": "full_rank",
    "normal(learned=ard)": "low_rank",
    "laplace": "laplace",
    "laplace(learned=True)": "normal",
    "laplace(learned=ard)": "normal",
    "student_t": "student_t",
    "student_t(df=3, learned=True)": "normal",
    "student_t(learned=ard)": "normal",
    "mixture(components=3)": "mixture",
    "mixture(components=3, covariance=full)": "normal",
    "mixture(components=3, covariance=tied)": "normal",
    "gamma": "gamma",
    "gamma(concentration=0.7, rate=2, learned=True)": "normal",
    "uniform": "normal",
    "uniform(low=-2, high=3)": "normal",
    "dirichlet": "dirichlet",
    "dirichlet(concentration=0.5, learned=True)": "normal",
    "logistic_normal": "normal",
    "logistic_normal(concentration=0.1, learned=True)": "dirichlet",
    "hyperspherical": "power_spherical",
    "power_spherical": "power_spherical",
    "power_spherical(concentration=3, learned=False)": "power_spherical",
    "categorical": "categorical",
    "categorical(classes=2, learned=True)": "categorical(classes=2)",
    "categorical(temperature=0.7)": "relaxed_categorical",
    "one_hot": "categorical",
    "one_hot(temperature=0.7, learned=True)": "normal",
    "categorical(classes=2, temperature=0.7, learned=True)": "relaxed_categorical(classes=2)",
}
LEARNED = [name for name in NAMES if "=True" in name or "ard" in name or "mixture" in name] + ["power_spherical"]


def make(name, size=SIZE, dtype=FLOAT64):
    piece = priors.make(name)
    assert piece.build((size,)) == 0
    return piece.to(dtype)


def shaken(name, size=SIZE, spread=0.3):
    """With its parameters moved away from where they start."""
    piece = make(name, size)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in piece.parameters():
            p.add_(spread * torch.randn(p.shape, dtype=p.dtype, generator=generator))
    return piece


def same(ours, theirs, rel=1e-10):
    assert ours.tolist() == pytest.approx(np.asarray(theirs).tolist(), rel=rel)


# All of them


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_one_latent_vector(name, dtype):
    """No batch shape, a draw within the support, dtypes kept, and an expanded one is the same distribution."""
    piece = make(name, dtype=dtype)
    p = piece(None)
    assert (p.batch_shape, p.event_shape) == ((), (SIZE,))
    z = p.sample((6, 5))
    assert z.dtype == dtype and z.shape == (6, 5, SIZE)
    assert p.support.check(z).all() and torch.isfinite(z).all()
    assert piece.support.check(z).all()
    log_prob = p.log_prob(z)
    assert log_prob.dtype == dtype and log_prob.shape == (6, 5) and torch.isfinite(log_prob).all()
    wide = p.expand((6, 5))
    assert wide.batch_shape == (6, 5) and wide.sample().shape == (6, 5, SIZE)
    assert torch.allclose(wide.log_prob(z), log_prob, rtol=1e-5)
    assert wide.expand((2, 6, 5)).log_prob(z).shape == (2, 6, 5)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_near_float64(name):
    piece = make(name)
    torch.manual_seed(1)
    z = piece(None).sample((50,))
    exact = piece(None).log_prob(z)
    assert torch.allclose(piece.float()(None).log_prob(z.float()).double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learned_is_trained_and_saved_and_what_is_fixed_is_not(name):
    piece = make(name)
    assert bool(list(piece.parameters())) == bool(piece.state_dict()) == (name in LEARNED)
    z = piece(None).sample((5,))
    if name in LEARNED:
        piece(None).log_prob(z).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in piece.parameters())


@pytest.mark.parametrize("value", [-1e3, 1e3])
@pytest.mark.parametrize("name", LEARNED)
def test_extreme_parameters_leave_numbers_finite(name, value):
    piece = make(name, dtype=torch.float32)
    z = piece(None).sample((5,))
    with torch.no_grad():
        for p in piece.parameters():
            p.fill_(value)
    log_prob = piece(None).log_prob(z)
    assert torch.isfinite(log_prob).all()
    log_prob.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in piece.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_saved_as_json(name):
    piece = make(name)
    config = json.loads(json.dumps(registry.config(piece, priors.FAMILY)))
    again = priors.make(config)
    assert type(again) is type(piece) and registry.config(again, priors.FAMILY) == config


@pytest.mark.parametrize(("name", "posterior"), NAMES.items())
def test_in_a_vae(tiny, name, posterior):
    vae = tiny(prior=name, posterior=posterior, latent_dim=SIZE)
    x = torch.randn(6, 3)
    vae.initialize(x)
    discrete = posterior.startswith("categorical")
    guide, loss = (config_enumerate(vae.guide), TraceEnum_ELBO()) if discrete else (vae.guide, Trace_ELBO())
    svi = SVI(vae.model, guide, pyro.optim.Adam({"lr": 0.01}), loss)
    before = {key: p.detach().clone() for key, p in vae.named_parameters()}
    assert all(math.isfinite(svi.step(x)) for _ in range(3))
    moved = {key for key, p in vae.named_parameters() if not torch.equal(p, before[key])}
    assert {key for key in before if key.startswith("prior.")} <= moved
    assert torch.isfinite(vae.sample(4)).all() and vae.reconstruct(x).shape == (6, 3)


# Densities, against scipy

LOC, RAW = torch.linspace(-1, 1, SIZE, dtype=FLOAT64), torch.linspace(-2, 3, SIZE, dtype=FLOAT64)
SCALE = 0.01 + np.logaddexp(0, RAW.numpy())
PEERS = {
    "normal": lambda loc, scale: stats.norm(loc, scale),
    "laplace": lambda loc, scale: stats.laplace(loc, scale),
    "student_t": lambda loc, scale: stats.t(4, loc, scale),
}


@pytest.mark.parametrize("name", PEERS)
def test_location_scale(name):
    z = Z.numpy()
    same(make(name)(None).log_prob(Z), PEERS[name](0, 1).logpdf(z).sum(-1))

    both = make(f"{name}(learned=True, floor=0.01)")
    assert {key for key, _ in both.named_parameters()} == {"loc", "raw_scale"}
    same(both(None).log_prob(Z), PEERS[name](0, 1).logpdf(z).sum(-1), rel=1e-6)
    with torch.no_grad():
        both.loc.copy_(LOC)
        both.raw_scale.copy_(RAW)
    same(both(None).log_prob(Z), PEERS[name](LOC.numpy(), SCALE).logpdf(z).sum(-1))

    ard = make(f"{name}(learned=ard, floor=0.01)")
    assert {key for key, _ in ard.named_parameters()} == {"raw_scale"}
    with torch.no_grad():
        ard.raw_scale.copy_(RAW)
    same(ard(None).log_prob(Z), PEERS[name](0, SCALE).logpdf(z).sum(-1))


@pytest.mark.parametrize("learned", ["yes", "network", None, 2])
def test_learned_is_one_of_three(learned):
    for prior in (priors.Normal, priors.Laplace, priors.StudentT):
        with pytest.raises(ValueError, match="learned: expected False, True or 'ard'"):
            prior(learned=learned)


def test_student_t_has_its_degrees_of_freedom():
    for df in (0.5, 1.0, 30.0):
        same(make(f"student_t(df={df})")(None).log_prob(Z), stats.t.logpdf(Z.numpy(), df).sum(-1))


def test_ard_finds_the_scale_of_each_latent_down_to_the_floor():
    """Fitted to codes of sd 2 and 0.01, it has the scales 2 and, of the one that does not matter, 0.05: its floor."""
    piece = make("normal(learned=ard, floor=0.05)", size=2)
    z = torch.cat([2 * torch.randn(4000, 1, dtype=FLOAT64), 0.01 * torch.randn(4000, 1, dtype=FLOAT64)], 1)
    optimizer = torch.optim.LBFGS(piece.parameters(), line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -piece(None).log_prob(z).mean()
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(loss)
    assert piece.positive_value("scale").tolist() == pytest.approx([2, 0.05], rel=0.05)


@pytest.mark.parametrize("concentration", [0.7, 1.0, 30.0])
def test_gamma(concentration):
    z = Z.abs()
    p = make(f"gamma(concentration={concentration}, rate=2.5)")(None)
    same(p.log_prob(z), stats.gamma.logpdf(z.numpy(), concentration, scale=1 / 2.5).sum(-1), rel=1e-6)
    piece = shaken(f"gamma(concentration={concentration}, rate=2.5, learned=True, floor=0.1)")
    a, b = (0.1 + np.logaddexp(0, raw.detach().numpy()) for raw in (piece.raw_a, piece.raw_b))
    same(piece(None).log_prob(z), stats.gamma.logpdf(z.numpy(), a, scale=1 / b).sum(-1))


@pytest.mark.parametrize("concentration", [0.3, 1.0, 20.0])
def test_dirichlet(concentration):
    peer = stats.dirichlet(np.full(SIZE, concentration))
    p = make(f"dirichlet(concentration={concentration})")(None)
    same(p.log_prob(SIMPLEX), peer.logpdf(SIMPLEX.T), rel=1e-6)
    piece = shaken(f"dirichlet(concentration={concentration}, learned=True, floor=0.1)")
    peer = stats.dirichlet(0.1 + np.logaddexp(0, piece.raw_alpha.detach().numpy()))
    same(piece(None).log_prob(SIMPLEX), peer.logpdf(SIMPLEX.T), rel=1e-8)


def test_uniform():
    p = make("uniform(low=-2, high=3)")(None)
    z = torch.tensor([[-2.0, 0.0, 1.0, 3.0]], dtype=FLOAT64)
    assert p.log_prob(z).tolist() == pytest.approx([-SIZE * math.log(5)], rel=1e-12)
    assert make("uniform(low=-2, high=3)").support.check(z).all()
    inside = Uniform(torch.tensor(0.0), torch.tensor(1.0), validate_args=False)
    assert inside.log_prob(torch.tensor([-0.01, 0.0, 1.0, 1.01])).tolist() == [-math.inf, 0, 0, -math.inf]


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (0, math.inf), (math.nan, 1)])
def test_no_interval(low, high):
    with pytest.raises(ValueError, match="expected finite numbers low < high"):
        priors.Uniform(low, high)


def test_a_saturated_sigmoid_has_a_finite_density(tiny):
    vae = tiny(prior="uniform(low=100, high=101)")
    z = vae.posterior.carry(torch.tensor([[1e3, -1e3]]))
    assert torch.isfinite(vae.prior().log_prob(z)).all()


def test_the_uniform_sphere_has_density_1_over_its_area():
    for size, area in [(2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2)]:
        z = torch.nn.functional.normalize(torch.randn(3, size, dtype=FLOAT64), dim=-1)
        same(make("hyperspherical", size)(None).log_prob(z), [-math.log(area)] * 3)


def test_power_spherical():
    """The density of De Cao & Aziz on the circle, with the constant by quadrature."""
    piece = shaken("power_spherical(concentration=2.5)", size=2)
    kappa = 1e-3 + np.logaddexp(0, piece.raw_kappa.item())
    mu = piece.direction.detach().numpy() / np.linalg.norm(piece.direction.detach().numpy())
    angle = np.linspace(0, 2 * np.pi, 9)
    points = np.stack([np.cos(angle), np.sin(angle)], -1)
    constant, _ = integrate.quad(lambda t: (1 + np.cos(t)) ** kappa, -np.pi, np.pi)
    same(piece(None).log_prob(torch.tensor(points)), kappa * np.log1p(points @ mu) - np.log(constant), rel=1e-7)
    fixed = make("power_spherical(concentration=2.5, learned=False)")(None)
    assert isinstance(fixed, PowerSpherical) and fixed.loc.tolist() == [1, 0, 0, 0] and fixed.concentration == 2.5


@pytest.mark.parametrize("name", ["dirichlet", "logistic_normal", "hyperspherical", "power_spherical", "categorical"])
def test_one_part_alone(name):
    with pytest.raises(ValueError, match="at least 2, got 1"):
        priors.make(name).build((1,))


# Categories


def test_categories_sum_to_one():
    piece = shaken("categorical(classes=2, learned=True)")
    p = piece(None)
    values = p.enumerate_support()
    assert values.shape == (4, SIZE)
    assert p.log_prob(values).logsumexp(0).item() == pytest.approx(0, abs=1e-12)
    weights = special.softmax(piece.logits.detach().numpy(), -1)
    same(p.log_prob(values).exp(), [a * b for a in weights[0] for b in weights[1]])


def test_one_variable_by_default_and_equal_weights():
    p = make("categorical")(None)
    assert str(p) == str(make("one_hot")(None))
    assert p.enumerate_support().tolist() == torch.eye(SIZE).tolist()
    same(p.log_prob(torch.eye(SIZE, dtype=FLOAT64)), [-math.log(SIZE)] * SIZE)


def test_the_relaxed_density_is_that_of_the_paper():
    """Maddison, Mnih & Teh (2017), eq. 10, for each block."""
    piece = shaken("categorical(classes=2, temperature=0.7, learned=True)")
    y = torch.softmax(Z.reshape(-1, 2, 2), -1)
    a = piece.logits.detach().exp()
    terms = a * y**-1.7
    density = math.gamma(2) * 0.7 * terms.prod(-1) / (a * y**-0.7).sum(-1) ** 2
    same(piece(None).log_prob(y.flatten(-2)), density.log().sum(-1).numpy())


def test_latents_that_do_not_divide_into_classes():
    with pytest.raises(ValueError, match="multiple of classes=3, got 4"):
        priors.make("categorical(classes=3)").build((SIZE,))


# The simplex


def over_the_simplex(log_prob):
    """The integral of a density over the first two of three parts."""
    points, weights = np.polynomial.legendre.leggauss(120)
    u, w = (points + 1) / 2, weights / 2
    # A polynomial change of variables that is flat at both ends takes care of poles at the edges.
    t, dt = u**3 * (10 - 15 * u + 6 * u**2), 30 * u**2 * (1 - u) ** 2
    a, b = torch.tensor(t)[:, None], torch.tensor(t)[None]
    z = torch.stack(torch.broadcast_tensors(a, (1 - a) * b, (1 - a) * (1 - b)), -1)
    weight = torch.tensor(w * dt)[:, None] * torch.tensor(w * dt)[None] * (1 - a)
    return (weight * log_prob(z).exp()).sum().item()


@pytest.mark.parametrize(
    "name",
    [
        "dirichlet(concentration=0.9, learned=True)",
        "logistic_normal(learned=True)",
        "logistic_normal(concentration=5)",
        "categorical(temperature=0.7, learned=True)",
    ],
)
def test_densities_on_the_simplex_are_of_the_same_two_parts(name):
    p = shaken(name, size=3)(None)
    p._validate_args = False  # the corners of the grid are rounded to edges
    assert over_the_simplex(p.log_prob) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("concentration", [0.3, 1.0, 8.0])
def test_the_logistic_normal_is_laplaces_approximation_of_the_dirichlet(concentration):
    """In the coordinates of torch's stick-breaking: slope 0 at its mean, and there the curvature is the precision."""
    piece = make(f"logistic_normal(concentration={concentration})")
    dirichlet = torch.distributions.Dirichlet(torch.full((SIZE,), concentration, dtype=FLOAT64))
    stick = StickBreakingTransform()

    def log_density(x):
        z = stick(x)
        return dirichlet.log_prob(z) + stick.log_abs_det_jacobian(x, z)

    mean = piece.loc.requires_grad_()
    slope = torch.autograd.grad(log_density(mean), mean)[0]
    curvature = torch.autograd.functional.hessian(log_density, mean)
    assert torch.allclose(slope, torch.zeros_like(slope), atol=1e-6)
    assert torch.allclose(-curvature, torch.diag(piece.positive_value("scale") ** -2), atol=1e-5 * concentration)


def test_the_logistic_normal_has_a_closed_kl_with_the_posterior_that_the_vae_carries(tiny):
    vae = tiny(prior="logistic_normal(concentration=0.5)", latent_dim=SIZE).double()
    q, p = vae.encode(torch.randn(3, 3)), vae.prior().expand((3,))
    kl = torch.distributions.kl_divergence(q, p)
    z = q.rsample((20_000,))
    draws = q.log_prob(z) - p.log_prob(z)
    assert ((draws.mean(0) - kl) / (draws.std(0) / 20_000**0.5)).abs().max() < 4


# The mixture


@pytest.mark.parametrize("covariance", ["diagonal", "full", "tied"])
def test_mixture(covariance):
    piece = shaken(f"mixture(components=3, covariance={covariance}, floor=0.1)", spread=0.8)
    scale = 0.1 + np.logaddexp(0, piece.raw_scale.detach().numpy())
    scale = np.broadcast_to(scale, (3, SIZE))
    weights = special.log_softmax(piece.logits.detach().numpy())
    terms = []
    for k in range(3):
        factor = np.diag(scale[k])
        if covariance != "diagonal":
            lower = piece.raw_lower.detach().numpy()
            below = scale[k][:, None] * np.arcsinh(_lower(lower if covariance == "tied" else lower[k])) / SIZE**0.5
            factor = factor + below
        normal = stats.multivariate_normal(piece.loc[k].detach().numpy(), factor @ factor.T)
        terms.append(weights[k] + normal.logpdf(Z.numpy()))
    same(piece(None).log_prob(Z), special.logsumexp(terms, 0), rel=1e-9)
    sizes = {"diagonal": 3 * SIZE, "full": 3 * SIZE * (SIZE + 1) // 2, "tied": SIZE * (SIZE + 1) // 2}
    assert sum(p.numel() for p in piece.parameters()) == 3 + 3 * SIZE + sizes[covariance]


def _lower(values):
    matrix = np.zeros((SIZE, SIZE))
    matrix[np.tril_indices(SIZE, -1)] = values
    return matrix


@pytest.mark.parametrize("covariance", ["diagonal", "full", "tied"])
def test_the_mixture_starts_near_the_standard_normal_with_no_two_components_alike(covariance):
    piece = make(f"mixture(components=300, covariance={covariance})", size=2)
    p = piece(None)
    assert len(piece.loc.unique(dim=0)) == 300
    assert p.mean.abs().max() < 4 * (0.25 / 300) ** 0.5  # of 300 locations of variance 0.25
    assert (p.variance - 1).abs().max() < 4 * 0.25 * (2 / 300) ** 0.5
    z = p.sample((2000,))
    assert ((z.mean(0) - p.mean) / (p.variance / 2000).sqrt()).abs().max() < 4
    assert (z.var(0) / p.variance - 1).abs().max() < 4 * (2 / 2000) ** 0.5
    wide = p.expand((5,))
    assert torch.allclose(wide.mean, p.mean.expand(5, 2)) and torch.allclose(wide.variance, p.variance.expand(5, 2))


def test_mixture_settings_that_are_none():
    with pytest.raises(ValueError, match="unknown mixture covariance 'spherical'"):
        priors.Mixture(covariance="spherical")
    with pytest.raises(ValueError, match="mixture components: expected a whole number of at least 1"):
        priors.Mixture(components=0)


# Conditional


def test_conditional_is_a_normal_of_the_networks_numbers(tiny):
    vae = tiny(prior="conditional(network='mlp(hidden=[5])')", condition_dim=2).double()
    condition = torch.randn(6, 2, dtype=FLOAT64)
    z = torch.randn(6, 2, dtype=FLOAT64)
    params = vae.prior.head(vae.prior.network(condition)).detach()
    loc, scale = params[:, :2], to_scale(params[:, 2:], 1e-4)
    p = vae.prior(condition, condition)
    assert p.batch_shape == (6,)
    same(p.log_prob(z), stats.norm.logpdf(z, loc, scale).sum(-1))
    loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, torch.randn(6, 3), condition)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in vae.prior.head.parameters())


@pytest.mark.parametrize("base", ["full_rank", "mixture(components=2)", "laplace", "categorical(classes=2)", "gamma"])
def test_conditional_takes_any_posterior_with_a_density(base):
    prior, posterior = priors.Conditional(base=base), posteriors.make(base)
    assert prior.build((SIZE,)) == posterior.build((SIZE,)) and prior.network == "mlp(hidden=[64])"
    posterior.load_state_dict(prior.piece.state_dict())
    params = torch.randn(5, prior.build((SIZE,)))
    assert str(prior.support) == str(posteriors.make(base).support)
    z = prior(params).sample()
    assert torch.equal(prior(params).log_prob(z), posterior(params).log_prob(z))


def test_conditional_is_saved_with_its_base():
    for base in ("laplace(floor=0.1)", {"name": "laplace", "floor": 0.1}, posteriors.Laplace(floor=0.1)):
        prior = priors.Conditional(base=base, network="mlp(hidden=[3])")
        config = json.loads(json.dumps(registry.config(prior, priors.FAMILY)))
        again = priors.make(config)
        assert isinstance(again.piece, posteriors.Laplace) and again.piece.floor == 0.1
        assert again.network == "mlp(hidden=[3])"


def test_conditional_of_what_has_no_density(tiny):
    with pytest.raises(ValueError, match="got 'delta', which is a point"):
        priors.Conditional(base="delta")
    with pytest.raises(ValueError, match="needs a condition"):
        tiny(prior="conditional")


# VampPrior

GAUSSIAN, BINARY = "gaussian(scale=1.0)", "bernoulli"


class Counts(Piece):
    """A likelihood of counts, or of what else a test says."""

    def __init__(self, support=torch.distributions.constraints.nonnegative_integer, features=torch.log1p):
        super().__init__()
        self.support, self.features = support, features

    def forward(self, params):
        return pyro.distributions.Poisson(nn.functional.softplus(params)).to_event(1)


def vamp(tiny, likelihood=GAUSSIAN, rows=None, components=4, **arguments):
    vae = tiny(prior=f"vamp(components={components})", likelihood=likelihood, **arguments).double()
    if rows is not None:
        vae.initialize(rows)
    return vae


@pytest.mark.parametrize("posterior", ["normal", "full_rank", "mixture", "student_t"])
def test_vamp_is_the_mean_of_the_posteriors_of_its_pseudo_inputs(tiny, posterior):
    vae = vamp(tiny, posterior=posterior)
    z = torch.randn(7, 2, dtype=FLOAT64)
    each = [vae.encode(u[None]).log_prob(z) for u in vae.prior.piece.raw_inputs]
    expected = torch.logsumexp(torch.stack(each), 0) - math.log(4)
    p = vae.prior()
    assert torch.allclose(p.log_prob(z), expected, rtol=1e-12)
    assert p.sample((3,)).shape == (3, 2) and p.expand((7,)).log_prob(z).shape == (7,)


def test_a_conditional_vamp_has_pseudo_inputs_for_all_conditions(tiny):
    vae = vamp(tiny, condition_dim=2)
    condition, z = torch.randn(5, 2, dtype=FLOAT64), torch.randn(5, 2, dtype=FLOAT64)
    p = vae.prior(condition, condition)
    assert p.batch_shape == (5,)
    for i in range(5):
        each = [vae.encode(u[None], condition[i : i + 1]).log_prob(z[i]) for u in vae.prior.piece.raw_inputs]
        assert p.log_prob(z)[i].item() == pytest.approx((torch.cat(each).logsumexp(0) - math.log(4)).item(), rel=1e-12)
    data = (torch.randn(5, 3), condition)
    loss = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1).loss(vae.model, vae.guide, *data)
    assert math.isfinite(loss) and vae.sample(5, condition).shape == (5, 3)


def test_a_vamp_whose_encoder_takes_no_condition(tiny):
    vae = vamp(tiny, condition_dim=2, condition_on=["decoder"])
    assert vae.prior(None, torch.randn(5, 2)).batch_shape == ()


def test_vamp_trains_pseudo_inputs_and_the_encoder_through_the_prior(tiny):
    vae = vamp(tiny)
    vae.prior().log_prob(torch.randn(7, 2, dtype=FLOAT64)).sum().backward()
    assert vae.prior.piece.raw_inputs.grad.abs().min() > 0
    assert all(p.grad.abs().sum() > 0 for p in vae.posterior.parameters())
    assert {key for key, _ in vae.named_parameters() if key.startswith("prior")} == {"prior.piece.raw_inputs"}


def test_pseudo_inputs_start_at_rows_of_the_data_once(tiny):
    x = torch.randn(9, 3, dtype=FLOAT64)
    vae = vamp(tiny, rows=x)
    inputs = vae.prior.piece.inputs().detach().clone()
    rows = {tuple(row) for row in x.tolist()}
    assert len({tuple(u) for u in inputs.tolist()} & rows) == 4
    vae.initialize(x + 1)
    assert torch.equal(vae.prior.piece.inputs(), inputs)


@pytest.mark.parametrize("likelihood", [BINARY, "continuous_bernoulli"])
def test_pseudo_inputs_of_binary_data_stay_between_0_and_1(tiny, likelihood):
    x = (torch.rand(9, 3) > 0.5).double()
    vae = vamp(tiny, likelihood, x, components=9)
    inputs = vae.prior.piece.inputs()
    assert ((inputs > 0) & (inputs < 1)).all()
    rows = {tuple(row) for row in x.tolist()}
    assert {tuple(u) for u in inputs.round().tolist()} == rows
    assert (inputs - inputs.round()).abs().max().item() == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize("low", [0, 1])
def test_pseudo_inputs_of_counts_are_above_their_bound(tiny, low):
    support = type(torch.distributions.constraints.nonnegative_integer)(low)
    x = low + torch.tensor([[0.0, 1.0, 1e6], [3.0, 0.0, 2e6], [5.0, 7.0, 0.0], [2.0, 4.0, 3.0]], dtype=FLOAT64)
    vae = vamp(tiny, Counts(support), x)
    inputs = vae.prior.piece.inputs().detach()
    inputs = inputs[inputs[:, 0].argsort()]
    assert torch.allclose(inputs, x[x[:, 0].argsort()].clamp_min(low + 0.01), rtol=1e-9)
    z = torch.randn(7, 2, dtype=FLOAT64)
    each = [vae.posterior(u[None]).log_prob(z) for u in inputs]
    assert torch.allclose(vae.prior().log_prob(z), torch.logsumexp(torch.stack(each), 0) - math.log(4), rtol=1e-9)


def test_pseudo_inputs_fill_missing_cells_with_column_means(tiny):
    piece = vamp(tiny, components=2).prior.piece
    piece.initial(torch.tensor([[1.0, math.nan, math.nan], [3.0, 5.0, math.nan]], dtype=FLOAT64))
    rows = piece.inputs().tolist()
    assert sorted(rows) == [[1, 5, 0], [3, 5, 0]]


def test_random_pseudo_inputs_are_left_alone(tiny):
    vae = tiny(prior="vamp(components=500, pseudo_inputs=random)")
    before = vae.prior.piece.inputs().clone()
    vae.initialize(torch.randn(3, 3) + 10)
    assert torch.equal(before, vae.prior.piece.inputs()) and abs(before.mean()) < 0.1 and abs(before.std() - 1) < 0.1


def test_fewer_rows_than_pseudo_inputs(tiny):
    with pytest.raises(ValueError, match=r"expected at least as many rows as the 4 pseudo-inputs, got 3.*components=3"):
        vamp(tiny, rows=torch.randn(3, 3))


@pytest.mark.parametrize(
    "likelihood",
    [
        Counts(torch.distributions.constraints.simplex),
        Counts(
            torch.distributions.constraints.integer_interval(0, 3),
            features=lambda x: nn.functional.one_hot(x.long(), 4).to(x.dtype).flatten(1),
        ),
    ],
    ids=["simplex", "categories"],
)
def test_data_that_gradients_cannot_move(likelihood):
    with pytest.raises(ValueError, match="in whose space pseudo-inputs can move, got Counts. Choose prior='mixture'"):
        VAE((3,), 2, prior="vamp", likelihood=likelihood, encoder="mlp(hidden=[3])", decoder="mlp(hidden=[3])")


class Bound(posteriors.Normal):
    def bind(self, vae):
        pass


@pytest.mark.parametrize("posterior", ["delta", Bound()], ids=["delta", "bound"])
def test_posteriors_that_a_vamp_is_not_made_of(tiny, posterior):
    with pytest.raises(ValueError, match="expected a posterior with a density, of the encoder alone"):
        tiny(prior="vamp", posterior=posterior)


def test_a_vamp_without_a_vae():
    prior = priors.Vamp(3)
    assert prior.build((2,)) == 0
    with pytest.raises(ValueError, match="expected to be the prior of a VAE"):
        prior()


def test_vamp_lives_where_its_posterior_does(tiny):
    vae = tiny(prior="vamp(components=3)", posterior="power_spherical", latent_dim=3)
    assert vae.prior.piece.support is vae.posterior.piece.support
    assert torch.allclose(vae.prior().sample((5,)).norm(dim=-1), torch.ones(5))


def test_a_copy_of_a_vamp_is_made_of_its_own_encoder(tiny, tmp_path, same):
    x = torch.randn(9, 3, dtype=FLOAT64)
    vae = vamp(tiny, rows=x)
    twin = copy.deepcopy(vae)
    assert twin.prior.piece._vae[0] is twin
    saved = pyrovae.load(pyrovae.save(vae, tmp_path / "model.safetensors"))
    z = torch.randn(7, 2, dtype=FLOAT64)
    before = vae.prior().log_prob(z)
    for other in (twin, saved):
        assert same(vae, other) and torch.equal(other.prior().log_prob(z), before)
        inputs = other.prior.piece.inputs().clone()
        other.initialize(x + 1)
        assert torch.equal(other.prior.piece.inputs(), inputs)
        with torch.no_grad():
            other.posterior.head.bias.add_(1)
        assert not torch.equal(other.prior().log_prob(z), before)
    assert torch.equal(vae.prior().log_prob(z), before)


def test_vamp_trains(tiny):
    vae = vamp(tiny, rows=torch.randn(20, 3))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    before = vae.prior.piece.raw_inputs.detach().clone()
    assert all(math.isfinite(svi.step(torch.randn(5, 3))) for _ in range(3))
    assert (vae.prior.piece.raw_inputs != before).all()


# Draws


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NAMES
        if name.startswith(("normal", "laplace", "student_t(df=3", "mixture", "gamma", "uniform", "dirichlet", "power"))
    ],
)
def test_draws_have_the_moments_of_the_density(name):
    p = shaken(name)(None)
    torch.manual_seed(2)
    z = p.sample((20_000,))
    error = (z.mean(0) - p.mean) / (p.variance / 20_000).sqrt()
    assert error.abs().max() < 4
