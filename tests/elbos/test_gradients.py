"""Gradients of the estimators: against quadrature and enumeration of all that can be drawn, and against each other.

Parameters of the toys below have a row for each repeat of the experiment, so that one backward pass gives the gradient
of each repeat.
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer, poutine
from pyro.infer import SVI
from torch import distributions as D
from torch.distributions import Categorical, Normal

import pyrovae
from pyrovae import elbos, registry
from pyrovae.distributions import pathwise

X = torch.tensor([0.7, -1.1], dtype=torch.float64)


def make(spec, particles, chunk=None):
    """An estimator by name that does not run the model first to count its plates."""
    context = {"num_particles": particles, "max_plate_nesting": 1, "chunk": chunk}
    return registry.make(spec, elbos.FAMILY, "elbo", **context)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def grid(points, dims):
    """All combinations of ``points`` in ``dims`` dimensions, ``(dims, combinations)``."""
    return torch.cartesian_prod(*[points] * dims).reshape(-1, dims).T


def normal_nodes(nodes, dims):
    """Points and weights of Gauss-Hermite quadrature over ``dims`` standard normals."""
    points, weights = map(torch.as_tensor, np.polynomial.hermite_e.hermegauss(nodes))
    return grid(points, dims), grid(weights / weights.sum(), dims).prod(0)


class Linear:
    """z ~ N(m, s), x ~ N(w z + b, noise) with two columns; q(z | x) = N(a x + c, sd)."""

    theta = double(0.9, -0.6, 0.2, -0.3, -0.5, 0.3, 0.2, 0.25, -0.3, 0.1, -0.4)
    of_model, nodes = 7, {1: 80, 2: 40, 3: 24, 4: 16}

    @staticmethod
    def prior(theta):
        return theta[..., 5], theta[..., 6].exp()

    @staticmethod
    def posterior(theta):
        return (theta[..., 7:9] * X).sum(-1) + theta[..., 9], theta[..., 10].exp()

    @staticmethod
    def likelihood(theta, z):
        return dist.Normal(theta[..., 0:2] * z[..., None] + theta[..., 2:4], theta[..., 4:5].exp()).to_event(1)

    def model(self, theta):
        with pyro.plate("rows", len(theta), dim=-1):
            z = pyro.sample("z", dist.Normal(*self.prior(theta)))
            pyro.sample("x", self.likelihood(theta, z), obs=X.expand(len(theta), 2))

    def guide(self, theta):
        with pyro.plate("rows", len(theta), dim=-1):
            pyro.sample("z", dist.Normal(*self.posterior(theta)))

    def outcomes(self, theta, particles, fixed=False):
        """Of all that K draws can be: probabilities, log p(x, z) and log q(z | x), the latter two ``(K, outcomes)``."""
        noise, probabilities = normal_nodes(self.nodes[particles], particles)
        loc, sd = self.posterior(theta)
        z = loc + sd * noise
        z = z.detach() if fixed else z
        log_p = Normal(*self.prior(theta)).log_prob(z) + self.likelihood(theta, z).log_prob(X)
        return probabilities, log_p, Normal(loc, sd).log_prob(z)


class Hierarchy(Linear):
    """z2 ~ N(0, 1), z1 ~ N(r z2 + m, s), x ~ N(z1, noise); q(z2) = N(a, sd2), q(z1 | z2) = N(g z2 + c, sd1)."""

    theta = double(0.8, 0.2, -0.3, -0.4, 0.3, -0.3, 0.5, 0.2, -0.5)
    of_model, nodes = 4, {1: 40, 2: 18}

    def model(self, theta):
        with pyro.plate("rows", len(theta), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros_like(theta[..., 0]), 1.0))
            z1 = pyro.sample("z1", dist.Normal(theta[..., 0] * z2 + theta[..., 1], theta[..., 2].exp()))
            pyro.sample("x", dist.Normal(z1, theta[..., 3].exp()), obs=X[0].expand(len(theta)))

    def guide(self, theta):
        with pyro.plate("rows", len(theta), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(theta[..., 4], theta[..., 5].exp()))
            pyro.sample("z1", dist.Normal(theta[..., 6] * z2 + theta[..., 7], theta[..., 8].exp()))

    def outcomes(self, theta, particles, fixed=False):
        noise, probabilities = normal_nodes(self.nodes[particles], 2 * particles)
        outer, inner = noise[:particles], noise[particles:]
        r, m, s, x_sd, a, sd2, g, c, sd1 = theta
        z2 = a + sd2.exp() * outer
        z1 = g * z2 + c + sd1.exp() * inner
        z2, z1 = (z.detach() if fixed else z for z in (z2, z1))
        log_p = Normal(0.0, 1.0).log_prob(z2) + Normal(r * z2 + m, s.exp()).log_prob(z1)
        log_q = Normal(a, sd2.exp()).log_prob(z2) + Normal(g * z2 + c, sd1.exp()).log_prob(z1)
        return probabilities, log_p + Normal(z1, x_sd.exp()).log_prob(X[0]), log_q


class Mixed(Linear):
    """c ~ Cat(pi), z ~ N(m_c, 1), x ~ N(z, 0.6); q(c) = Cat(rho), q(z | c) = N(a_c, sd): one site of each kind."""

    theta = double(0.2, -0.4, 1.0, -0.8, 0.5, -0.1, 0.8, 0.1, -0.4)
    of_model, nodes = 4, {1: 60, 2: 30}

    def model(self, theta):
        with pyro.plate("rows", len(theta), dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=theta[..., 0:2]))
            z = pyro.sample("z", dist.Normal(torch.where(c == 0, theta[..., 2], theta[..., 3]), 1.0))
            pyro.sample("x", dist.Normal(z, 0.6), obs=X[0].expand(len(theta)))

    def guide(self, theta):
        with pyro.plate("rows", len(theta), dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=theta[..., 4:6]))
            pyro.sample("z", dist.Normal(torch.where(c == 0, theta[..., 6], theta[..., 7]), theta[..., 8].exp()))

    def outcomes(self, theta, particles, fixed=False):
        noise, weights = normal_nodes(self.nodes[particles], particles)
        c = grid(torch.arange(2), particles)[:, :, None]
        log_rho = Categorical(logits=theta[4:6]).log_prob(c)
        loc = torch.where(c == 0, theta[6], theta[7])
        z = loc + theta[8].exp() * noise[:, None]
        z = z.detach() if fixed else z
        log_p = Categorical(logits=theta[0:2]).log_prob(c) + Normal(
            torch.where(c == 0, theta[2], theta[3]), 1
        ).log_prob(z)
        log_p = log_p + Normal(z, 0.6).log_prob(X[0])
        log_q = log_rho + Normal(loc, theta[8].exp()).log_prob(z)
        probabilities = log_rho.sum(0).exp() * weights
        return probabilities.flatten(), log_p.flatten(1), log_q.flatten(1)


class Discrete(Linear):
    """z ~ Cat(pi) of 3 classes, x ~ N(m_z, 1); q(z) = Cat(rho)."""

    theta = double(0.1, -0.4, 0.6, 1.5, 0.2, -1.0, 0.3, 0.0, -0.5)
    of_model = 6

    def model(self, theta):
        with pyro.plate("rows", len(theta), dim=-1):
            z = pyro.sample("z", dist.Categorical(logits=theta[..., 0:3]))
            means = theta[..., 3:6].expand(*z.shape, 3).gather(-1, z[..., None])[..., 0]
            pyro.sample("x", dist.Normal(means, 1.0), obs=X[0].expand(len(theta)))

    def guide(self, theta):
        with pyro.plate("rows", len(theta), dim=-1):
            pyro.sample("z", dist.Categorical(logits=theta[..., 6:9]))

    def outcomes(self, theta, particles, fixed=False):
        z = grid(torch.arange(3), particles)
        log_q = Categorical(logits=theta[6:9]).log_prob(z)
        log_p = Categorical(logits=theta[0:3]).log_prob(z) + Normal(theta[3:6][z], 1.0).log_prob(X[0])
        return log_q.sum(0).exp(), log_p, log_q


def gradient_of(toy, bound, particles):
    """The gradient of E bound(log w) by all parameters, over all that can be drawn."""
    theta = toy.theta.clone().requires_grad_()
    probabilities, log_p, log_q = toy.outcomes(theta, particles)
    return torch.autograd.grad((probabilities * bound(log_p - log_q)).sum(), theta)[0]


def wake_phi(toy, particles):
    """E sum_k of normalised weights times the score of log q, where neither weights nor draws are moved."""
    theta = toy.theta.clone().requires_grad_()
    probabilities, log_p, log_q = toy.outcomes(theta, particles, fixed=True)
    weights = (log_p - log_q).softmax(0)
    return torch.autograd.grad((probabilities.detach() * (weights.detach() * log_q).sum(0)).sum(), theta)[0]


def estimates(toy, spec, particles, repeats, chunk=None):
    """The estimator's gradient, upwards, in each repeat: ``(repeats, parameters)``."""
    theta = toy.theta.expand(repeats, -1).clone().requires_grad_()
    make(spec, particles, chunk).loss_and_grads(toy.model, toy.guide, theta)
    return -theta.grad


def scores(draws, expected):
    """How many standard errors each mean of ``draws`` is away from what was expected."""
    return ((draws.mean(0) - expected) / (draws.std(0) / math.sqrt(len(draws)))).abs()


def iwae(log_weights):
    return log_weights.exp().mean(0).log()


def elbo(log_weights):
    return log_weights.mean(0)


def renyi(alpha):
    return lambda log_weights: ((1 - alpha) * log_weights).exp().mean(0).log() / (1 - alpha)


def cubo(log_weights):
    return (2 * log_weights).exp().mean(0).log() / 2


WAKE = "wake-phi"
# Estimator, its draws, draws of the bound, and the bounds whose gradients the model's and the guide's are.
UNBIASED = [
    *[(spec, 1, 1, elbo, elbo) for spec in ("iwae", "stl", "dreg", "gdreg", "renyi", "ciwae")],
    *[(spec, k, k, iwae, iwae) for spec in ("iwae", "dreg", "gdreg", "vimco") for k in (2, 3)],
    *[(spec, k, k, elbo, elbo) for spec in ("score_function", "tvo(partitions=1)") for k in (2, 3)],
    *[(f"renyi(alpha={alpha})", 2, 2, renyi(alpha), renyi(alpha)) for alpha in (0.5, 2, -1)],
    *[("ciwae(beta=0.3)", 2, 2, *[lambda w: 0.3 * elbo(w) + 0.7 * iwae(w)] * 2)],
    ("miwae", 2, 2, elbo, elbo),
    ("miwae", 4, 2, iwae, iwae),
    ("piwae", 2, 2, iwae, elbo),
    ("jackknife", 2, 2, *[lambda w: 2 * iwae(w) - elbo(w)] * 2),
    ("rws", 2, 2, iwae, WAKE),
    ("rws(doubly=True)", 2, 2, iwae, WAKE),
    ("rws", 3, 3, iwae, WAKE),
    ("rws(doubly=True)", 3, 3, iwae, WAKE),
    ("stl", 2, 2, iwae, None),
    ("tail_adaptive", 2, 2, iwae, None),
]
DISCRETE = ("vimco", "score_function", "tvo(partitions=1)", "rws")
TOYS = {"one site": Linear(), "two sites": Hierarchy(), "discrete": Discrete(), "mixed": Mixed()}


def suits(toy, spec, particles):
    if toy in ("discrete", "mixed"):
        return spec in DISCRETE and (toy == "discrete" or particles < 3)
    return toy == "one site" or (spec != "gdreg" and particles < 3)


@pytest.mark.parametrize(
    ("toy", "spec", "particles", "of_bound", "model", "guide"),
    [(toy, *case) for toy in TOYS for case in UNBIASED if suits(toy, *case[:2])],
)
def test_the_mean_gradient_is_that_of_the_bound(toy, spec, particles, of_bound, model, guide):
    """Of the model's, the prior's and the guide's parameters, one by one."""
    toy = TOYS[toy]
    draws = estimates(toy, spec, particles, 20_000)
    expected = gradient_of(toy, model, of_bound)
    assert scores(draws, expected)[: toy.of_model].max() < 4
    if guide is not None:
        expected = wake_phi(toy, of_bound) if guide is WAKE else gradient_of(toy, guide, of_bound)
        assert scores(draws, expected)[toy.of_model :].max() < 4
        assert expected[toy.of_model :].abs().min() > 1e-3, "nothing to be seen"


def test_a_partially_weighted_bound_has_one_gradient_for_each_side():
    """That of all four draws for the model, that of two groups of two for the guide."""
    toy = Linear()
    draws = estimates(toy, "piwae", 4, 40_000)
    assert scores(draws, gradient_of(toy, iwae, 4))[: toy.of_model].max() < 4
    assert scores(draws, gradient_of(toy, iwae, 2))[toy.of_model :].max() < 4


@pytest.mark.parametrize("toy", ["one site", "two sites"])
def test_the_chi_bound_goes_down_for_the_guide_and_leaves_the_model(toy):
    toy = TOYS[toy]
    draws = estimates(toy, "cubo", 2, 20_000)
    assert scores(draws, -gradient_of(toy, cubo, 2))[toy.of_model :].max() < 4
    assert draws[:, : toy.of_model].abs().max() < 1e-15


def test_the_quadrature_has_converged():
    for toy, particles, fewer in ((Linear(), 2, 30), (Linear(), 3, 18), (Hierarchy(), 2, 13), (Mixed(), 2, 20)):
        for bound in (iwae, cubo):
            fine = gradient_of(toy, bound, particles)
            toy.nodes = {particles: fewer}
            coarse = gradient_of(toy, bound, particles)
            del toy.nodes
            assert torch.allclose(fine, coarse, rtol=0, atol=2e-4)


def test_sticking_the_landing_is_biased_for_the_guide_at_two_draws():
    toy = Linear()
    away = scores(estimates(toy, "stl", 2, 40_000), gradient_of(toy, iwae, 2))
    assert away[toy.of_model :].max() > 8 and away[: toy.of_model].max() < 4


def test_the_prior_takes_its_gradient_by_its_path():
    """GDReG: another estimate than DReG's for the prior, and the same one for all others."""
    toy, draws = Linear(), {}
    for spec in ("dreg", "gdreg"):
        torch.manual_seed(1)
        draws[spec] = estimates(toy, spec, 8, 4000)
    prior = torch.tensor([5, 6])
    others = [i for i in range(11) if i not in prior]
    assert torch.allclose(draws["gdreg"][:, others], draws["dreg"][:, others], rtol=1e-10)
    away = draws["gdreg"] - draws["dreg"]
    assert scores(away[:, prior], 0.0).max() < 4 and (away[:, prior].abs().mean(0) > 1e-2).all()


def true_posterior(toy):
    """Mean and sd of p(z | x) of the linear toy."""
    w, b, noise = toy.theta[0:2], toy.theta[2:4], toy.theta[4].exp()
    loc, s = toy.prior(toy.theta)
    precision = 1 / s**2 + (w**2).sum() / noise**2
    return (loc / s**2 + (w * (X - b)).sum() / noise**2) / precision, precision**-0.5


def test_wake_phi_is_the_divergence_from_the_posterior_but_for_a_bias_that_falls():
    """The gradient of E_{p(z|x)} log q, which is that of -KL(p || q)."""
    toy = Linear()
    theta = toy.theta.clone().requires_grad_()
    mean, sd = true_posterior(toy)
    loc, scale = toy.posterior(theta)
    crossed = -scale.log() - 0.5 * ((mean - loc) ** 2 + sd**2) / scale**2
    (expected,) = torch.autograd.grad(crossed, theta)
    away = {}
    for k, repeats in ((2, 10_000), (8, 10_000), (64, 4000)):
        draws = estimates(toy, "rws", k, repeats)[:, 7:]
        away[k] = (draws.mean(0) - expected[7:]).norm()
        if k == 2:
            assert scores(draws, expected[7:]).max() > 8
    assert away[8] < 0.5 * away[2] and away[64] < 0.1 * away[2]


@pytest.mark.parametrize("doubly", [False, True])
def test_sleep_phi_is_the_divergence_over_dreams(doubly):
    """E log q(z | x) under the model, where x is what it drew: at wake=0.25, three parts to one of wake-phi."""
    toy, seen = Linear(), []
    theta = toy.theta.expand(20_000, -1).clone().requires_grad_()

    def model(x, theta):
        with pyro.plate("rows", len(theta), dim=-1):
            z = pyro.sample("z", dist.Normal(*toy.prior(theta)))
            pyro.sample("x", toy.likelihood(theta, z), obs=x)

    def guide(x, theta):
        seen.append(x)
        loc = (theta[..., 7:9] * x).sum(-1) + theta[..., 9]
        with pyro.plate("rows", len(theta), dim=-1):
            pyro.sample("z", dist.Normal(loc, theta[..., 10].exp()))

    x = X.expand(20_000, 2)
    pair = poutine.scale(model, 3.0), poutine.scale(guide, 3.0)
    make(f"rws(wake=0.25, doubly={doubly})", 2).loss_and_grads(*pair, x, theta)
    assert seen[0] is x and seen[-1].shape == (20_000, 2) and seen[-1].std(0).min() > 0.5, "no dreams"
    # Over dreams (z, x) ~ p all is jointly normal: E log q = -log sd - E (z - a x - c)^2 / (2 sd^2).
    leaf = toy.theta.clone().requires_grad_()
    w, b, noise, (m, s) = toy.theta[0:2], toy.theta[2:4], toy.theta[4].exp(), toy.prior(toy.theta)
    covariance = s**2 * torch.outer(w, w) + noise**2 * torch.eye(2, dtype=torch.float64)
    a, c, sd = leaf[7:9], leaf[9], leaf[10].exp()
    bias = m - (a * (w * m + b)).sum() - c
    spread = s**2 - 2 * s**2 * (a * w).sum() + a @ covariance @ a
    (sleep,) = torch.autograd.grad(-sd.log() - 0.5 * (bias**2 + spread) / sd**2, leaf)
    assert scores(-theta.grad[:, 7:] / 3, 0.75 * sleep[7:] + 0.25 * wake_phi(toy, 2)[7:]).max() < 4
    assert scores(-theta.grad[:, :7] / 3, gradient_of(toy, iwae, 2)[:7]).max() < 4


def test_the_thermodynamic_gradient_has_a_bias_that_falls():
    """Against sum (b' - b) E_b[log w] with both means by quadrature, on nodes that stay where they are."""
    toy = Linear()
    theta = toy.theta.clone().requires_grad_()
    probabilities, log_p, log_q = toy.outcomes(theta, 1, fixed=True)
    value = 0.0
    for left, right in ((0.0, 0.1), (0.1, 1.0)):
        density = left * log_p[0] + (1 - left) * log_q[0]
        weights = probabilities * (density - log_q[0].detach()).exp()
        value = value + (right - left) * (weights * (log_p - log_q)[0]).sum() / weights.sum()
    (expected,) = torch.autograd.grad(value, theta)
    few, many = estimates(toy, "tvo", 2, 80_000), estimates(toy, "tvo", 200, 2000)
    assert scores(few, expected).max() > 8
    assert (many.mean(0) - expected).norm() < 0.2 * (few.mean(0) - expected).norm()


@pytest.mark.parametrize("spec", ["stl", "dreg", "gdreg", "piwae", "rws(doubly=True)", "tail_adaptive"])
@pytest.mark.parametrize("particles", [1, 4])
def test_at_the_exact_posterior_the_guide_does_not_move(spec, particles):
    """Draw by draw: the slope of log w in z is 0. IWAE's gradient is 0 in the mean only, and PIWAE's has the score."""
    if particles == 1 and spec in ("piwae", "tail_adaptive"):
        return
    toy = Linear()
    toy.theta = toy.theta.clone()
    mean, sd = true_posterior(toy)
    toy.theta[9], toy.theta[10] = mean - (toy.theta[7:9] * X).sum(), sd.log()
    plain = estimates(toy, "iwae", particles, 100)[:, 7:].abs()
    still = estimates(toy, spec, particles, 100)[:, 7:].abs()
    assert plain.mean() > 0.1
    assert still.max() > 0.1 if spec == "piwae" else still.max() < 1e-12


def test_tail_adaptive_takes_the_path_of_each_draw_by_its_rank():
    """The gradient of sum_k gamma_k log w(z_k(phi)), where the phi inside of log q stands still."""
    toy, seen = Linear(), []
    theta = toy.theta.expand(50, -1).clone().requires_grad_()

    def guide(theta):
        with pyro.plate("rows", len(theta), dim=-1):
            seen.append(pyro.sample("z", dist.Normal(*toy.posterior(theta))))

    make("tail_adaptive(beta=-0.7)", 5).loss_and_grads(toy.model, guide, theta)
    leaf = theta.detach().clone().requires_grad_()
    loc, sd = toy.posterior(leaf)
    noise = ((seen[0] - loc) / sd).detach()
    z = loc + sd * noise
    held = leaf.detach()
    log_w = Normal(*toy.prior(held)).log_prob(z) + toy.likelihood(held, z).log_prob(X)
    log_w = log_w - Normal(*toy.posterior(held)).log_prob(z)
    power = (log_w[None] >= log_w[:, None]).sum(1).double() ** -0.7
    (expected,) = torch.autograd.grad(-(power / power.sum(0) * log_w).sum(), leaf)
    assert torch.allclose(theta.grad[:, 7:], expected[:, 7:], rtol=1e-10)


# Scales, masks, chunks and more than one pass


CHUNKED = [
    "iwae", "dreg", "gdreg", "stl", "renyi", "miwae", "ciwae", "piwae", "tvo", "score_function", "vimco", "rws",
    "rws(doubly=True)", "tail_adaptive", "jackknife", "cubo",
]  # fmt: skip


def gradients(vae, loss, *args, model=None, guide=None, seed=0, **keywords):
    for p in vae.parameters():
        p.grad = None
    torch.manual_seed(seed)
    value = loss.loss_and_grads(model or vae.model, guide or vae.guide, *args, **keywords)
    return value, [torch.zeros_like(p) if p.grad is None else p.grad for p in vae.parameters()]


def alike(a, b, factor=1.0, rtol=1e-9):
    return all(torch.allclose(factor * g, h, rtol=rtol, atol=1e-11) for g, h in zip(a, b, strict=True))


@pytest.mark.parametrize("chunk", [1, 2, 3, 4])
@pytest.mark.parametrize("spec", CHUNKED)
def test_chunks_make_the_same_gradient(tiny, spec, chunk):
    """A Laplace's draws come of uniform ones, of which four of one size are those of one four times as large."""
    vae, x = tiny(posterior="laplace", prior="normal(learned=True)").double(), torch.randn(5, 3, dtype=torch.float64)
    value, whole = gradients(vae, make(spec, 4), x, size=20)
    got, parts = gradients(vae, make(spec, 4, chunk), x, size=20)
    state = torch.get_rng_state()
    assert got == pytest.approx(value, rel=1e-11)
    assert alike(whole, parts)
    torch.manual_seed(0)
    assert make(spec, 4, chunk).loss(vae.model, vae.guide, x, size=20) == pytest.approx(value, rel=1e-11)
    assert torch.equal(torch.get_rng_state(), state), "random numbers go on as after one pass"


def test_chunks_of_normal_draws_have_the_same_mean_gradient():
    toy = Linear()
    for spec in ("iwae", "dreg"):
        expected = gradient_of(toy, iwae, 3)
        for chunk in (1, 2):
            assert scores(estimates(toy, spec, 3, 20_000, chunk), expected).max() < 4


@pytest.mark.parametrize("spec", CHUNKED)
def test_a_gradient_is_scaled_and_masked_as_its_bound(tiny, spec):
    """A subsample's and a handler's factor multiply it; rows that are masked add nothing."""
    vae, x = tiny(prior="normal(learned=True)").double(), torch.randn(5, 3, dtype=torch.float64)
    loss, mask = make(spec, 4), torch.tensor([True, True, False, True, True])
    _, plain = gradients(vae, loss, x)
    assert alike(plain, gradients(vae, loss, x, size=35)[1], 7.0)
    scaled = {"model": poutine.scale(vae.model, 0.2), "guide": poutine.scale(vae.guide, 0.2)}
    assert alike(plain, gradients(vae, loss, x, size=35, **scaled)[1], 1.4)
    weighted = {key: poutine.scale(getattr(vae, key), mask.double() + 1e-300) for key in ("model", "guide")}
    masked = {key: poutine.mask(getattr(vae, key), mask) for key in ("model", "guide")}
    assert alike(gradients(vae, loss, x, **weighted)[1], gradients(vae, loss, x, **masked)[1])


@pytest.mark.parametrize("spec", CHUNKED)
def test_losses_that_wait_for_one_backward_pass_do_not_mix(tiny, spec):
    vae, x = tiny(prior="normal(learned=True)").double(), torch.randn(5, 3, dtype=torch.float64)
    loss = make(spec, 4)
    expected = [a + b for a, b in zip(*(gradients(vae, loss, x, seed=seed)[1] for seed in (0, 1)), strict=True)]
    waiting = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        waiting.append(loss.differentiable_loss(vae.model, vae.guide, x))
        torch.manual_seed(seed)
        assert waiting[-1].item() == pytest.approx(loss.loss(vae.model, vae.guide, x), rel=1e-11)
    for p in vae.parameters():
        p.grad = None
    sum(waiting).backward()
    assert alike(expected, [torch.zeros_like(p) if p.grad is None else p.grad for p in vae.parameters()])


def gradients_through(auto, spec, particles):
    """Of one of Pyro's own guides for z > 0, whose parameters have an element for each row: ``(rows, parameters)``."""

    def model():
        with pyro.plate("rows", 20_000, dim=-1):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(20_000, dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(z, 0.8), obs=X[0].expand(20_000))

    guide = auto(model, init_loc_fn=infer.autoguide.init_to_value(values={"z": double(0.9).expand(20_000)}))
    guide()
    loss = make(spec, particles).differentiable_loss(model, guide)
    return torch.stack(torch.autograd.grad(loss, list(guide.parameters())), -1)


@pytest.mark.parametrize("spec", ["dreg", "vimco"])
def test_paths_through_a_guide_that_pyro_makes(spec):
    """It draws a site of its own, and z as its image, a point with the density of the change of variables."""
    away = gradients_through(infer.autoguide.AutoNormal, spec, 2) - gradients_through(
        infer.autoguide.AutoNormal, "iwae", 2
    )
    assert scores(away, 0.0).max() < 4


def test_a_point_for_a_guide():
    """Sticking the landing on a guide of one point climbs log p(x, z), as the bound itself does."""
    got, expected = (gradients_through(infer.autoguide.AutoDelta, spec, 1) for spec in ("stl", "iwae"))
    assert torch.allclose(got, expected, rtol=1e-12)


def test_a_draw_of_no_weight_leaves_the_others_be():
    """Class 0 cannot have made x; the other draws still have a bound, a gradient and a baseline."""
    rates, logits = torch.tensor([0.0, 1.0, 2.0]), [torch.zeros(3, requires_grad=True) for _ in range(2)]

    def model():
        with pyro.plate("rows", 20, dim=-1):
            z = pyro.sample("z", dist.Categorical(logits=logits[0]))
            pyro.sample("x", dist.Poisson(rates[z]), obs=torch.ones(20))

    def guide():
        with pyro.plate("rows", 20, dim=-1):
            pyro.sample("z", dist.Categorical(logits=logits[1]))

    for spec in ("vimco", "rws"):
        torch.manual_seed(0)
        value = make(spec, 16).loss(model, guide)
        torch.manual_seed(0)
        loss = make(spec, 16).differentiable_loss(model, guide)
        assert math.isfinite(value) and loss.item() == pytest.approx(value)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, logits))


# Signal and noise


def signal_to_noise(spec, particles, repeats, off, size=20):
    """Mean over sd of the gradients of mu and b on the toy of Rainforth et al. (2018), https://arxiv.org/abs/1802.04537.

    p(z) = N(mu, I), p(x | z) = N(z, I), q(z | x) = N(x / 2 + b, 2/3 I) in 20 dimensions, with b ``off`` the optimum by
    more than 0.01 and for one row instead of the sum over 1024, which would take some 10^6 repeats to see: both change
    all ratios nearly alike and hardly a slope in K. As A is at its optimum, the gradient of b has the same mean in all
    dimensions.
    """
    x = math.sqrt(2) * torch.randn(size, generator=torch.Generator().manual_seed(0))
    mu = torch.zeros(repeats, size, requires_grad=True)
    b = torch.full((repeats, size), off, requires_grad=True)

    def model():
        with pyro.plate("rows", repeats, dim=-1):
            z = pyro.sample("z", dist.Normal(mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x.expand(repeats, size))

    def guide():
        with pyro.plate("rows", repeats, dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x + b, math.sqrt(2 / 3)).to_event(1))

    make(spec, particles).loss_and_grads(model, guide)
    return {
        "mu": (mu.grad.mean(0).abs() / mu.grad.std(0)).mean().item(),
        "b": (b.grad.mean().abs() / b.grad.std(0).mean()).item(),
    }


def slope(sizes, ratios):
    return np.polyfit(np.log(sizes), np.log(ratios), 1)[0]


@pytest.mark.parametrize(("spec", "of_b", "off"), [("iwae", -0.5, 0.2), ("dreg", 0.5, 0.05)])
def test_signal_to_noise_in_the_draws(spec, of_b, off):
    """Rises for the model with sqrt K; for the guide it falls with 1 / sqrt K, and with DReG it rises."""
    sizes = (16, 64, 256)
    found = [signal_to_noise(spec, k, 80_000 // k + 5000, off) for k in sizes]
    assert slope(sizes, [ratio["mu"] for ratio in found]) == pytest.approx(0.5, abs=0.1)
    assert slope(sizes, [ratio["b"] for ratio in found]) == pytest.approx(of_b, abs=0.1)


def test_signal_to_noise_in_the_groups():
    """Rises with the square root of their number, for the model and for the guide."""
    groups = (1, 4, 16)
    found = [signal_to_noise(f"miwae(groups={m})", 4 * m, 20_000 // m, 0.2) for m in groups]
    for name in ("mu", "b"):
        assert slope(groups, [ratio[name] for ratio in found]) == pytest.approx(0.5, abs=0.1)


# Noise of a distribution


class Power(torch.distributions.Distribution):
    """F(z) = z^a on the unit interval: a distribution that has a distribution function and no more."""

    has_rsample = False

    def __init__(self, a):
        self.a = a
        super().__init__(a.shape, validate_args=False)

    def cdf(self, z):
        return z**self.a

    def log_prob(self, z):
        return self.a.log() + (self.a - 1) * z.log()


a, b = double(0.4, -1.0), double(0.7, 1.8)
LOWER = torch.tensor([[1.2, 0.0], [-0.4, 0.8]], dtype=torch.float64)
DRAWN = {
    "normal": (D.Normal, (a, b)),
    "laplace": (D.Laplace, (a, b)),
    "gumbel": (D.Gumbel, (a, b)),
    "cauchy": (D.Cauchy, (a, b)),
    "student_t": (lambda loc, scale: D.StudentT(torch.full_like(loc, 4.0), loc, scale), (a, b)),
    "full rank": (lambda loc, lower: D.MultivariateNormal(loc, scale_tril=lower), (a, LOWER)),
    "log-normal": (D.LogNormal, (a, b)),
    "half-normal": (D.HalfNormal, (b,)),
    "weibull": (D.Weibull, (b, b + 1)),
    "squashed": (
        lambda loc, scale, at: D.TransformedDistribution(
            D.Normal(loc, scale), [D.AffineTransform(at, 2.0), D.SigmoidTransform()]
        ),
        (a, b, b),
    ),
    "logistic normal": (lambda loc, scale: D.LogisticNormal(loc, scale), (a, b)),
    "product": (lambda loc, scale: D.Independent(D.Laplace(loc, scale), 1), (a, b)),
    "product of products": (
        lambda loc, scale: dist.Normal(loc, scale).to_event(1).expand((3,)).to_event(1),
        (a, b),
    ),
    "exponential": (D.Exponential, (b,)),
    "uniform": (D.Uniform, (a, a + b)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_path_is_that_of_the_distribution_s_own_draws(name):
    """The same draw, and the same gradient as that of rsample, one parameter and one element at a time."""
    build, values = DRAWN[name]
    leaves = [value.clone().requires_grad_() for value in values]
    p = build(*leaves)
    z = p.rsample((5,))
    again = pathwise(p, z.detach())
    assert again.shape == z.shape and torch.allclose(again, z, rtol=1e-12)
    for _ in range(3):
        cotangent = torch.randn_like(z)
        expected = torch.autograd.grad(z, leaves, cotangent, retain_graph=True, allow_unused=True)
        got = torch.autograd.grad(again, leaves, cotangent, retain_graph=True, allow_unused=True)
        for g, h in zip(got, expected, strict=True):
            assert torch.allclose(g, h, rtol=1e-8, atol=1e-10)


def test_a_path_by_the_distribution_function_alone():
    """z = u^(1/a), of which the derivative by a at fixed u is -z log(z) / a."""
    power = b.clone().requires_grad_()
    z = double(0.2, 0.9)
    again = pathwise(Power(power), z)
    assert torch.equal(again, z)
    (got,) = torch.autograd.grad(again.sum(), power)
    assert torch.allclose(got, -z * z.log() / b, rtol=1e-12)
    nearby = [z ** (b / (b + h)) for h in (1e-6, -1e-6)]
    assert torch.allclose(got, (nearby[0] - nearby[1]) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "p",
    [
        dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)),
        dist.Dirichlet(torch.ones(3)),
        dist.StudentT(torch.ones(2, requires_grad=True)),
        dist.LowRankMultivariateNormal(torch.zeros(2), torch.ones(2, 1), torch.ones(2)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_a_path_that_is_not_known_is_refused(p):
    with pytest.raises(ValueError, match="expected a"):
        pathwise(p, p.sample())


@pytest.mark.parametrize("prior", ["normal(learned=True)", "laplace(learned=True)", "normal(learned=ard)"])
def test_the_prior_of_a_vae_takes_its_path(tiny, prior):
    """The mean of GDReG's gradient of the prior is DReG's."""
    vae, x, draws = tiny(prior=prior).double(), torch.randn(1, 3, dtype=torch.float64).expand(200, 3), {}
    for spec in ("dreg", "gdreg"):
        repeats = []
        for seed in range(50):
            _, grads = gradients(vae, make(spec, 4), x, seed=seed)
            names = [n for n, _ in vae.named_parameters()]
            repeats.append(torch.cat([g.flatten() for n, g in zip(names, grads, strict=True) if "prior" in n]))
        draws[spec] = torch.stack(repeats)
    assert draws["gdreg"].shape[1] >= 2
    assert (draws["gdreg"] - draws["dreg"]).abs().max() > 1e-6
    assert scores(draws["gdreg"] - draws["dreg"], 0.0).max() < 4


# In Pyro and in fit


NAMES = list(elbos.FAMILY)
DATA = torch.randn(12, 3, generator=torch.Generator().manual_seed(5))
quiet = pytest.mark.filterwarnings("ignore:.*TraceEnum_ELBO:UserWarning", "ignore:Found vars in model but not guide")


@quiet
@pytest.mark.parametrize("name", NAMES)
def test_bare_svi_trains(tiny, name):
    vae = tiny()
    before = [p.detach().clone() for p in vae.parameters()]
    loss = elbos.make(name, 4)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    assert all(math.isfinite(svi.step(DATA)) for _ in range(3))
    moved = {n: not torch.equal(p, q) for (n, p), q in zip(vae.named_parameters(), before, strict=True)}
    assert all(moves for n, moves in moved.items() if n.startswith("posterior"))
    still = name == "cubo"
    assert all(moves is not still for n, moves in moved.items() if n.startswith("likelihood"))


@quiet
@pytest.mark.parametrize("name", NAMES)
def test_fit_trains_by_name(tiny, name):
    vae = tiny()
    history = pyrovae.fit(vae, DATA, elbo=name, num_particles=4, epochs=2, batch_size=5, progress=False)
    assert np.isfinite(history[["elbo", "reconstruction", "kl"]].to_numpy()).all()
    assert history.attrs.get("best_epoch") in (1, 2, None)


@pytest.mark.parametrize("spec", [*CHUNKED, "rws(wake=0.5)"])
def test_an_estimator_is_called_as_a_module(tiny, spec):
    """As Pyro has it: ELBO()(model, guide) is a module that gives the loss and holds the parameters."""
    vae = tiny()
    module = make(spec, 4)(vae.model, vae.guide)
    torch.manual_seed(0)
    loss = module(DATA)
    torch.manual_seed(0)
    assert loss.item() == pytest.approx(make(spec, 4).loss(vae.model, vae.guide, DATA), rel=1e-5)
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in vae.parameters())


@pytest.mark.parametrize("particles", [2, 16])
def test_one_hot_latents_of_a_vae(tiny, particles):
    """ScoreFunction against the ELBO with all z summed, over all parameters of a VAE."""
    vae, x = tiny(latent_dim=4, prior="one_hot", posterior="categorical").double(), DATA[:2].double()
    q = vae.encode(x)
    z = torch.eye(4, dtype=torch.float64)[:, None].expand(4, 2, 4)
    log_w = vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)
    parameters = list(vae.parameters())
    exact = torch.autograd.grad(-(q.log_prob(z).exp() * log_w).sum(), parameters, allow_unused=True)
    exact = torch.cat(
        [torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(exact, parameters, strict=True)]
    )
    repeats = []
    for seed in range(300):
        grads = gradients(vae, make("score_function", particles), x.repeat(10, 1), seed=seed)[1]
        repeats.append(torch.cat([g.flatten() for g in grads]) / 10)
    live = exact.abs() > 1e-4
    assert live.sum() > 50
    assert scores(torch.stack(repeats)[:, live], exact[live]).max() < 4.5


@pytest.mark.parametrize("name", ["score_function", "vimco", "rws", "tvo"])
def test_discrete_latents_train(tiny, name):
    vae = tiny(latent_dim=4, prior="one_hot", posterior="categorical")
    judge, x = make("iwae", 16), DATA.repeat(20, 1)
    before = judge.loss(vae.model, vae.guide, x)
    pyrovae.fit(vae, DATA, elbo=name, num_particles=8, epochs=60, lr=0.03, progress=False)
    assert judge.loss(vae.model, vae.guide, x) < before - 10
