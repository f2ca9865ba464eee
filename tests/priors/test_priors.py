import math

import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyrovae import VAE, priors
from pyrovae.distributions import centre
from pyrovae.posteriors import Normal as NormalPosterior

Z = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_default_is_the_standard_normal(tiny):
    vae = tiny().double()
    expected = stats.norm.logpdf(Z.numpy()).sum(-1)
    assert vae.prior().log_prob(Z).tolist() == pytest.approx(expected.tolist(), rel=1e-14)
    assert not list(vae.prior.parameters())


def test_learned_starts_at_the_standard_normal_and_has_a_floor(tiny):
    vae = tiny(prior=priors.Normal(learned=True, floor=0.25))
    assert {name for name, _ in vae.prior.named_parameters()} == {"piece.loc", "piece.raw_scale"}
    piece = vae.double().prior.piece
    assert vae.prior().log_prob(Z).tolist() == pytest.approx(stats.norm.logpdf(Z.numpy()).sum(-1).tolist(), rel=1e-6)
    with torch.no_grad():
        piece.loc.copy_(torch.tensor([1.0, -2.0]))
        piece.raw_scale.copy_(torch.tensor([0.5, -1e4]))
    scale = [0.25 + math.log1p(math.exp(0.5)), 0.25]
    expected = stats.norm.logpdf(Z.numpy(), [1.0, -2.0], scale).sum(-1)
    assert vae.prior().log_prob(Z).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


DISTRIBUTIONS = {
    "Laplace": lambda: dist.Laplace(0.0, 1.0).expand([2]).to_event(1),
    "Normal": lambda: dist.Normal(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])).to_event(1),
    "StudentT": lambda: dist.StudentT(4.0, torch.zeros(2), 1.0).to_event(1),
    "covariance": lambda: dist.MultivariateNormal(torch.ones(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
    "precision": lambda: dist.MultivariateNormal(torch.ones(2), precision_matrix=2 * torch.eye(2)),
    "low rank": lambda: dist.LowRankMultivariateNormal(torch.zeros(2), torch.ones(2, 1), torch.ones(2)),
    "mixture": lambda: dist.MixtureOfDiagNormals(torch.randn(3, 2), torch.ones(3, 2), torch.zeros(3)),
    "masked": lambda: dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False])).to_event(1),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_any_pyro_distribution(tiny, name):
    """Its own log-density, in the plate and over particles; and it follows the model to float64, not in place."""
    torch.manual_seed(0)
    given = DISTRIBUTIONS[name]()
    torch.manual_seed(0)
    untouched = DISTRIBUTIONS[name]()
    vae = tiny(prior=given)
    expected = untouched.log_prob(Z.float())
    assert torch.equal(vae.prior().log_prob(Z.float()), expected)
    assert not list(vae.prior.parameters()) and not vae.prior.state_dict()

    single = tiny(prior=untouched)
    vae = single.double()
    log_prob = vae.prior().log_prob(Z)
    assert log_prob.dtype == torch.float64 and vae.prior().sample().dtype == torch.float64
    assert torch.allclose(log_prob.float(), expected, rtol=1e-5, atol=1e-6)
    assert given.log_prob(Z.float()).dtype == torch.float32, "the user's distribution was changed"
    assert vae.sample(4).shape == (4, 3)
    assert vae.float().prior().log_prob(Z.float()).dtype == torch.float32


def test_a_fixed_priors_tensors_are_not_trained(tiny):
    loc = torch.zeros(2, requires_grad=True)
    vae = tiny(prior=dist.Normal(loc, 1.0).to_event(1))
    vae.to(torch.float32)
    assert not vae.prior().base_dist.loc.requires_grad


@pytest.mark.parametrize(
    ("prior", "text"),
    [
        (lambda: dist.Normal(0.0, 1.0), r"got event shape \(\) and batch shape \(\).*expand\(\[2\]\)\.to_event\(1\)"),
        (lambda: dist.Normal(torch.zeros(2), 1.0), r"expected a distribution of event shape \(2,\) and no batch shape"),
        (lambda: dist.Normal(torch.zeros(3), 1.0).to_event(1), r"got event shape \(3,\)"),
        (lambda: dist.Normal(torch.zeros(4, 2), 1.0).to_event(1), r"event shape \(2,\) and batch shape \(4,\)"),
        (
            lambda: torch.distributions.Normal(0.0, 1.0),
            r"expected a Pyro distribution, got torch\.distributions\.normal",
        ),
        (
            lambda: torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1),
            r"expected a Pyro distribution, got torch\.distributions\.independent\.Independent",
        ),
    ],
)
def test_distributions_that_do_not_fit(prior, text):
    with pytest.raises(ValueError, match=text):
        VAE((3,), 2, prior=prior())


class LogNormal(NormalPosterior):
    def forward(self, params):
        base = super().forward(params).base_dist
        return dist.LogNormal(base.loc, base.scale).to_event(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "prior",
    [
        lambda: dist.Gamma(2.0, torch.ones(2)).to_event(1),
        lambda: dist.Beta(2.0, torch.ones(2)).to_event(1),
        lambda: dist.Uniform(torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 7.0])).to_event(1),
        lambda: dist.Dirichlet(torch.tensor([0.5, 2.0])),
    ],
)
def test_a_posterior_over_real_vectors_is_carried_to_the_priors_support(prior, dtype):
    vae = VAE((3,), 2, likelihood="gaussian", prior=prior()).to(dtype)
    x = torch.randn(4, 3, dtype=dtype)
    q = vae.encode(x)
    z = q.sample((1000,))
    assert z.dtype == dtype and q.support.check(z).all() and prior().support.check(z).all()
    # The Jacobian is there: q integrates to 1, by importance sampling from the prior.
    torch.manual_seed(0)
    u = vae.prior(None).sample((100_000, 1))
    ratio = torch.exp(q.log_prob(u) - vae.prior(None).log_prob(u))
    error = ratio.std(0) / len(ratio) ** 0.5
    assert ((ratio.mean(0) - 1).abs() < 5 * error + 1e-3).all() and (error < 0.1).all()
    assert prior().support.check(centre(q)).all()


def test_a_prior_on_another_support_than_the_posterior():
    message = r"the prior \(Fixed\) lives on Boolean\(\) and the posterior \(Normal\) on Real\(\): expected one support"
    with pytest.raises(ValueError, match=message):
        VAE((3,), 2, prior=dist.Bernoulli(torch.ones(2) / 2).to_event(1))


def test_a_prior_on_the_support_of_the_users_posterior(tiny):
    prior = dist.LogNormal(torch.zeros(2), 1.0).to_event(1)
    vae = tiny(prior=prior, posterior=LogNormal())
    assert (vae.guide(torch.zeros(5, 3)) > 0).all()
    with pytest.raises(ValueError, match=r"the prior \(Normal\) lives on Real\(\) and the posterior \(LogNormal\) on"):
        tiny(posterior=LogNormal())


def test_make():
    assert isinstance(priors.make("normal"), priors.Normal)
    assert priors.make("normal(learned=True, floor=0.1)").floor == 0.1
    fixed = priors.make(dist.Normal(torch.zeros(2), 1.0).to_event(1))
    assert isinstance(fixed, priors.Fixed) and priors.make(fixed) is fixed
