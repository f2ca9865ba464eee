"""The model with exact answers, against SciPy, scikit-learn, autograd, quadrature and exact arithmetic."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pyrovae import datasets
from pyrovae.datasets import LinearGaussian

SIZES = [(10, 3, True), (10, 3, False), (4, 1, True), (5, 5, True), (2, 6, False)]


def covariance_of(model):
    weight = model.weight.numpy()
    return weight @ weight.T + model.scale.item() ** 2 * np.eye(len(weight))


def random_covariance(*shape, seed):
    root = torch.randn(*shape, shape[-1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.mT + 0.3 * torch.eye(shape[-1], dtype=torch.float64)


@pytest.mark.parametrize(("d", "k", "orthogonal"), SIZES)
def test_log_prob_is_scipys(d, k, orthogonal):
    model = LinearGaussian.random(d, k, seed=1, orthogonal=orthogonal)
    x = 3 * torch.randn(50, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = stats.multivariate_normal(model.bias.numpy(), covariance_of(model)).logpdf(x.numpy())
    np.testing.assert_allclose(model.log_prob(x), expected, rtol=1e-11)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
def test_log_prob_keeps_its_digits_for_any_scale(scale):
    model = LinearGaussian.random(4, 2, scale=scale, seed=2)
    x = model.sample(3, seed=5)
    with mpmath.workdps(60):
        weight, bias = (mpmath.matrix(t.tolist()) for t in (model.weight, model.bias))
        covariance = weight * weight.T + mpmath.mpf(model.scale.item()) ** 2 * mpmath.eye(4)
        log_det = mpmath.log(mpmath.det(covariance))
        for row, value in zip(x, model.log_prob(x), strict=True):
            r = mpmath.matrix(row.tolist()) - bias
            quadratic = (r.T * mpmath.inverse(covariance) * r)[0]
            exact = -(4 * mpmath.log(2 * mpmath.pi) + log_det + quadratic) / 2
            # x - b itself is rounded to 1e-16, which is worth 1e-16 / scale of a standard deviation.
            assert value.item() == pytest.approx(float(exact), rel=1e-9, abs=1e-9 + 1e-14 / scale)


@pytest.mark.parametrize(("d", "k", "orthogonal"), SIZES)
def test_posterior_is_the_conditional_of_the_joint_normal(d, k, orthogonal):
    model = LinearGaussian.random(d, k, seed=3, orthogonal=orthogonal)
    x = model.sample(20, seed=1)
    gain = model.weight.numpy().T @ np.linalg.inv(covariance_of(model))
    mean, covariance = model.posterior(x)
    np.testing.assert_allclose(mean, (x - model.bias).numpy() @ gain.T, atol=1e-12)
    np.testing.assert_allclose(covariance, np.eye(k) - gain @ model.weight.numpy(), atol=1e-12)


def test_orthogonal_weight_has_a_diagonal_posterior_of_different_variances():
    _, covariance = LinearGaussian.random(10, 3, seed=0).posterior(torch.zeros(1, 10))
    variances = covariance.diagonal()
    assert (covariance - variances.diag()).abs().max() < 1e-15
    assert variances.diff().abs().min() > 1e-3
    _, full = LinearGaussian.random(10, 3, seed=0, orthogonal=False).posterior(torch.zeros(1, 10))
    assert (full - full.diagonal().diag()).abs().max() > 1e-3


def test_bound_of_one_latent_is_its_integral():
    """E_q[log p(x, z) - log q(z)] on a grid that resolves q: the trapezoid rule is exact to rounding here."""
    model = LinearGaussian.random(4, 1, seed=4)
    x, loc, variance = model.sample(3, seed=2), torch.tensor([[-1.0], [0.3], [2.0]], dtype=torch.float64), 0.7
    sd, covariance = math.sqrt(variance), torch.tensor([[variance]], dtype=torch.float64)
    grid = np.linspace(-12, 12, 4001)
    for row, m, reconstruction, kl, elbo in zip(
        x,
        loc[:, 0],
        model.reconstruction(x, loc, covariance),
        model.kl(loc, covariance),
        model.elbo(x, loc, covariance),
        strict=True,
    ):
        z = m.item() + sd * grid
        q = stats.norm(m.item(), sd)
        means = z[:, None] * model.weight.numpy().T + model.bias.numpy()
        likelihood = stats.norm(means, model.scale.item()).logpdf(row.numpy()).sum(1)
        divergence = q.logpdf(z) - stats.norm.logpdf(z)
        assert reconstruction.item() == pytest.approx(np.trapezoid(q.pdf(z) * likelihood, z), rel=1e-10)
        assert kl.item() == pytest.approx(np.trapezoid(q.pdf(z) * divergence, z), rel=1e-10)
        assert elbo.item() == pytest.approx(np.trapezoid(q.pdf(z) * (likelihood - divergence), z), rel=1e-10)


@pytest.mark.parametrize("per_row", [False, True])
def test_bound_falls_short_of_log_prob_by_the_divergence_from_the_posterior(per_row):
    model = LinearGaussian.random(6, 3, seed=5, orthogonal=False)
    x = model.sample(7, seed=3)
    covariance = random_covariance(*((7,) if per_row else ()), 3, seed=6)
    loc = torch.randn(7, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    q, posterior = MultivariateNormal(loc, covariance), MultivariateNormal(*model.posterior(x))
    gap = kl_divergence(q, posterior)
    assert gap.min() > 0.1
    torch.testing.assert_close(model.log_prob(x) - model.elbo(x, loc, covariance), gap, rtol=1e-9, atol=1e-9)
    prior = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    torch.testing.assert_close(model.kl(loc, covariance), kl_divergence(q, prior), rtol=1e-10, atol=0)


def test_reconstruction_is_its_monte_carlo_mean():
    model = LinearGaussian.random(6, 3, seed=8, orthogonal=False)
    x, covariance = model.sample(4, seed=4), random_covariance(3, seed=9)
    loc = model.posterior(x)[0]
    noise = torch.randn(100_000, 1, 3, generator=torch.Generator().manual_seed(10), dtype=torch.float64)
    z = loc + noise @ torch.linalg.cholesky(covariance).T
    draws = Normal(z @ model.weight.T + model.bias, model.scale).log_prob(x).sum(-1)
    score = (draws.mean(0) - model.reconstruction(x, loc, covariance)) / (draws.std(0) / len(draws) ** 0.5)
    assert score.abs().max() < 4


@pytest.mark.parametrize(("d", "k", "orthogonal"), SIZES)
def test_grad_is_autograd_through_the_dense_density(d, k, orthogonal):
    model = LinearGaussian.random(d, k, seed=11, orthogonal=orthogonal)
    x = 2 * torch.randn(30, d, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    weight, bias, scale = (t.clone().requires_grad_() for t in (model.weight, model.bias, model.scale))
    dense = weight @ weight.T + scale**2 * torch.eye(d, dtype=torch.float64)
    MultivariateNormal(bias, dense).log_prob(x).sum().backward()
    grad = model.grad(x)
    assert set(grad) == {"weight", "bias", "scale"}
    for name, expected in (("weight", weight.grad), ("bias", bias.grad), ("scale", scale.grad)):
        torch.testing.assert_close(grad[name], expected, rtol=1e-9, atol=1e-9)


def test_sample_has_the_moments_of_the_model():
    model, n = LinearGaussian.random(5, 2, seed=13), 50_000
    x = model.sample(n, seed=14).numpy()
    exact = covariance_of(model)
    variances = np.diag(exact)
    assert np.abs((x.mean(0) - model.bias.numpy()) / np.sqrt(variances / n)).max() < 4
    se = np.sqrt((np.outer(variances, variances) + exact**2) / n)
    assert np.abs((np.cov(x.T) - exact) / se).max() < 4


def test_seeds_repeat_and_differ():
    model = LinearGaussian.random(5, 2, seed=0)
    assert torch.equal(model.weight, LinearGaussian.random(5, 2, seed=0).weight)
    assert not torch.equal(model.weight, LinearGaussian.random(5, 2, seed=1).weight)
    assert torch.equal(model.sample(9, seed=3), model.sample(9, seed=3))
    assert not torch.equal(model.sample(9, seed=3), model.sample(9, seed=4))


def test_dtype():
    double, single = (LinearGaussian.random(5, 2, seed=0, dtype=t) for t in (torch.float64, torch.float32))
    torch.testing.assert_close(single.weight, double.weight.float())
    x = single.sample(4, seed=0)
    assert x.dtype == single.log_prob(x).dtype == torch.float32
    torch.testing.assert_close(single.log_prob(x), double.log_prob(x).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [1, 3, 9])
def test_maximum_likelihood_is_scikit_learns(k):
    x = LinearGaussian.random(10, 4, seed=15).sample(200, seed=16)
    model, pca, ratio = LinearGaussian.maximum_likelihood(x, k), PCA(k, svd_solver="full").fit(x.numpy()), 200 / 199
    # scikit-learn divides by N - 1, the maximum of the likelihood by N.
    assert model.scale.item() ** 2 * ratio == pytest.approx(pca.noise_variance_, rel=1e-10)
    np.testing.assert_allclose(covariance_of(model) * ratio, pca.get_covariance(), atol=1e-10)
    np.testing.assert_allclose(model.bias, pca.mean_, atol=1e-12)
    wider = LinearGaussian(model.weight * ratio**0.5, model.bias, model.scale * ratio**0.5)
    assert wider.log_prob(x).mean().item() == pytest.approx(pca.score(x.numpy()), rel=1e-11)
    lengths = model.weight.norm(dim=0)
    assert torch.equal(lengths, lengths.sort(descending=True).values)


def test_maximum_likelihood_has_the_value_of_its_closed_form_and_no_gradient():
    n, d, k = 300, 8, 3
    x = LinearGaussian.random(d, k, seed=17).sample(n, seed=18)
    model = LinearGaussian.maximum_likelihood(x, k)
    values = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))[::-1]
    rest = values[k:].mean()
    closed_form = -n / 2 * (d * math.log(2 * math.pi) + np.log(values[:k]).sum() + (d - k) * math.log(rest) + d)
    assert model.log_prob(x).sum().item() == pytest.approx(closed_form, rel=1e-12)
    assert max(gradient.abs().max() for gradient in model.grad(x).values()) < 1e-8


def test_maximum_likelihood_wants_variance_left():
    x = LinearGaussian.random(6, 2, seed=0).sample(4)
    message = (
        "3 components leave no variance in 4 rows of 6 columns, so the likelihood has no maximum: "
        "expected a smaller k or more rows"
    )
    with pytest.raises(ValueError) as error:
        LinearGaussian.maximum_likelihood(x, 3)
    assert str(error.value) == message
    for k in (0, 6):
        with pytest.raises(ValueError, match=rf"^k: expected 1 <= k < 6 \(the number of columns\), got {k}$"):
            LinearGaussian.maximum_likelihood(x, k)


def test_wrong_parameters():
    with pytest.raises(
        ValueError, match=r"^expected weight \(d, k\), bias \(d,\) and scale \(\), got \(3, 2\), \(2,\) "
    ):
        LinearGaussian(torch.ones(3, 2), torch.ones(2), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"^scale: expected a number above 0, got 0$"):
        LinearGaussian.random(3, 2, scale=0.0)
    with pytest.raises(ValueError, match=r"^expected 1 <= k <= d for orthogonal columns .*, got d=2, k=3$"):
        LinearGaussian.random(2, 3)


def test_load_samples_the_documented_model_and_leaves_it_in_its_units():
    data = datasets.load("linear_gaussian", seed=3, standardize=True)
    model = LinearGaussian.random(10, 3, seed=3)
    assert [len(data.train), len(data.validation), len(data.test)] == [1600, 200, 200]
    assert data.loc is None and data.scale is None and data.train.dtype == torch.float32
    rows = torch.cat([data.train, data.validation, data.test])
    sampled = model.sample(2_000, seed=3).float()
    assert {tuple(row) for row in rows.tolist()} == {tuple(row) for row in sampled.tolist()}
    # The mean of log p(x) over rows of the model is minus its entropy.
    values = model.log_prob(rows)
    entropy = stats.multivariate_normal(model.bias.numpy(), covariance_of(model)).entropy()
    assert abs(values.mean().item() + entropy) < 4 * values.std().item() / len(values) ** 0.5
