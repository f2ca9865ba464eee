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


class Watch(nn.Module):
    """An encoder that keeps what it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return x


CORRUPTIONS = {
    "gaussian(scale=0.5)": lambda x, seen: abs((seen - x).std().item() - 0.5) < 0.02 and (seen != x).all(),
    "masking(share=0.3)": lambda x, seen: (
        ((seen == x) | (seen == 0)).all() and abs((seen == 0).double().mean() - 0.3) < 0.02
    ),
    "salt_and_pepper(share=0.4)": lambda x, seen: (
        abs((seen == 1).double().mean() - 0.2) < 0.02 and abs((seen == 0).double().mean() - 0.2) < 0.02
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_an_encoder_sees_in_training(name, tmp_path, same):
    watch, x = Watch(), torch.randn(3000, 4)
    vae = VAE((4,), 2, likelihood="gaussian", encoder=watch, corruption=name)
    watch.seen.clear()
    assert torch.isfinite(vae.model(x)).all()
    loss = pyrovae.elbos.IWAE(3, max_plate_nesting=1).loss(vae.model, vae.guide, x)
    assert math.isfinite(loss) and len(watch.seen) == 1 and CORRUPTIONS[name](x, watch.seen[0])
    vae.eval().guide(x)
    assert torch.equal(watch.seen[-1], x)
    named = VAE((4,), 2, likelihood="gaussian", corruption=name)
    loaded = pyrovae.load(pyrovae.save(named, tmp_path))
    assert same(loaded, named) and loaded.posterior.corruption == named.posterior.corruption


def test_a_denoising_autoencoder_takes_noise_off():
    """Of rows near a line in 10 dimensions, better than an autoencoder that has seen clean rows only."""
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(600, 1, generator=generator) * 6 - 3
    clean = torch.cat([torch.sin(t * w) for w in torch.linspace(0.3, 1.2, 10)], 1)
    noisy = clean + 0.4 * torch.randn(clean.shape, generator=generator)
    errors = {}
    for corruption in (None, "gaussian(scale=0.4)"):
        torch.manual_seed(0)
        vae = VAE((10,), 4, posterior="delta", likelihood="gaussian(scale=1.0)", corruption=corruption)
        pyrovae.fit(vae, clean[:300], beta=0.0, epochs=80, batch_size=50, lr=3e-3, progress=False)
        errors[corruption] = float((vae.reconstruct(noisy[300:]) - clean[300:]).square().mean())
    assert errors["gaussian(scale=0.4)"] < 0.7 * errors[None] and errors["gaussian(scale=0.4)"] < 0.5 * 0.16


def test_corruptions_that_are_refused():
    for corruption, message in [
        ("blur", "unknown corruption 'blur'"),
        ("masking(share=1)", "masking share: expected a probability above 0 and below 1, got 1"),
        ("gaussian(scale=0)", "gaussian scale: expected a finite number above 0"),
        (3, "corruption: expected a name or a function of x, got int"),
    ]:
        with pytest.raises(ValueError, match=message):
            VAE((4,), 2, corruption=corruption)


def greatest_angle(a, b):
    """Between the subspaces that the columns of a and of b span, in radians, by its sine."""
    a, b = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
    return math.asin(min(1.0, np.linalg.norm(a - b @ (b.T @ a), 2)))


def test_a_linear_autoencoder_spans_the_pca_space():
    """Baldi & Hornik, 1989, https://doi.org/10.1016/0893-6080(89)90014-2."""
    x = X
    vae, weight = linear(x, 2, "delta", "gaussian(scale=1.0)", beta=0.0, epochs=400, lr=5e-2)
    pca = PCA(2).fit(x)
    assert greatest_angle(weight, pca.components_.T) < 1e-3
    reconstructed = vae.reconstruct(torch.tensor(x)).numpy()
    expected = pca.inverse_transform(pca.transform(x))
    np.testing.assert_allclose(reconstructed, expected, atol=0.01)


def test_maximum_likelihood_of_ppca():
    """Tipping & Bishop, 1999, https://doi.org/10.1111/1467-9868.00196; the exact posterior is within reach."""
    x = X
    vae, weight = linear(x, 2, "full_rank", "gaussian", elbo="stl", epochs=700, lr=5e-2)
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


@pytest.mark.slow
def test_maximum_likelihood_of_factor_analysis():
    x = X
    vae, weight = linear(x, 3, "full_rank", "gaussian(scale=per_dimension)", elbo="stl", epochs=2500, lr=3e-2)
    scale = vae.decode(torch.zeros(1, 3)).base_dist.scale.detach().numpy().ravel()
    ours = stats.multivariate_normal(
        vae.likelihood.head.bias.detach().numpy(), weight @ weight.T + np.diag(scale**2)
    ).logpdf(x)
    reference = FactorAnalysis(3, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(x)
    assert ours.mean() == pytest.approx(reference.score(x), rel=1e-4)
