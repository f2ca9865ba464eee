"""Clusters of mixture priors, and scores of outliers, where they are known."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import adjusted_rand_score
from torch import nn

import pyrovae
from pyrovae import VAE
from pyrovae.distributions import inverse_scale

FLOAT64 = torch.float64


def test_the_probability_of_a_component_is_bayes_rule():
    """q(z | x) = N(x, s^2) in one dimension: E p(k | z) by integration."""
    vae = VAE((1,), 1, prior="mixture(components=2)", likelihood="gaussian", encoder=nn.Identity()).double()
    weights, means, sds, s = np.array([0.3, 0.7]), np.array([-1.0, 2.0]), np.array([0.5, 1.5]), 0.4
    piece = vae.prior.piece
    with torch.no_grad():
        piece.logits.copy_(torch.tensor(weights).log())
        piece.loc.copy_(torch.tensor(means)[:, None])
        piece.raw_scale.copy_(inverse_scale(torch.tensor(sds)[:, None], piece.floor))
        vae.posterior.head.weight.copy_(torch.tensor([[1.0], [0.0]]))
        vae.posterior.head.bias[1] = inverse_scale(torch.tensor(s, dtype=FLOAT64), vae.posterior.piece.floor)
    x = torch.tensor([[-1.5], [0.2], [3.0]], dtype=FLOAT64)
    found = pyrovae.clusters(vae, x, num_samples=40_000)
    z = np.linspace(-8, 10, 20_001)
    joint = weights * stats.norm(means, sds).pdf(z[:, None])
    for row, value in zip(found.numpy(), x[:, 0].numpy(), strict=True):
        expected = (joint / joint.sum(1, keepdims=True) * stats.norm(value, s).pdf(z)[:, None]).sum(0) * (z[1] - z[0])
        np.testing.assert_allclose(row, expected, atol=0.01)


def test_clusters_of_blobs_are_found():
    torch.manual_seed(0)
    truth = torch.arange(300) % 3
    x = torch.tensor([[4.0, 0, 0, 1], [-4, 1, 0, 0], [0, -4, 4, 0]])[truth] + torch.randn(300, 4)
    vae = VAE((4,), 2, likelihood="gaussian")
    pyrovae.fit(vae, x, epochs=30, batch_size=50, lr=5e-3, progress=False)
    found = pyrovae.clusters(pyrovae.ex_post(vae, x, components=3), x)
    assert torch.allclose(found.sum(-1), torch.ones(300), atol=1e-5)
    assert adjusted_rand_score(truth, found.argmax(-1)) > 0.9


@pytest.mark.parametrize("stretch", [1.0, 1.5])
def test_regret_is_the_gap_that_a_posterior_of_ones_own_closes(linear, stretch):
    """Of a linear-Gaussian model whose normals hold the exact posterior: log p(x) - ELBO, in closed form."""
    case = linear(n=8, shift=0.0 if stretch == 1 else 0.4, stretch=stretch)
    found = pyrovae.outlier_scores(
        case.vae, case.x, case.x, num_samples=20_000, steps=400, lr=0.05, draws=16, progress=False
    )
    gap = (case.log_prob - case.truth.elbo(case.rows, case.loc, case.covariance)).numpy()
    if stretch == 1:
        assert gap.max() < 1e-9 and found["regret"].abs().max() < 0.02
    else:
        # The ELBO of so rough a guide has an error of .25 nats a row at 1,000 draws.
        assert gap.min() > 3 and (found["regret"] - gap).abs().max() < 1.0
        assert found["regret"].mean() == pytest.approx(gap.mean(), abs=0.3)
    np.testing.assert_allclose(found["surprise"], -case.log_prob, atol=0.1)
    np.testing.assert_allclose(found["typicality"], (case.log_prob - case.log_prob.mean()).abs(), atol=0.1)
    assert all(p.requires_grad for p in case.vae.parameters())


def test_what_is_refused():
    x = torch.randn(5, 4)
    with pytest.raises(ValueError, match="clusters: expected a prior that is a mixture, or a label, got Normal"):
        pyrovae.clusters(VAE((4,), 2, likelihood="gaussian"), x)
    with pytest.raises(ValueError, match="clusters: expected a prior that is a mixture"):
        pyrovae.clusters(VAE((4,), [2, 2], prior="mixture", likelihood="gaussian"), x)
    for vae, reason in [
        (VAE((4,), 2, likelihood="gaussian", posterior="delta"), "is a point"),
        (VAE((4,), [2, 2], likelihood="gaussian"), "more latent sites than z"),
        (VAE((4,), 2, likelihood="gaussian", label=3), "more latent sites than z"),
        (VAE((4,), 3, likelihood="gaussian", prior="one_hot", posterior="categorical"), "z is not reparameterised"),
    ]:
        with pytest.raises(ValueError, match=f"a posterior that can be fitted to a row, but.*{reason}"):
            pyrovae.outlier_scores(vae, x, x, progress=False)


def test_of_a_model_with_a_label_the_clusters_are_the_classes():
    vae, x = VAE((4,), 2, likelihood="gaussian", label=3), torch.randn(5, 4)
    assert torch.equal(pyrovae.clusters(vae, x), vae.predict_proba(x))
