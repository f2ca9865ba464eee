import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyrovae.distributions import (
    Categoricals,
    HypersphericalUniform,
    LogisticNormal,
    PowerSpherical,
    Uniform,
    bijection,
)

DRAWS = 40_000
SIZE = 3


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LOC, SCALE = numbers(2, SIZE), 0.5 + numbers(2, SIZE, seed=1).abs()
FACTOR = torch.tril(numbers(2, SIZE, SIZE, seed=2), -1) + torch.diag_embed(SCALE)


def normal(loc=LOC, scale=SCALE):
    return dist.Normal(loc, scale).to_event(1)


def full():
    return dist.MultivariateNormal(LOC, scale_tril=FACTOR)


def low():
    return dist.LowRankMultivariateNormal(LOC, numbers(2, SIZE, 1, seed=3), SCALE.square())


def carried(base, support):
    """As the VAE carries a posterior over real vectors to the support of a prior."""
    return dist.TransformedDistribution(base, [bijection(support).with_cache(1)])


POSITIVE, SIMPLEX = torch.distributions.constraints.positive, torch.distributions.constraints.simplex
PRIOR_LOC, PRIOR_SCALE = numbers(SIZE, seed=4), 0.7 + numbers(SIZE, seed=5).abs()
ALPHA = SCALE.new_tensor([[0.5, 1.0, 3.0, 0.8], [4.0, 2.0, 0.9, 7.0]])
GAMMA = dist.Gamma(0.8 + PRIOR_SCALE, 2 * PRIOR_SCALE).to_event(1)
NORMAL, LAPLACE = normal(PRIOR_LOC, PRIOR_SCALE), dist.Laplace(PRIOR_LOC, PRIOR_SCALE).to_event(1)
LOGISTIC = LogisticNormal(PRIOR_LOC, PRIOR_SCALE)
BOX = Uniform(PRIOR_LOC, PRIOR_LOC + 1)
DIRECTION = torch.nn.functional.normalize(LOC, dim=-1)

# Every pair of a posterior and a prior that has a closed form, those of torch and Pyro among them.
PAIRS = {
    "normal normal": (normal(), NORMAL),
    "normal laplace": (normal(), LAPLACE),
    "normal full": (normal(), dist.MultivariateNormal(PRIOR_LOC, scale_tril=FACTOR[0])),
    "laplace laplace": (dist.Laplace(LOC, SCALE).to_event(1), LAPLACE),
    "laplace normal": (dist.Laplace(LOC, SCALE).to_event(1), NORMAL),
    "student_t normal": (dist.StudentT(SCALE.new_tensor(6.0), LOC, SCALE).to_event(1), NORMAL),
    "full_rank normal": (full(), NORMAL),
    "full_rank laplace": (full(), LAPLACE),
    "low_rank normal": (low(), NORMAL),
    "low_rank laplace": (low(), LAPLACE),
    "gamma gamma": (dist.Gamma(SCALE, SCALE).to_event(1), GAMMA),
    "normal gamma": (carried(normal(scale=SCALE / 2), POSITIVE), GAMMA),
    "full_rank gamma": (carried(full(), POSITIVE), dist.Gamma(PRIOR_SCALE, PRIOR_SCALE / 9).to_event(1)),
    "dirichlet dirichlet": (dist.Dirichlet(ALPHA), dist.Dirichlet(ALPHA[1] / 3)),
    "dirichlet logistic_normal": (dist.Dirichlet(ALPHA), LOGISTIC),
    "normal logistic_normal": (carried(normal(), SIMPLEX), LOGISTIC),
    "full_rank logistic_normal": (carried(full(), SIMPLEX), LOGISTIC),
    "laplace logistic_normal": (carried(dist.Laplace(LOC, SCALE).to_event(1), SIMPLEX), LOGISTIC),
    "categorical categorical": (Categoricals(numbers(2, 2, 3)), Categoricals(numbers(2, 3, seed=1))),
    "power_spherical hyperspherical": (PowerSpherical(DIRECTION, SCALE[:, 0]), HypersphericalUniform(SIZE, LOC)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_closed_forms_are_means_over_draws(name):
    q, p = PAIRS[name]
    p = p.expand((2,))
    kl = kl_divergence(q, p)
    assert kl.shape == (2,) and kl.dtype == torch.float64 and (kl > 0).all()
    torch.manual_seed(0)
    z = q.sample((DRAWS,))
    differences = q.log_prob(z) - p.log_prob(z)
    error = (differences.mean(0) - kl) / (differences.std(0) / DRAWS**0.5)
    assert error.abs().max() < 4
    assert (differences.std(0) / DRAWS**0.5 < 0.05 * (1 + kl)).all(), "too few draws to tell"


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (full(), full()),
        (low(), low()),
        (full(), NORMAL.base_dist.expand([SIZE]).to_event(1)),
        (dist.LowRankMultivariateNormal(PRIOR_LOC, numbers(SIZE, 1), PRIOR_SCALE**2), NORMAL),
        (carried(normal(), SIMPLEX), LogisticNormal(LOC, SCALE)),
    ],
)
def test_kl_against_the_formula_of_two_normals(q, p):
    """1/2 (tr S1^-1 S0 + d' S1^-1 d - D + log |S1| / |S0|), by matrices."""

    def moments(d):
        d = getattr(d, "base_dist", d) if hasattr(d, "transforms") else d
        covariance = getattr(d, "covariance_matrix", None)
        return d.mean, torch.diag_embed(d.variance) if covariance is None else covariance

    (m0, s0), (m1, s1) = moments(q), moments(p)
    precision = torch.linalg.inv(s1)
    trace = (precision * s0).sum((-2, -1))
    square = torch.einsum("...i,...ij,...j->...", m1 - m0, precision, m1 - m0)
    expected = 0.5 * (trace + square - SIZE + torch.logdet(s1) - torch.logdet(s0))
    assert torch.allclose(kl_divergence(q, p), expected, rtol=1e-9, atol=1e-12)


def test_a_student_t_without_variance_is_infinitely_far_from_a_normal():
    for df in (0.5, 1.5, 2.0):
        assert kl_divergence(dist.StudentT(df), dist.Normal(0.0, 1.0)) == torch.inf


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (carried(normal(), POSITIVE), dist.Weibull(PRIOR_SCALE, PRIOR_SCALE).to_event(1)),
        (carried(dist.Laplace(LOC, SCALE).to_event(1), POSITIVE), GAMMA),
        (carried(normal(), torch.distributions.constraints.unit_interval), GAMMA),
        (carried(normal(), torch.distributions.constraints.greater_than(1.0)), GAMMA),
        (carried(normal(), BOX.support), BOX.to_event(1)),
        (full(), dist.StudentT(3.0, PRIOR_LOC, PRIOR_SCALE).to_event(1)),
        (full(), dist.Normal(LOC, SCALE).to_event(2)),
        (carried(normal(), POSITIVE), LOGISTIC),
    ],
)
def test_pairs_without_a_closed_form_say_so(q, p):
    """So that TraceMeanField_ELBO takes draws."""
    with pytest.raises(NotImplementedError):
        kl_divergence(q, p)
