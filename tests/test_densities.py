"""Every density of the board against what any density must be: it integrates to 1, and its draws are distributed so.

Integrals are by importance sampling from a proposal written here with numpy and scipy, which knows nothing of the
piece; the closed form of every KL is held against its Monte Carlo estimate. The last tests plant mistakes in each.
"""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.distributions import kl_divergence

from pyrovae import likelihoods, registry

from swaps import LIKELIHOODS, POSTERIORS, PRIORS, build, fits, name, piece  # isort: skip

DRAWS = 40_000
pytestmark = pytest.mark.filterwarnings("ignore:a relaxed Bernoulli is no density")


def proposal(kind, size, near=None, draws=DRAWS):
    """Values ``(draws, size)`` over the whole of a support, and the logarithm of their density.

    Heavy-tailed, and where ``near`` is given about as wide as those; what it integrates does not depend on that.
    """
    rng = np.random.default_rng(1)
    if near is not None and kind in TO_REALS:
        there, back = TO_REALS[kind]
        near = there(np.asarray(near, dtype=float))
        shape = np.atleast_2d(1.5 * np.cov(near.T)) + 1e-6 * np.eye(near.shape[1])
        law = stats.multivariate_t(near.mean(0), shape, df=3)
        v = law.rvs(size=draws, random_state=rng).reshape(draws, -1)
        x, log_jacobian = back(v)
        return x, law.logpdf(v) - log_jacobian
    if kind == "sphere":
        v = rng.normal(size=(draws, size))
        area = math.log(2) + size / 2 * math.log(math.pi) - math.lgamma(size / 2)
        return v / np.linalg.norm(v, axis=1, keepdims=True), np.full(draws, -area)
    if kind in ("one hot", "pairs"):
        blocks = [np.eye(size)] if kind == "one hot" else [np.eye(2)] * (size // 2)
        values = np.array([np.concatenate(rows) for rows in itertools.product(*blocks)])
        return values, np.full(len(values), -math.log(len(values)))
    if kind == "pixels":
        return np.arange(256.0)[:, None] / 255, np.full(256, -math.log(256))
    law = {
        "real": stats.t(2, scale=1.5),
        "positive": stats.lognorm(1.5),
        "binary": stats.randint(0, 2),
        "classes": stats.randint(0, 3),
        "counts": stats.nbinom(1, 0.15),
    }[kind]
    v = law.rvs(size=(draws, size), random_state=rng)
    log_q = (law.logpmf if hasattr(law.dist, "pmf") else law.logpdf)(v).sum(-1)
    return v.astype(float), log_q


def _exponential(v):
    v = np.clip(v, -300, 300)
    return np.exp(v), v.sum(-1)


def _sigmoid(v):
    v = np.clip(v, -30, 30)
    return special.expit(v), (special.log_expit(v) + special.log_expit(-v)).sum(-1)


def _log_ratios(x, parts):
    """Of each block of a simplex: the logarithms of all parts but the last over the last."""
    logs = np.log(np.clip(x, 1e-30, None)).reshape(len(x), -1, parts)
    return (logs[..., :-1] - logs[..., -1:]).reshape(len(x), -1)


def _simplex(v, parts):
    """Back from log-ratios; |dx / dv| is the product of all parts (Aitchison & Shen 1980)."""
    v = np.clip(v.reshape(len(v), -1, parts - 1), -60, 60)
    x = special.log_softmax(np.concatenate([v, np.zeros_like(v[..., :1])], -1), -1)
    return np.exp(x).reshape(len(v), -1), x.sum((1, 2))


TO_REALS = {
    "real": (lambda x: x, lambda v: (v, 0.0)),
    "positive": (np.log, _exponential),
    "unit": (special.logit, _sigmoid),
    **{
        kind: (functools.partial(_log_ratios, parts=parts), functools.partial(_simplex, parts=parts))
        for kind, parts in {"simplex": 4, "relaxed pairs": 2}.items()
    },
}
"""There; and back, with log |dx / dv|."""


def check_density(log_prob, values, log_q, draws):
    """Raises AssertionError unless exp(log_prob) integrates to 1 and has the moments of the draws."""
    with torch.no_grad():
        log_p = log_prob(torch.as_tensor(values)).numpy()
    weights = np.exp(np.clip(log_p - log_q, -300, 300))
    assert not np.isnan(log_p).any() and (log_p < np.inf).all()
    # A support of which every value is there once has no sampling error.
    listed = len(weights) < DRAWS
    error = 0.0 if listed else weights.std() / math.sqrt(len(weights))
    assert error < 0.03, f"the proposal says nothing: {error}"
    assert abs(weights.mean() - 1) < 5 * error + 1e-6, f"integral {weights.mean():.4f} +- {error:.4f}"
    draws = draws.detach().numpy().astype(float)
    for f in (np.tanh, lambda v: np.tanh(v) ** 2):
        ours, theirs = f(draws), weights[:, None] * f(values)
        noise = np.sqrt(ours.var(0) / len(ours) + (0 if listed else theirs.var(0) / len(theirs)))
        assert (np.abs(ours.mean(0) - theirs.mean(0)) < 5 * noise + 1e-6).all(), "draws are not of this density"


def prior_density(spec):
    """A trained-like prior: its log-density, its draws and the kind of its support."""
    posterior = next(q for q in POSTERIORS if fits(spec, q))
    vae, (_, condition) = scrambled(spec, posterior)
    kind = POSTERIORS[posterior] if spec.startswith("vamp") else PRIORS[spec]
    one = None if condition is None else condition[:1]
    with torch.no_grad():
        d = vae.eval().prior(one, one)
        draws = d.sample((DRAWS,)).reshape(DRAWS, -1)
    return d.log_prob if one is None else lambda v: d.log_prob(v[:, None])[:, 0], draws, kind


def posterior_density(spec, prior=None):
    kind = PRIORS[prior] if prior else POSTERIORS[spec]
    prior = prior or next(p for p in PRIORS if fits(p, spec))
    vae, (x, condition) = scrambled(prior, spec)
    with torch.no_grad():
        d = vae.eval().encode(x[:1], None if condition is None else condition[:1])
        draws = d.sample((DRAWS,))[:, 0]
    return lambda v: d.log_prob(v[:, None])[:, 0], draws, kind


def scrambled(prior, posterior):
    """A VAE whose parts are not as they were made."""
    vae, data = build(prior, posterior, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in (vae.prior, vae.posterior):
            for p in part.parameters():
                p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return vae, data


def likelihood_density(spec):
    """A likelihood of as few elements as it can have, at numbers near those that suit some data."""
    made = registry.make(piece(spec), likelihoods.FAMILY, "likelihood")
    size, kind = {"table": 4, "counts": 2}.get(LIKELIHOODS[spec], 1), LIKELIHOODS[spec]
    kind = "binary" if name(spec) == "bernoulli" else kind
    numbers = made.build((size,))
    made.double().eval()
    torch.manual_seed(4)
    params = 0.5 * torch.randn(numbers, dtype=torch.float64)
    if kind == "counts":
        params = params + 1
    d = made(params)
    with torch.no_grad():
        draws = d.sample((DRAWS,)).double()
    return d.log_prob, draws, kind, size


def composition_density(spec):
    """Counts of given total: their whole support is listed, so that the sum is exact."""
    made = registry.make({"name": name(spec), "total_count": 5}, likelihoods.FAMILY, "likelihood")
    numbers = made.build((3,))
    made.double().eval()
    torch.manual_seed(4)
    d = made(torch.randn(numbers, dtype=torch.float64))
    values = np.array([v for v in itertools.product(range(6), repeat=3) if sum(v) == 5], dtype=float)
    return d.log_prob, d.sample((DRAWS,)).double(), values, np.full(len(values), -math.log(len(values)))


COMPOSITIONS = ["multinomial", "dirichlet_multinomial"]
ELEMENTWISE = [spec for spec in LIKELIHOODS if name(spec) not in COMPOSITIONS]


def table_proposal():
    parts = [proposal(kind, 1) for kind in ("real", "positive", "counts", "classes")]
    rng = np.random.default_rng(2)
    orders = [rng.permutation(DRAWS) for _ in parts]
    values = np.concatenate([v[order] for (v, _), order in zip(parts, orders, strict=True)], 1)
    return values, sum(log_q[order] for (_, log_q), order in zip(parts, orders, strict=True))


def case(family, spec):
    """The arguments of `check_density` for a piece."""
    if family == "likelihood" and spec in COMPOSITIONS:
        log_prob, draws, values, log_q = composition_density(spec)
    elif family == "likelihood":
        log_prob, draws, kind, size = likelihood_density(spec)
        values, log_q = table_proposal() if kind == "table" else proposal(kind, size, draws)
    else:
        log_prob, draws, kind = (prior_density if family == "prior" else posterior_density)(spec)
        values, log_q = proposal(kind, draws.shape[-1], draws)
    return log_prob, values, log_q, draws


CASES = [
    *(("prior", spec) for spec in PRIORS),
    *(("posterior", spec) for spec in POSTERIORS if spec != "delta"),
    *(("likelihood", spec) for spec in [*ELEMENTWISE, *COMPOSITIONS]),
]


@pytest.mark.parametrize(("family", "spec"), CASES, ids=lambda part: name(part) if part[0] == "{" else part)
def test_density(family, spec):
    """And with a mistake planted in it, the same check fails."""
    log_prob, values, log_q, draws = case(family, spec)
    check_density(log_prob, values, log_q, draws)
    mistakes = {
        "a constant": lambda v: log_prob(v) + 0.3,
        "another constant": lambda v: log_prob(v) - 0.3,
        "a sign": lambda v: -log_prob(v),
        "a temperature": lambda v: 1.5 * log_prob(v),
    }
    with torch.no_grad():
        everywhere_one = log_prob(torch.as_tensor(values)).abs().max() < 1e-9
    for mistake, wrong in mistakes.items():
        # A density of 1 everywhere is that with any sign or temperature.
        if everywhere_one and "constant" not in mistake:
            continue
        with pytest.raises(AssertionError):
            check_density(wrong, values, log_q, draws)
            pytest.fail(f"{mistake} in {spec} was not noticed", pytrace=False)


@pytest.mark.parametrize("posterior", ["normal", "laplace", "iaf(transforms=2, hidden=[8])"])
@pytest.mark.parametrize("prior", [prior for prior, kind in PRIORS.items() if kind in ("positive", "unit", "simplex")])
def test_carried_posteriors(prior, posterior):
    """A real posterior on the support of another kind has its Jacobian."""
    log_prob, draws, kind = posterior_density(posterior, prior)
    check_density(log_prob, *proposal(kind, draws.shape[-1], draws), draws)


NORMALS = {"normal", "full_rank", "low_rank", "refined(steps=1)"}
HEAVY = {"student_t", "laplace"}
NORMAL_PRIORS = ("normal", "normal(learned=True)", "normal(learned=ard)", "conditional", "gp(inducing=3)")
# The KL of a point is that of its log-density under the prior, whatever that is.
CLOSED = {prior: {"delta"} for prior, kind in PRIORS.items() if kind == "real"}
CLOSED |= {prior: NORMALS | HEAVY | {"delta"} for prior in NORMAL_PRIORS}
CLOSED |= {
    "laplace": NORMALS | {"laplace", "delta"},
    "any Pyro distribution": NORMALS | {"delta"},
    "gp": {"normal", "delta"},
    "hyperspherical": {"power_spherical"},
    "logistic_normal": NORMALS | HEAVY | {"dirichlet"},
    "dirichlet": {"dirichlet"},
    "gamma": NORMALS | {"gamma"},
    "categorical(classes=2)": {"categorical(classes=2)"},
    "one_hot": {"categorical"},
}
"""Posteriors whose KL to a prior has a closed form."""


def check_kl(closed, q, p):
    with torch.no_grad():
        z = q.sample((20_000,))
        samples = q.log_prob(z) - p.log_prob(z)
    error = samples.std(0) / math.sqrt(len(samples))
    # Some rows' log-ratios have tails too heavy for Monte Carlo (exp of a wide normal).
    sure = error < 0.1
    assert sure.sum() >= 2
    assert ((closed - samples.mean(0)).abs() < 5 * error + 1e-9)[sure].all(), (closed - samples.mean(0)) / error


@pytest.mark.parametrize("prior", PRIORS)
def test_kl(prior):
    """Every closed form equals its Monte Carlo estimate; with a mistake planted in it, it does not."""
    closed = set()
    for posterior in (q for q in POSTERIORS if fits(prior, q)):
        vae, (x, condition) = scrambled(prior, posterior)
        vae.eval()
        q, p = vae.encode(x, condition), vae.prior(condition, condition).expand((len(x),))
        try:
            kl = kl_divergence(q, p).detach()
        except NotImplementedError:
            continue
        closed.add(posterior)
        assert kl.shape == (len(x),) and (kl > 0).all()
        check_kl(kl, q, p)
        for wrong in (kl + 0.5, kl - 0.5, -kl):
            with pytest.raises(AssertionError):
                check_kl(wrong, q, p)
    assert closed == CLOSED.get(prior, set())
