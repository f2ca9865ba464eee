"""Cells missing at random: densities against scipy, log p(x_obs) and imputation against the normal's own formulas."""

import math

import numpy as np
import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from scipy import stats
from sklearn.datasets import load_iris

import pyrovae
from pyrovae import VAE, datasets, elbos, likelihoods
from pyrovae.datasets import Dataset, LinearGaussian
from pyrovae.datasets.standardize import standardization
from pyrovae.distributions import inverse_scale

NAN, FLOAT64 = math.nan, torch.float64
HOLES = torch.tensor([[NAN, 0, 0, 0], [0, NAN, NAN, 0], [0, 0, 0, 0], [NAN, NAN, NAN, 0]], dtype=FLOAT64)
UNIT = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=FLOAT64).clamp(0.05, 0.95)
COUNTS = (20 * UNIT**4).floor()

# Likelihood, data, and the density of a cell from scipy, given the numbers of the network (K, 4).
CASES = {
    "bernoulli": ((UNIT > 0.5).double(), lambda x, eta: stats.bernoulli(1 / (1 + np.exp(-eta))).logpmf(x)),
    "gaussian(scale=0.5)": (4 * UNIT - 2, lambda x, mu: stats.norm(mu, 0.5).logpdf(x)),
    "laplace(scale=0.5)": (4 * UNIT - 2, lambda x, mu: stats.laplace(mu, 0.5).logpdf(x)),
    "student_t(scale=0.5)": (4 * UNIT - 2, lambda x, mu: stats.t(4, mu, 0.5).logpdf(x)),
    "poisson": (COUNTS, lambda x, eta: stats.poisson(np.exp(eta)).logpmf(x)),
}
OTHERS = {
    "continuous_bernoulli": UNIT,
    "beta": UNIT,
    "gaussian(scale=network)": 4 * UNIT - 2,
    "log_normal": 3 * UNIT,
    "gamma": 3 * UNIT,
    "categorical(classes=3)": (3 * UNIT).floor(),
    "ordinal(classes=3)": (3 * UNIT).floor(),
    "discretised_logistic": (255 * UNIT).round() / 255,
    "discretised_logistic_mixture(components=2)": (255 * UNIT).round() / 255,
    "negative_binomial": COUNTS,
    "zero_inflated_poisson": COUNTS,
    "zero_inflated_negative_binomial": COUNTS,
}


def vae_of(likelihood, x, **arguments):
    torch.manual_seed(1)
    vae = VAE((4,), 2, likelihood=likelihood, missing=arguments.pop("missing", "mask"), **arguments).double()
    vae.initialize(x)
    return vae


@pytest.mark.parametrize("likelihood", CASES)
def test_the_density_is_that_of_the_observed_cells(likelihood):
    full, log_prob = CASES[likelihood]
    x = full + HOLES
    vae = vae_of(likelihood, x)
    z = torch.randn(3, 4, 2, dtype=FLOAT64)
    numbers = vae.likelihood.params(z).reshape(3, 4, 4)
    expected = np.nansum(np.where(x.isnan(), np.nan, log_prob(full.numpy(), numbers.detach().numpy())), -1)
    np.testing.assert_allclose(vae.decode(z).log_prob(x).detach(), expected, rtol=1e-9)


@pytest.mark.parametrize("likelihood", [*CASES, *OTHERS])
def test_every_likelihood_of_independent_elements(likelihood):
    """Log p of a row with holes is that of its cells, one by one; a hole has no gradient, and all else has one."""
    full = CASES[likelihood][0] if likelihood in CASES else OTHERS[likelihood]
    x = full + HOLES
    vae = vae_of(likelihood, x)
    p = vae.decode(torch.randn(4, 2, dtype=FLOAT64))
    cells = p.base_dist.log_prob(full)
    assert torch.allclose(p.log_prob(x), torch.where(x.isnan(), 0.0, cells).sum(-1), rtol=1e-12, atol=1e-12)
    assert torch.allclose(p.log_prob(full), cells.sum(-1), rtol=1e-12)
    assert p.support.check(x).all() and p.support.check(p.sample()).all()
    for elbo in ("elbo", "dreg"):
        vae.zero_grad()
        estimator = elbos.make(elbo, 3)
        loss = estimator.differentiable_loss(vae.model, vae.guide, x)
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in vae.parameters())
    filled = pyrovae.impute(vae, x, num_samples=20)
    assert torch.equal(filled[~x.isnan()], x[~x.isnan()]) and not filled.isnan().any()


def test_a_hole_moves_no_number_of_its_own():
    """With a decoder that gives each cell its own weights, the gradient of those of a missing cell is 0."""
    x = torch.tensor([[1.0, NAN, 2.0, NAN]], dtype=FLOAT64)
    vae = vae_of("gaussian(scale=1.0)", UNIT, decoder=torch.nn.Identity())
    vae.decode(torch.ones(1, 2, dtype=FLOAT64)).log_prob(x).sum().backward()
    moved = vae.likelihood.head.weight.grad.abs().sum(-1) > 0
    assert moved.tolist() == [True, False, True, False]


def linear(sees):
    """A linear-Gaussian VAE with a rough encoder, rows with holes, and what is exact about them."""
    truth = LinearGaussian.random(5, 2, scale=0.5, seed=3)
    x = truth.sample(12, seed=4)
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.5
    gone[:, 0] &= ~gone.all(1)
    vae = VAE((5,), 2, likelihood="gaussian(scale=0.5)", decoder=torch.nn.Identity(), missing=sees).double()
    with torch.no_grad():
        vae.likelihood.head.weight.copy_(truth.weight)
        vae.likelihood.head.bias.copy_(truth.bias)
        vae.posterior.head.weight.zero_()
        vae.posterior.head.bias[2:] = inverse_scale(torch.tensor(1.3, dtype=FLOAT64), vae.posterior.piece.floor)
    covariance = (truth.weight @ truth.weight.T + 0.25 * torch.eye(5, dtype=FLOAT64)).numpy()
    bias, log_prob, mean, sd = truth.bias.numpy(), [], x.clone().numpy(), np.zeros(x.shape)
    for row, m in enumerate(gone.numpy()):
        o = ~m
        within = covariance[np.ix_(o, o)]
        log_prob.append(stats.multivariate_normal(bias[o], within).logpdf(x[row, o]))
        gain = covariance[np.ix_(m, o)] @ np.linalg.inv(within)
        mean[row, m] = bias[m] + gain @ (x[row, o].numpy() - bias[o])
        sd[row, m] = np.sqrt(np.diag(covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]))
    return vae, torch.where(gone, NAN, x), torch.tensor(log_prob), mean, sd


@pytest.mark.parametrize("sees", ["mask", "zero"])
def test_log_marginal_and_imputation_are_exact(sees):
    vae, x, log_prob, mean, sd = linear(sees)
    found = pyrovae.log_marginal(vae, x, num_samples=40_000, seed=1)
    assert ((found.value - log_prob) / found.standard_error).abs().max() < 4
    assert found.standard_error.max() < 0.05
    filled = pyrovae.impute(vae, x, num_samples=40_000, seed=2).numpy()
    np.testing.assert_allclose(filled, mean, atol=0.06)
    draws = pyrovae.impute(vae, x, num_samples=4000, draws=4000, seed=3).numpy()
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.15, atol=1e-12)
    annealed = pyrovae.ais(vae, x, num_chains=64, num_steps=100, seed=4)
    assert ((annealed.value - log_prob) / annealed.standard_error.clamp_min(1e-3)).abs().max() < 5


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites:UserWarning")
@pytest.mark.parametrize("name", [name for name in elbos.FAMILY if name != "mean_field_elbo"])
def test_every_estimator_takes_holes(name):
    vae, x, log_prob, _, _ = linear("zero")
    estimator = elbos.make(name, 4)
    guide = config_enumerate(vae.guide) if isinstance(estimator, TraceEnum_ELBO) else vae.guide
    if getattr(estimator, "num_rows", len(x)) is None:
        estimator.num_rows = len(x)
    optim = pyrovae.training.optimizers.Joint(torch.optim.SGD(vae.parameters(), 1e-3))
    assert math.isfinite(SVI(vae.model, guide, optim, estimator).step(x))
    assert all(torch.isfinite(p).all() for p in vae.parameters())


def test_the_bound_of_a_row_is_that_of_its_cells():
    """By hand in numpy, at the draws that the estimator made."""
    vae, x, *_ = linear("zero")
    seen = []
    vae.posterior.register_forward_hook(lambda module, inputs, q: seen.append(q))
    torch.manual_seed(0)
    found = elbos.terms(vae.model, vae.guide, x, num_particles=3)
    z = seen[0].base_dist.mean  # q is the same for all rows
    assert torch.equal(z, torch.zeros_like(z))
    weight, bias = (p.detach().numpy() for p in (vae.likelihood.head.weight, vae.likelihood.head.bias))
    torch.manual_seed(0)
    draws = 1.3 * torch.randn(3, 12, 2, dtype=FLOAT64).numpy()
    log_p = stats.norm(draws @ weight.T + bias, 0.5).logpdf(x.numpy())
    expected = np.nansum(log_p, -1) + stats.norm.logpdf(draws).sum(-1) - stats.norm(0, 1.3).logpdf(draws).sum(-1)
    np.testing.assert_allclose(found.log_weights.detach().numpy(), expected, rtol=1e-9)


def test_what_the_encoder_sees():
    x = torch.tensor([[1.5, NAN, -2.0]])
    masked, zero = (likelihoods.Missing(likelihoods.Gaussian(), sees) for sees in ("mask", "zero"))
    assert masked.features(x).tolist() == [[1.5, 0.0, -2.0, 0.0, 1.0, 0.0]]
    assert zero.features(x).tolist() == [[1.5, 0.0, -2.0]]
    classes = likelihoods.Missing(likelihoods.Categorical(classes=2), "mask")
    assert classes.features(torch.tensor([[1.0, NAN]])).tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]]
    image = torch.zeros(2, 3, 4, 4)
    image[0, 1, 2, 3] = NAN
    seen = likelihoods.Missing(likelihoods.Bernoulli(), "mask").features(image)
    assert seen.shape == (2, 6, 4, 4) and seen.sum() == seen[0, 4, 2, 3] == 1


@pytest.mark.parametrize("network", ["conv(channels=[3, 3])", "resnet(channels=[3, 3])", "mlp(hidden=[8])"])
def test_images_with_holes(network):
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((12, 1, 8, 8), 0.5))
    x[torch.rand(x.shape) < 0.3] = NAN
    vae = VAE((1, 8, 8), 2, encoder=network, missing="mask")
    history = pyrovae.fit(vae, x, epochs=2, validation=x, progress=False)
    assert np.isfinite(history["validation_elbo"]).all()
    assert not pyrovae.impute(vae, x, num_samples=10).isnan().any() and not vae.reconstruct(x).isnan().any()


@pytest.mark.parametrize("sees", ["mask", "zero"])
def test_fit_save_load_evaluate_and_export(sees, tmp_path, same):
    x = torch.tensor(load_iris().data, dtype=torch.float32)
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.2] = NAN
    x = x[~x.isnan().all(1)]
    torch.manual_seed(0)
    vae = VAE((4,), 2, likelihood="gaussian(scale=per_dimension)", missing=sees)
    before = pyrovae.log_marginal(vae, x, num_samples=50, progress=False).value.mean()
    pyrovae.fit(vae, x, epochs=30, elbo="iwae", num_particles=5, progress=False)
    loaded = pyrovae.load(pyrovae.save(vae, tmp_path))
    assert loaded.missing == sees and same(vae, loaded)
    ours, theirs = (pyrovae.log_marginal(v, x, num_samples=50, progress=False).value for v in (vae, loaded))
    assert torch.equal(ours, theirs) and ours.mean() > before + 1
    summary = pyrovae.evaluate(loaded, x, num_samples=50, progress=False).summary()
    assert math.isfinite(summary["log_marginal"])
    idata = pyrovae.to_inference_data(loaded, x, num_samples=5)
    assert np.isfinite(idata["log_likelihood"]["x"].values).all()
    assert not np.isnan(idata["posterior_predictive"]["x"].values).any()
    np.testing.assert_array_equal(idata["observed_data"]["x"].values, x.numpy())


def test_training_on_holes_finds_the_covariance():
    """Of pPCA data with 30 % of the cells gone the covariance nears the truth; with zeros in the holes it does not."""
    truth = LinearGaussian.random(5, 2, scale=0.5, seed=3)
    full = truth.sample(2500, seed=4).float()
    x = datasets.take_away(Dataset("x", full, full, full, None), 0.3).train
    torch.manual_seed(0)
    vae = VAE((5,), 2, likelihood="gaussian", decoder=torch.nn.Identity(), missing="mask")
    pyrovae.fit(
        vae, x, epochs=40, batch_size=100, lr=2e-2, schedule="cosine", elbo="dreg", num_particles=5, progress=False
    )
    weight, s = (
        vae.likelihood.head.weight.detach(),
        vae.likelihood.piece.likelihood.location_scale(torch.zeros(1, 5))[1],
    )
    ours = weight @ weight.T + s.detach() ** 2 * torch.eye(5)
    expected = truth.weight @ truth.weight.T + truth.scale**2 * torch.eye(5, dtype=FLOAT64)
    zeros = torch.cov(x.nan_to_num(0.0).T)

    def distance(covariance):
        return float((covariance - expected).norm() / expected.norm())

    assert distance(ours) < 0.1 and distance(zeros) > 0.2


# Mistakes


def test_what_is_refused():
    x = torch.randn(6, 4)
    x[2, 1] = NAN
    with pytest.raises(ValueError, match=r"got nan at row 2, column 1 .* missing='mask'"):
        pyrovae.fit(VAE((4,), 2, likelihood="gaussian"), x, epochs=1, progress=False)
    vae = VAE((4,), 2, likelihood="gaussian", missing="zero")
    x[4] = NAN
    for call in (vae.encode, lambda x: pyrovae.fit(vae, x, epochs=1), lambda x: pyrovae.impute(vae, x)):
        with pytest.raises(ValueError, match=r"observed cell in every row, got row 4 with none \(1 of 6 rows\)"):
            call(x)
    x[4], x[:, 3] = 0.0, NAN
    with pytest.raises(ValueError, match="column 3: expected values, got none in any row"):
        pyrovae.fit(vae, x, epochs=1, progress=False)
    x[:, 3] = math.inf
    with pytest.raises(ValueError, match="expected a finite number .*, got inf at row 0, column 3"):
        vae.encode(x)
    with pytest.raises(ValueError, match="elements are independent given z, got Multinomial"):
        VAE((4,), 2, likelihood="multinomial", missing="mask").sample(2)
    with pytest.raises(ValueError, match="Tabular knows missing cells itself"):
        VAE((1,), 2, likelihood=likelihoods.Tabular([datasets.Column("a")]), missing="mask")
    with pytest.raises(ValueError, match="scale=optimal"):
        VAE((4,), 2, likelihood="gaussian(scale=optimal)", missing="mask")
    with pytest.raises(ValueError, match="unknown missing 'masks'.*Did you mean 'mask'"):
        VAE((4,), 2, likelihood="gaussian", missing="masks")


# Data sets with holes


def test_take_away():
    x = torch.rand(2000, 5)
    x[0, 1:] = NAN
    data = Dataset("x", x, x[:500], x[:500], None)
    assert datasets.take_away(data, 0.0) is data
    less = datasets.take_away(data, 0.4, seed=1)
    assert less.missing and torch.equal(less.train.isnan(), datasets.take_away(data, 0.4, seed=1).train.isnan())
    assert not torch.equal(less.train.isnan()[:500], less.test.isnan())
    assert less.train[1:].isnan().float().mean() == pytest.approx(0.4, abs=0.03)
    there = ~less.train.isnan()
    assert there.any(1).all() and torch.equal(less.train[there], x[there]) and there[0].tolist() == [True] + 4 * [False]
    assert (~datasets.take_away(data, 0.999).train.isnan()).any(1).all()
    for share in (1.0, -0.1, NAN):
        with pytest.raises(ValueError, match="missing: expected a share of the cells"):
            datasets.take_away(data, share)


def test_standardization_and_binarization_pass_holes_by():
    x = torch.randn(50, 3, dtype=FLOAT64)
    x[:, 2] = 0.1
    x[3, 0] = x[7, 0] = x[2, 2] = NAN
    loc, scale = standardization(x)
    np.testing.assert_allclose(loc, np.nanmean(x, 0), rtol=1e-12)
    np.testing.assert_allclose(scale[:2], np.nanstd(x, 0)[:2], rtol=1e-12)
    assert scale[2] == 1
    grey = torch.rand(6, 1, 4, 4)
    grey[1, 0, 2, 2] = NAN
    for mode in ("static", "dynamic", "threshold"):
        data = datasets.binarize(Dataset("grey", grey, grey, grey, torch.distributions.constraints.unit_interval), mode)
        rows = data.train if data.transform is None else data.transform(data.train, torch.Generator().manual_seed(0))
        assert torch.equal(rows.isnan(), grey.isnan()) and rows.nan_to_num(0).unique().tolist() == [0.0, 1.0]


def test_a_table_with_holes_from_a_file(tmp_path):
    frame = load_iris(as_frame=True).data
    frame.iloc[3, 1] = frame.iloc[7, 2] = None
    frame.to_csv(tmp_path / "holes.csv", index=False)
    data = datasets.load(str(tmp_path / "holes.csv"), standardize=True)
    assert data.missing and sum(int(x.isnan().sum()) for x in (data.train, data.validation, data.test)) == 2
    np.testing.assert_allclose(np.nanmean(data.train, 0), 0, atol=1e-5)


def test_an_elbo_of_a_single_draw_is_unbiased_with_holes():
    """Against the closed form of E_q log p(x_obs | z) - KL, for q = N(0, 1.3^2)."""
    vae, x, *_ = linear("zero")
    weight, bias = vae.likelihood.head.weight.detach(), vae.likelihood.head.bias.detach()
    spread = 0.25 + 1.69 * weight.square().sum(-1)
    cells = -0.5 * math.log(2 * math.pi * 0.25) - ((x - bias) ** 2 + spread - 0.25) / 0.5
    expected = cells.nan_to_num(0.0).sum(-1) - (1.69 - 1 - math.log(1.69))
    draws = elbos.terms(vae.model, vae.guide, x, num_particles=4000).log_weights
    score = (draws.mean(0) - expected) / (draws.std(0) / math.sqrt(len(draws)))
    assert score.abs().max() < 4
