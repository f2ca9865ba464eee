"""Mixtures against scipy, against torch's own, and expanded."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from torch.distributions import biject_to

from pyrovae.distributions import Mixture

K, D = 5, 3


def parts(dtype=torch.float64, spread=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(0)
    loc = (shift + torch.randn(K, D, generator=generator, dtype=torch.float64)).to(dtype)
    scale = (spread * torch.rand(K, D, generator=generator, dtype=torch.float64) + 0.1 * spread).to(dtype)
    logits = torch.randn(K, generator=generator, dtype=torch.float64).to(dtype)
    return logits, loc, scale


def mixture(kind, logits, loc, scale):
    return kind(dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1))


def exact(z, logits, loc, scale):
    logits, loc, scale = (part.double().numpy() for part in (logits, loc, scale))
    terms = stats.norm.logpdf(z.double().numpy()[..., None, :], loc, scale).sum(-1)
    return special.logsumexp(terms + special.log_softmax(logits), -1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("shape", [(), (7,), (4, 7)])
def test_log_prob(shape, dtype, tolerance):
    given = parts(dtype)
    z = torch.randn(*shape, D, dtype=dtype)
    ours = mixture(Mixture, *given)
    for p in (ours, ours.expand(shape)):
        assert p.log_prob(z).dtype == dtype and p.log_prob(z).shape == shape
        np.testing.assert_allclose(p.log_prob(z), exact(z, *given), rtol=tolerance, atol=tolerance)


def test_narrow_components_far_from_zero_in_float32():
    """Where the squares cancel most: 100 standard deviations of 0.01 away, to the precision of the numbers given."""
    given = parts(torch.float32, spread=1e-2, shift=100.0)
    z = given[1][[0, 3]] + torch.tensor([[0.01, -0.02, 0.0], [0.0, 0.01, 0.03]])
    np.testing.assert_allclose(mixture(Mixture, *given).log_prob(z), exact(z, *given), rtol=1e-5)


def test_gradients_are_those_of_torch():
    gradients = []
    for kind in (Mixture, dist.MixtureSameFamily):
        given = [part.requires_grad_() for part in parts()]
        z = torch.linspace(-1, 1, 6 * D, dtype=torch.float64).reshape(6, D).requires_grad_()
        total = mixture(kind, *given).expand((6,)).log_prob(z).sum()
        gradients.append(torch.autograd.grad(total, [z, *given]))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_components_of_a_batch_and_of_other_families():
    """Those of a row each, and those that are no normals, go the long way."""
    logits, loc, scale = parts()
    rows = torch.arange(4.0, dtype=torch.float64)[:, None, None]
    z = torch.randn(4, D, dtype=torch.float64)
    ours = mixture(Mixture, logits.expand(4, K), loc + rows, scale.expand(4, K, D)).log_prob(z)
    for n in range(4):
        np.testing.assert_allclose(ours[n], exact(z[n], logits, loc + rows[n], scale), rtol=1e-12)
    weights = dist.Categorical(logits=logits)
    laplace = Mixture(weights, dist.Laplace(loc, scale).to_event(1))
    terms = stats.laplace.logpdf(z.numpy()[:, None], loc.numpy(), scale.numpy()).sum(-1)
    expected = special.logsumexp(terms + special.log_softmax(logits.numpy()), -1)
    np.testing.assert_allclose(laplace.log_prob(z), expected, rtol=1e-12)


def test_the_support_is_that_of_the_components():
    p = mixture(Mixture, *parts())
    assert biject_to(p.support)(torch.zeros(D)).shape == (D,)
    positive = Mixture(dist.Categorical(torch.ones(2)), dist.Gamma(torch.ones(2, D), 1.0).to_event(1))
    assert (biject_to(positive.support)(torch.randn(9, D)) > 0).all()
    assert (positive.expand((6,)).sample() > 0).all()
