"""Autoencoders and probabilistic PCA, which have closed forms: scikit-learn's PCA is the reference."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.preprocessing import StandardScaler
from torch import nn

import pyrovae
from pyrovae import VAE

X = StandardScaler().fit_transform(load_wine().data)


def linear(x, k, posterior, likelihood, **training):
    """A VAE without hidden layers, trained on all rows at a time in float64."""
    torch.manual_seed(0)
    vae = VAE(
        (x.shape[1],), k, posterior=posterior, likelihood=likelihood, encoder=nn.Identity(), decoder=nn.Identity()
    ).double()
    options = {"batch_size": len(x), "schedule": "cosine", "progress": False, **training}
    pyrovae.fit(vae, torch.tensor(x), **options)
    return vae, vae.likelihood.head.weight.detach().numpy()


def greatest_angle(a, b):
    """Between the subspaces that the columns of a and of b span, in radians, by its sine."""
    a, b = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
    return math.asin(min(1.0, np.linalg.norm(a - b @ (b.T @ a), 2)))


def test_a_linear_autoencoder_spans_the_pca_space():
    """Baldi & Hornik, 1989, https://doi.org/10.1016/0893-6080(89)90014-2."""
    x = X
    vae, weight = linear(x, 2, "delta", "gaussian(scale=1.0)", beta=0.0, epochs=1200, lr=5e-2)
    pca = PCA(2).fit(x)
    assert greatest_angle(weight, pca.components_.T) < 1e-3
    reconstructed = vae.reconstruct(torch.tensor(x)).numpy()
    expected = pca.inverse_transform(pca.transform(x))
    np.testing.assert_allclose(reconstructed, expected, atol=0.01)


def test_maximum_likelihood_of_ppca():
    """Tipping & Bishop, 1999, https://doi.org/10.1111/1467-9868.00196; the exact posterior is within reach."""
    x = X
    vae, weight = linear(x, 2, "full_rank", "gaussian", elbo="stl", epochs=1500, lr=3e-2)
    scale = vae.decode(torch.zeros(1, 2)).base_dist.scale.detach().flatten()[0].item()
    bias = vae.likelihood.head.bias.detach().numpy()
    covariance = weight @ weight.T + scale**2 * np.eye(x.shape[1])
    ours = stats.multivariate_normal(bias, covariance).logpdf(x).mean()
    pca = PCA(2).fit(x)
    # scikit-learn divides by N - 1, which is not quite the maximum.
    assert ours >= pca.score(x) - 1e-4 * abs(pca.score(x))
    best = PCA(2).fit(x)
    best.explained_variance_ = best.explained_variance_ * (len(x) - 1) / len(x)
    best.noise_variance_ = best.noise_variance_ * (len(x) - 1) / len(x)
    assert ours == pytest.approx(best.score(x), rel=1e-4) and ours <= best.score(x) + 1e-9
    value, error = pyrovae.log_marginal(vae, torch.tensor(x), num_samples=200, progress=False)
    assert value.mean().item() == pytest.approx(ours, abs=max(1e-3, 4 * error.square().sum().sqrt().item() / len(x)))


def test_maximum_likelihood_of_factor_analysis():
    x = X
    vae, weight = linear(x, 3, "full_rank", "gaussian(scale=per_dimension)", elbo="stl", epochs=2500, lr=3e-2)
    scale = vae.decode(torch.zeros(1, 3)).base_dist.scale.detach().numpy().ravel()
    ours = stats.multivariate_normal(
        vae.likelihood.head.bias.detach().numpy(), weight @ weight.T + np.diag(scale**2)
    ).logpdf(x)
    reference = FactorAnalysis(3, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(x)
    assert ours.mean() == pytest.approx(reference.score(x), rel=1e-4)
