"""Conjugate and enumerable models, whose evidence is known: with the exact posterior every weight is log p(x)."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from scipy.special import betaln, gammaln, logsumexp
from scipy.stats import multivariate_normal
from torch import nn
from torch.distributions import constraints

import pyrovae
from pyrovae import VAE, elbos
from pyrovae.distributions import inverse_scale

DTYPES = [(torch.float64, 1e-11), (torch.float32, 2e-5)]


class Function(nn.Module):
    """A network that is a formula."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, inputs):
        return self.function(inputs)


def untouched(vae):
    """Heads that hand on what the networks say: to each element of x the same."""
    for part in (vae.likelihood, vae.posterior):
        weight = part.head.weight.data
        weight.copy_(torch.eye(*weight.shape) if part is vae.posterior else torch.ones_like(weight))
        part.head.bias.data.zero_()
    return vae


def holds(vae, x, evidence, tolerance):
    """Every estimator gives the evidence, with no variance."""
    x = x.to(vae.like)
    weights = elbos.terms(vae.model, vae.guide, x, num_particles=5).log_weights
    np.testing.assert_allclose(weights.detach().double(), np.broadcast_to(evidence, (5, len(x))), rtol=tolerance)
    value, error = pyrovae.log_marginal(vae, x, num_samples=50)
    np.testing.assert_allclose(value.double(), evidence, rtol=tolerance)
    assert error.max() < 100 * tolerance * np.abs(evidence).max()
    total = -Trace_ELBO(num_particles=2).loss(vae.model, vae.guide, x)
    assert total == pytest.approx(evidence.sum(), rel=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
def test_gamma_poisson(dtype, tolerance):
    a, b, n = 2.5, 0.75, 5  # exact in float32, in which a VAE is made
    x = dist.Poisson(3.0).sample((40, n))

    def encode(log1p):
        total = torch.expm1(log1p).sum(-1, keepdim=True)
        concentration = a + total
        floors = (vae.posterior.piece.mean_floor, vae.posterior.piece.floor)
        values = (concentration / (b + n), concentration)
        return torch.cat([inverse_scale(v, floor) for v, floor in zip(values, floors, strict=True)], -1)

    vae = VAE(
        (n,), 1, prior=f"gamma(concentration={a}, rate={b})", likelihood="poisson", posterior="gamma",
        encoder=nn.Linear(n, 2), decoder=Function(lambda z: z.log()),
    )  # fmt: skip
    vae.posterior.network = Function(encode)
    total = x.double().sum(-1).numpy()
    evidence = gammaln(a + total) - gammaln(a) + a * np.log(b) - (a + total) * np.log(b + n)
    evidence = evidence - gammaln(x.double().numpy() + 1).sum(-1)
    # Ten times the tolerance: the counts have gone through log(1 + x) and back.
    holds(untouched(vae).to(dtype), x, evidence, 10 * tolerance)
    # A guide that is not the posterior gives less, by its KL to it.
    vae.posterior.network = Function(lambda x: encode(x) + 0.5)
    assert -Trace_ELBO(num_particles=50).loss(vae.model, vae.guide, x.to(dtype)) < evidence.sum() - 1


class BetaPosterior(pyrovae.Piece):
    support = constraints.unit_interval
    numbers = 2

    def forward(self, params):
        return dist.Beta(*self.split(params.abs())).to_event(1)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
def test_beta_bernoulli(dtype, tolerance):
    a, b, n = 1.5, 0.75, 7
    x = dist.Bernoulli(0.3).sample((40, n))

    def encode(x):
        ones = x.sum(-1, keepdim=True)
        return torch.cat([a + ones, b + n - ones], -1)

    vae = VAE(
        (n,), 1, prior=dist.Beta(torch.tensor([a]), torch.tensor([b])).to_event(1), posterior=BetaPosterior(),
        encoder=nn.Linear(n, 2), decoder=Function(torch.logit),
    )  # fmt: skip
    vae.posterior.network = Function(encode)
    ones = x.double().sum(-1).numpy()
    holds(untouched(vae).to(dtype), x, betaln(a + ones, b + n - ones) - betaln(a, b), tolerance)


@pytest.fixture
def mixture():
    """A mixture of 4 Gaussians as a VAE with a one-hot z, rows of it, their evidence and their responsibilities."""
    classes, d, scale = 4, 3, 0.6
    generator = torch.Generator().manual_seed(5)
    means, x = (torch.randn(size, d, generator=generator, dtype=torch.float64) for size in (classes, 30))
    vae = VAE(
        (d,), classes, prior="one_hot(learned=True)", posterior="categorical", likelihood=f"gaussian(scale={scale})",
        encoder=nn.Linear(d, classes), decoder=nn.Identity(),
    ).double()  # fmt: skip
    for p in vae.prior.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    vae.likelihood.head.weight.data.copy_(means.T)
    vae.likelihood.head.bias.data.zero_()
    weights = vae.prior(None).log_prob(torch.eye(classes, dtype=torch.float64)).detach().numpy()
    assert logsumexp(weights) == pytest.approx(0, abs=1e-12)
    joint = np.stack(
        [w + multivariate_normal.logpdf(x, m, scale**2) for w, m in zip(weights, means.numpy(), strict=True)], -1
    )
    vae.posterior.head.weight.data.copy_(torch.eye(classes))
    vae.posterior.network = Function(lambda rows: torch.as_tensor(joint, dtype=rows.dtype))
    return vae, x, joint


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
def test_an_enumerated_mixture(mixture, dtype, tolerance):
    vae, x, joint = mixture
    evidence = logsumexp(joint, -1)
    holds(vae.to(dtype), x, evidence, tolerance)
    exact = -TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, config_enumerate(vae.guide), x.to(dtype))
    assert exact == pytest.approx(evidence.sum(), rel=tolerance)


def test_a_sum_over_classes_is_the_elbo_of_any_guide(mixture):
    """TraceEnum_ELBO, its split in `elbos.Split` and the closed-form KL against the sums written out."""
    vae, x, joint = mixture
    vae.posterior.network = nn.Linear(3, 4).double()
    log_q = vae.posterior.network(x).log_softmax(-1).detach().numpy()
    q = np.exp(log_q)
    prior = vae.prior(None).log_prob(torch.eye(4, dtype=torch.float64)).detach().numpy()
    kl, reconstruction = (q * (log_q - prior)).sum(-1), (q * (joint - prior)).sum(-1)
    split = elbos.Split(vae.model, config_enumerate(vae.guide))
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(split.model, split.guide, x)
    terms = split.take()
    assert -loss == pytest.approx((reconstruction - kl).sum(), rel=1e-12)
    np.testing.assert_allclose(terms.kl, kl, rtol=1e-12)
    np.testing.assert_allclose(terms.reconstruction, reconstruction, rtol=1e-12)
    closed = torch.distributions.kl_divergence(vae.encode(x), vae.prior(None).expand((30,)))
    np.testing.assert_allclose(closed.detach(), kl, rtol=1e-12)


def test_fit_sums_over_classes(mixture):
    """With enum_elbo the history holds the exact ELBO, and maximising it finds the evidence's maximum."""
    vae, x, _ = mixture
    vae.posterior.network = nn.Linear(3, 4).double()
    history = pyrovae.fit(vae, x, elbo="enum_elbo", epochs=3, batch_size=30, lr=1e-9, progress=False)
    expected = -TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, config_enumerate(vae.guide), x) / len(x)
    np.testing.assert_allclose(history["elbo"], expected, rtol=1e-6)
    np.testing.assert_allclose(history["objective"], history["elbo"], rtol=1e-9)
    guide = config_enumerate(vae.guide)
    svi = SVI(vae.model, guide, pyro.optim.Adam({"lr": 0.05}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(x) for _ in range(200)]
    assert losses[-1] < losses[0] - 20
