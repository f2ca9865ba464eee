"""Leave-one-cell-out transforms against normal conditionals, a quadrature over z, and laws that do not depend on z."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import kstest, norm
from torch import nn

import pyrovae
from pyrovae import VAE, likelihoods
from pyrovae.distributions import inverse_scale


def quiet(*args, **settings):
    return pyrovae.loo_pit(*args, progress=False, **settings)


class WithoutCdf(likelihoods.Gaussian):
    """A normal of which only draws are to be had."""

    class Law(dist.Normal):
        def cdf(self, value):
            raise NotImplementedError

    def element(self, loc, scale):
        return self.Law(loc, scale)


def conditional(truth, x):
    """P(a smaller value) of each cell given the others, from the precision matrix of the marginal normal."""
    covariance = truth.weight @ truth.weight.T + truth.scale**2 * torch.eye(len(truth.bias), dtype=torch.float64)
    result = torch.full_like(x, math.nan).numpy()
    for row, values in enumerate(x):
        there = ~values.isnan()
        precision = torch.linalg.inv(covariance[there][:, there])
        scores = precision @ (values - truth.bias)[there] / precision.diagonal().sqrt()
        result[row, there.numpy()] = norm.cdf(scores.numpy())
    return result


@pytest.mark.parametrize("chunk", [4096, 700])
@pytest.mark.parametrize("kind", [likelihoods.Gaussian, WithoutCdf])
def test_normal_conditionals(linear, kind, chunk):
    case = linear(d=12, shift=0.1, stretch=1.3, likelihood=kind(scale=0.5))
    found = quiet(case.vae, case.x, num_samples=4000, chunk=chunk)
    z = (found.pit.values - conditional(case.truth, case.rows)) / found.standard_error.values
    assert np.abs(z).max() < 4.5 and 0.7 < z.std() < 1.3
    assert found.standard_error.max() < 0.06 and found.k_hat.max() < 0.7
    assert found.pit.dims == ("row", "cell") and found.pit["cell"].values.tolist() == [f"x[{i}]" for i in range(12)]


def test_missing_cells_have_none_and_are_integrated_out(linear):
    case = linear(stretch=2.0, likelihood=likelihoods.Missing(likelihoods.Gaussian(scale=0.5), "zero"))
    x = case.rows.clone()
    x[::2, 1] = x[3, 2:5] = math.nan
    x[:, 5] = math.nan
    found = quiet(case.vae, x, num_samples=5000)
    expected = conditional(case.truth, x)
    assert np.array_equal(np.isnan(found.pit), np.isnan(expected)) and found.k_hat.isnull().equals(found.pit.isnull())
    z = (found.pit.values - expected) / found.standard_error.values
    good = (found.k_hat < 0.6).values
    assert good.sum() > 40 and np.abs(z[good]).max() < 4.5
    assert found.cells.index.tolist() == [f"x[{i}]" for i in range(5)] and np.isfinite(found.curves()["upper"]).all()


@pytest.mark.parametrize(
    ("factor", "shift", "says"),
    [(1.0, 0.0, ""), (0.8, 0.0, "too sure"), (1.25, 0.0, "not sure enough"), (1.0, 0.3, "too low")],
)
def test_the_verdict(linear, factor, shift, says):
    case = linear(n=1000, d=12, stretch=1.4, likelihood=likelihoods.Gaussian(scale=0.5 * factor))
    x = case.x.clone()
    x[:, 2] += shift
    found = quiet(case.vae, x, num_samples=200, chunk=20_000)
    words, text = found.cells["says"], str(found)
    assert found.cells["judged"].all() and found.calibrated == (not says)
    if says:
        assert words["x[2]"].startswith(f"the model's guess is {says}") and text.startswith(
            "NOT calibrated: transforms of"
        )
    else:
        assert words.eq("").all() and text.startswith("No departure")
        assert all(kstest(values, "uniform").pvalue > 1e-3 for values in found.pit.values.T)
    assert "1,000 rows; level 0.05, all cells together; k-hat above 0.7: " in text
    curves = found.curves()
    outside = (curves["difference"] < curves["lower"]) | (curves["difference"] > curves["upper"])
    assert outside.any("place").values.tolist() == found.cells["flagged"].tolist()
    assert (found.cells["spread"] > 1.1).all() == (factor < 1) and (found.cells["spread"] < 0.95).all() == (factor > 1)
    assert (found.cells.loc["x[2]", "bias"] > 0.1) == (shift > 0)


def test_a_cell_that_says_most_of_what_is_known_of_z_is_not_judged():
    torch.manual_seed(0)
    vae = VAE((3,), 1, likelihood=likelihoods.Gaussian(scale=0.1), encoder=nn.Identity(), decoder=nn.Identity())
    weight, precision = torch.tensor([[1.0], [0.01], [0.01]]), 1 + (1 + 2 * 0.01**2) / 0.1**2
    with torch.no_grad():
        vae.likelihood.head.weight.copy_(weight)
        vae.posterior.head.weight.zero_()
        vae.posterior.head.weight[0] = weight[:, 0] / 0.1**2 / precision
        vae.posterior.head.bias[1] = inverse_scale(torch.tensor(precision**-0.5), vae.posterior.piece.floor)
        x = vae.model(size=200)
    found = quiet(vae, x, num_samples=300)
    assert found.cells["judged"].tolist() == [False, True, True] and found.cells["p_value"].iloc[0] < 1e-3
    assert found.calibrated and "1 of 3 cells NOT judged" in str(found)


def test_bernoulli_cells_by_quadrature():
    torch.manual_seed(0)
    vae = VAE((4,), 1, encoder=nn.Identity(), decoder=nn.Identity()).double()
    weight, bias = torch.tensor([2.0, -1.0, 1.5, 0.5]), torch.tensor([0.3, 0.0, -1.0, 0.5])
    with torch.no_grad():
        vae.likelihood.head.weight.copy_(weight[:, None])
        vae.likelihood.head.bias.copy_(bias)
        vae.posterior.head.weight.zero_()
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).double().repeat(25, 1)
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)[:, None]
    log_p = dist.Bernoulli(logits=z * weight + bias).log_prob(x[:16, None])  # (16, z, cell)
    rest = log_p.sum(-1, keepdim=True) - log_p - z**2 / 2
    zero = (rest.softmax(1) * (z * weight + bias).neg().sigmoid()).sum(1).repeat(25, 1).numpy()
    found = quiet(vae, x, num_samples=2000)
    # The share of P(equal) that was taken is uniform, whatever the cell is.
    share = np.where(x == 0, found.pit / zero, (found.pit - zero) / (1 - zero))
    for value in (0, 1):
        for cell in range(4):
            assert kstest(share[x[:, cell] == value, cell], "uniform").pvalue > 1e-3
    low, high = (np.where(x == 0, *pair) for pair in ((0 * zero, zero), (zero, 0 * zero + 1)))
    error = 5 * found.standard_error.values
    assert (found.pit.values > low - error).all() and (found.pit.values < high + error).all()
    assert np.abs(zero - (-bias).sigmoid().numpy()).max() > 0.1  # the other cells say something


@pytest.mark.parametrize(
    "likelihood",
    ["poisson", "negative_binomial", "student_t", "beta", "gamma", "log_normal", "ordinal(classes=5)",
     "categorical(classes=4)", "discretised_logistic", "continuous_bernoulli"],
)  # fmt: skip
def test_laws_that_do_not_depend_on_z(likelihood):
    torch.manual_seed(0)
    vae = VAE((2, 2), 2, likelihood=likelihood)
    with torch.no_grad():
        vae.likelihood.head.weight.zero_()
        vae.likelihood.head.bias.normal_(std=0.3)
        x = vae.model(size=200)
    found = quiet(vae, x, num_samples=100, chunk=20_000, alpha=1e-3)
    assert found.calibrated and found.pit["cell"].values.tolist() == ["x[0, 0]", "x[0, 1]", "x[1, 0]", "x[1, 1]"]
    assert ((found.pit >= 0) & (found.pit <= 1)).all() and (found.pit.std("row") > 0.2).all()


def test_columns_of_a_table():
    columns = [{"name": "a", "kind": "real"}, {"name": "b", "kind": "categorical", "categories": ["u", "v", "w"]},
               {"name": "c", "kind": "real"}]  # fmt: skip
    vae = VAE((3,), 2, likelihood=likelihoods.Tabular(columns))
    with torch.no_grad():
        vae.likelihood.head.weight.zero_()
        x = vae.model(size=40)
    x[0, 1] = math.nan
    found = quiet(vae, x, num_samples=200)
    parts = vae.decode(torch.zeros(1, 2)).parts
    for places, p in parts:
        for i, place in enumerate(torch.as_tensor(places).tolist()):
            ours, values = found.pit.values[:, place], x[:, place]
            if place == 1:
                probs = p.probs[0, i]
                top = probs.cumsum(-1)[values.nan_to_num(0).long()].detach().numpy()
                assert (ours[1:] <= top[1:] + 0.2).all() and math.isnan(ours[0])
            else:
                assert ours == pytest.approx(
                    p.cdf(values[:, None].expand(-1, p.batch_shape[-1]))[:, i].detach().numpy()
                )


def test_more_sites_than_one(tiny):
    vae, x = tiny(latent_dim=[2, 2]), torch.randn(5, 3)
    found = quiet(vae, x, num_samples=100)
    assert found.pit.shape == (5, 3) and found.pit.notnull().all()
    labels = torch.tensor([0, 1, 2, -1, -1])
    assert quiet(tiny(label=3), x, labels, num_samples=100).pit.notnull().all()


def test_what_it_refuses(tiny):
    x = torch.randn(6, 3)
    for reason, settings in {
        "is a point": dict(posterior="delta"),
        "makes rows depend": dict(prior="gp", condition_dim=1),
        "expected no mechanism": dict(missing="mask", mechanism="self_masking"),
        "got Multinomial": dict(likelihood="multinomial"),
    }.items():
        condition = torch.randn(6, 1) if "condition_dim" in settings else None
        rows = torch.ones(6, 3) if "likelihood" in settings else x
        with pytest.raises(ValueError, match=f"loo_pit: .*{reason}"):
            quiet(tiny(**settings), rows, condition)
    with pytest.raises(ValueError, match="num_samples: expected a whole number of at least 25, got 24"):
        quiet(tiny(), x, num_samples=24)
    with pytest.raises(ValueError, match="alpha: expected a probability"):
        quiet(tiny(), x, alpha=1.0)
    vae = tiny()
    with torch.no_grad():
        vae.likelihood.head.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="at row 0"):
        quiet(vae, x)


def test_the_seed_is_all_that_draws_depend_on(tiny):
    vae, x, state = tiny(), torch.randn(4, 3), torch.random.get_rng_state()
    first, again, other = (quiet(vae, x, num_samples=50, seed=seed).pit for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other) and torch.equal(torch.random.get_rng_state(), state)
