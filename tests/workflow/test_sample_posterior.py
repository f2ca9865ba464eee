"""Draws of the posterior against closed forms and numerical integration, by errors from effective sample sizes."""

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from pyrovae import VAE, likelihoods, sample_posterior
from pyrovae.datasets import LinearGaussian
from pyrovae.distributions import inverse_scale

FEW = dict(num_samples=250, warmup=200, leapfrog=4, chunk=10_000, progress=False)
FEWER = dict(num_samples=200, warmup=150, num_chains=1, progress=False)  # NUTS is slow


def z_of(idata):
    return idata["posterior"]["z"].values


def stats_of(idata):
    found = idata["sample_stats"]
    return found if isinstance(found, xr.Dataset) else found.to_dataset()


def worst(idata, mean, covariance):
    """The largest distance of posterior means and covariances from the true ones (N, D) and (N, D, D), in standard
    errors: sd over the square root of the effective sample size, of a resampled chain that of its proposals at the
    most."""
    z = z_of(idata)
    centred = z - mean
    products = np.einsum("cdni,cdnj->cdnij", centred, centred).reshape(*z.shape[:3], -1)
    values = np.concatenate([centred, products - covariance.reshape(len(mean), -1)], -1)
    size = az.ess(xr.Dataset({"v": (("chain", "draw", "row", "k"), values)}), method="mean")["v"].values
    stats = stats_of(idata)
    if "importance_ess" in stats:
        worth = stats["importance_ess"].values.sum(0)[:, None]
        size = 1 / (1 / size + 1 / worth)
    return np.abs(values.mean((0, 1)) / (values.std((0, 1)) / np.sqrt(size))).max()


@pytest.fixture
def correlated():
    """A linear-Gaussian VAE whose posterior is correlated, with a guide that is off, and the exact posterior."""
    truth = LinearGaussian.random(4, 2, scale=0.8, seed=3, orthogonal=False)
    x = truth.sample(3, seed=2)
    mean, covariance = truth.posterior(x)
    vae = VAE((4,), 2, likelihood=likelihoods.Gaussian(scale=0.8), encoder=nn.Identity(), decoder=nn.Identity())
    vae.double()
    slope = covariance @ truth.weight.T / 0.8**2
    sd = 1.5 * covariance.diagonal().sqrt()
    with torch.no_grad():
        vae.likelihood.head.weight.copy_(truth.weight)
        vae.likelihood.head.bias.copy_(truth.bias)
        vae.posterior.head.weight.copy_(torch.cat([slope, torch.zeros_like(slope)]))
        vae.posterior.head.bias.copy_(
            torch.cat([0.3 - slope @ truth.bias, inverse_scale(sd, vae.posterior.piece.floor)])
        )
    assert abs(covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()) > 0.3
    return vae, x, mean.numpy(), np.broadcast_to(covariance.numpy(), (3, 2, 2))


@pytest.mark.parametrize("method", ["sir", "mala", "hmc", "nuts"])
def test_a_posterior_in_closed_form(correlated, method):
    vae, x, mean, covariance = correlated
    rows, settings = (1, FEWER) if method == "nuts" else (3, FEW)
    idata = sample_posterior(vae, x[:rows], method=method, **settings)
    assert worst(idata, mean[:rows], covariance[:rows]) < 4
    assert az.ess(idata, var_names=["z"])["z"].values.min() > 100
    if settings is FEW:
        assert az.rhat(idata, var_names=["z"])["z"].values.max() < 1.05


def test_missing_cells_are_integrated_out(linear):
    exact = linear(n=2, stretch=1.5, likelihood=likelihoods.Missing(likelihoods.Gaussian(scale=0.5), "zero"))
    x, seen = exact.x.clone(), [0, 2, 5]
    x[:, [1, 3, 4]] = torch.nan
    weight, bias = exact.truth.weight[seen], exact.truth.bias[seen]
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + weight.T @ weight / 0.5**2)
    mean = (x[:, seen] - bias) @ weight @ covariance / 0.5**2
    idata = sample_posterior(exact.vae, x, method="mala", **FEW)
    assert worst(idata, mean.numpy(), np.broadcast_to(covariance.numpy(), (2, 2, 2))) < 4
    assert np.array_equal(idata["observed_data"]["x"].values, x.numpy(), equal_nan=True)


def test_the_guide_is_found_out(correlated):
    vae, x, mean, covariance = correlated
    idata = sample_posterior(vae, x, method="guide", **FEW)
    assert worst(idata, mean, covariance) > 10
    assert np.allclose(z_of(idata).mean((0, 1)), mean + 0.3, atol=0.1)


def test_log_densities(correlated):
    vae, x, _, _ = correlated
    idata = sample_posterior(vae, x, method="mala", num_samples=5, num_chains=2, warmup=5, chunk=2, progress=False)
    z = torch.as_tensor(z_of(idata))
    head = vae.likelihood.head
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    expected = expected + torch.distributions.Normal(z @ head.weight.T + head.bias, 0.8).log_prob(x).sum(-1)
    assert np.allclose(stats_of(idata)["lp"].values, expected.detach().numpy(), atol=1e-10)


def quadrature(vae, x, edges):
    """Posterior mean and covariance of each row by a sum over a grid of z."""
    axis = torch.linspace(*edges, 4001 if vae.latent_dim == 1 else 301, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * vae.latent_dim).reshape(-1, vae.latent_dim)
    with torch.no_grad():
        likelihood = vae.decode(grid[:, None]).log_prob(x)
        share = (vae.prior(None, None).log_prob(grid)[:, None] + likelihood).softmax(0)
    mean = share.T @ grid
    centred = grid[:, None] - mean
    edge = (grid == edges[0]).any(1) | (grid == edges[1]).any(1)
    return mean.numpy(), torch.einsum("gn,gni,gnj->nij", share, centred, centred).numpy(), share[edge].sum(0).max()


@pytest.mark.parametrize(("likelihood", "method"), [("bernoulli", "hmc"), ("poisson", "mala"), ("poisson", "sir")])
def test_a_posterior_that_is_not_normal(likelihood, method):
    torch.manual_seed(3)
    vae = VAE((4,), 2, likelihood=likelihood, encoder="mlp(hidden=[8])", decoder="mlp(hidden=[8])").double()
    vae.likelihood.head.weight.data.mul_(10)
    x = torch.tensor([[0.0, 1, 1, 0], [1.0, 1, 0, 1]], dtype=torch.float64)
    mean, covariance, edge = quadrature(vae, x, (-7.0, 7.0))
    assert edge < 1e-6
    assert worst(sample_posterior(vae, x, method="guide", **FEW), mean, covariance) > 10
    assert worst(sample_posterior(vae, x, method=method, **FEW), mean, covariance) < 4


@pytest.mark.parametrize(
    ("prior", "edges", "method"),
    [
        ("gamma(concentration=2.0)", (1e-9, 40.0), "mala"),
        ("uniform", (1e-9, 1 - 1e-9), "hmc"),
        ("uniform", (1e-9, 1 - 1e-9), "nuts"),
    ],
)
def test_where_z_is_bounded(prior, edges, method):
    torch.manual_seed(1)
    vae = VAE((2,), 1, prior=prior, likelihood="gaussian(scale=0.5)", encoder="mlp(hidden=[4])").double()
    vae.likelihood.head.weight.data.mul_(4)
    x = torch.tensor([[0.5, -0.3]], dtype=torch.float64)
    mean, covariance, _ = quadrature(vae, x, edges)
    settings = FEWER if method == "nuts" else FEW
    assert worst(sample_posterior(vae, x, method=method, **settings), mean, covariance) < 4
    assert worst(sample_posterior(vae, x, method="guide", **FEW), mean, covariance) > 10


@pytest.mark.parametrize("method", ["mala", "sir"])
def test_on_the_simplex(method):
    torch.manual_seed(1)
    vae = VAE((2,), 2, prior="dirichlet", likelihood="gaussian(scale=0.5)", encoder="mlp(hidden=[4])").double()
    vae.likelihood.head.weight.data.mul_(4)
    x = torch.tensor([[0.5, -0.3]], dtype=torch.float64)
    first = torch.linspace(1e-6, 1 - 1e-6, 4001, dtype=torch.float64)
    grid = torch.stack([first, 1 - first], -1)
    with torch.no_grad():
        share = (vae.prior(None, None).log_prob(grid) + vae.decode(grid).log_prob(x)).softmax(0)
    mean = float(share @ first)
    variance = float(share @ (first - mean).square())
    idata = sample_posterior(vae, x, method=method, **FEW)
    z = z_of(idata)
    assert z.shape[-1] == 2 and np.allclose(z.sum(-1), 1) and (z > 0).all()
    # The second is 1 less the first.
    firsts = {"posterior": {"z": idata["posterior"]["z"][..., :1]}, "sample_stats": stats_of(idata)}
    assert worst(firsts, np.array([[mean]]), np.array([[[variance]]])) < 4


def test_masses_and_steps_are_found_where_the_guide_is_far_too_wide_or_narrow(linear):
    for stretch in (0.05, 20.0):
        exact = linear(n=2, stretch=stretch)
        mean, covariance = exact.truth.posterior(exact.rows)
        idata = sample_posterior(exact.vae, exact.x, method="mala", **FEW)
        assert worst(idata, mean.numpy(), np.broadcast_to(covariance.numpy(), (2, 2, 2))) < 4
        stats = stats_of(idata)
        assert 0.4 < stats["acceptance_rate"].values.mean() < 0.95
        assert (stats["step_size"].values > 0.5).all() and not stats["diverging"].values.any()


class Square(nn.Module):
    def forward(self, z):
        return z.square()


def test_two_modes_between_which_no_chain_moves_are_seen_by_r_hat():
    vae = VAE((1,), 1, likelihood="gaussian(scale=0.1)", encoder="mlp(hidden=[4])", decoder=Square()).double()
    with torch.no_grad():
        vae.likelihood.head.weight.fill_(1.0)
        vae.posterior.head.weight.zero_()
        vae.posterior.head.bias.copy_(torch.tensor([0.0, inverse_scale(torch.tensor(2.0), 0.0)]))
    x = torch.tensor([[4.0]], dtype=torch.float64)
    arguments = dict(num_samples=100, warmup=100, leapfrog=4, progress=False)
    stuck = sample_posterior(vae, x, method="hmc", **arguments)
    signs = np.sign(z_of(stuck)).squeeze((2, 3))
    assert (signs == signs[:, :1]).all() and len(np.unique(signs)) == 2
    assert az.rhat(stuck, var_names=["z"])["z"].values.max() > 1.5
    mean, covariance, _ = quadrature(vae, x, (-6.0, 6.0))
    assert worst(sample_posterior(vae, x, method="sir", **arguments), mean, covariance) < 4


def test_chains_start_apart(linear):
    exact = linear(n=1, stretch=1.0)
    sd = exact.covariance.diagonal().sqrt().numpy()
    arguments = dict(num_samples=1, num_chains=400, warmup=0, progress=False)
    guide = z_of(sample_posterior(exact.vae, exact.x, method="guide", **arguments)).std(0) / sd
    assert np.allclose(guide, 1, atol=0.2)
    # One move of Langevin dynamics at a small step has hardly begun to forget where it started.
    first = z_of(sample_posterior(exact.vae, exact.x, method="mala", **arguments)).std(0) / sd
    assert (first > 1.5).all()


@pytest.mark.parametrize("method", ["guide", "sir", "mala", "hmc", "nuts"])
def test_what_it_gives_and_what_it_leaves_alone(tiny, method):
    vae = tiny(condition_dim=2).train()
    x, condition = torch.randn(2, 3), torch.eye(2)
    arguments = dict(method=method, num_samples=4, num_chains=2, warmup=2, progress=False)
    state = torch.get_rng_state()
    idata = sample_posterior(vae, x.numpy(), condition, **arguments)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.requires_grad and p.grad is None for p in vae.parameters()) and vae.training
    assert idata["posterior"]["z"].dims == ("chain", "draw", "row", "latent")
    assert z_of(idata).shape == (2, 4, 2, 2) and z_of(idata).dtype == np.float32
    assert np.array_equal(idata["observed_data"]["x"].values, x.numpy())
    assert np.array_equal(idata["constant_data"]["condition"].values, condition.numpy())
    assert idata.attrs["sampler"] == method
    stats = stats_of(idata)
    chain, draw, row = "chain", "draw", "row"
    expected = {"lp": (chain, draw, row)}
    if method in ("guide", "sir"):
        expected |= {"k_hat": (row,)} | ({"importance_ess": (chain, row)} if method == "sir" else {})
    else:
        each = method == "nuts"
        expected |= {
            "acceptance_rate": (chain, row) if each else (chain, draw, row),
            "diverging": (chain, draw, row),
            "step_size": (chain, row) if each else (row,),
        }
    assert {name: values.dims for name, values in stats.data_vars.items()} == expected
    again, other = (sample_posterior(vae, x, condition, seed=seed, **arguments) for seed in (0, 1))
    assert np.array_equal(z_of(again), z_of(idata)) and not np.array_equal(z_of(other), z_of(idata))
    chunk = 500 if method == "sir" else 2
    assert np.isfinite(z_of(sample_posterior(vae, x, condition, chunk=chunk, **arguments))).all()


@pytest.mark.parametrize("method", ["sir", "hmc"])
def test_k_hat_and_the_condition_are_those_of_their_rows(method):
    vae = VAE((1,), 1, likelihood="gaussian(scale=0.1)", condition_dim=1, encoder=Both(), decoder=Both()).double()
    with torch.no_grad():
        # x = z + 10 c + noise, so that the posterior of row n is near x_n - 10 c_n.
        vae.likelihood.head.weight.copy_(torch.tensor([[1.0, 10.0]]))
        vae.posterior.head.weight.copy_(torch.tensor([[1.0, -10.0], [0.0, 0.0]]))
        vae.posterior.head.bias.copy_(torch.tensor([0.0, inverse_scale(torch.tensor(0.12), 0.0)]))
    condition = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    x = torch.tensor([[0.5], [9.0], [21.0]], dtype=torch.float64)
    idata = sample_posterior(
        vae, x, condition, method=method, **FEW | dict(chunk=8 if method == "hmc" else 4000, warmup=100)
    )
    assert np.allclose(z_of(idata).mean((0, 1, 3)), np.array([0.5, -1.0, 1.0]) / 1.01, atol=0.03)
    if method == "sir":
        assert stats_of(idata)["k_hat"].values.max() < 0.7


class Both(nn.Module):
    def forward(self, u, condition):
        return torch.cat([u, condition], -1)


def test_what_it_refuses(tiny):
    x = torch.randn(4, 3)
    wrong = dict(method="gibbs", num_samples=0, num_chains=0, warmup=-1, leapfrog=0, chunk=0, seed=-1)
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            sample_posterior(tiny(), x, **{name: value})
    refused = {
        "is a point": dict(posterior="delta"),
        "got one on OneHot": dict(prior="one_hot", posterior="categorical"),
        "got one on ": dict(prior="hyperspherical", posterior="power_spherical"),
        "makes rows depend": dict(prior="gp", condition_dim=1),
        "got one on the simplex": dict(latent_dim=[3, 2], prior="dirichlet"),
        "expected no label": dict(label=3),
        "expected no mechanism": dict(missing="mask", mechanism="self_masking"),
    }
    for reason, arguments in refused.items():
        vae = tiny(**arguments)
        condition = torch.zeros(4, 1) if arguments.get("condition_dim") else None
        for method in ("guide", "hmc"):
            with pytest.raises(ValueError, match=f"sample_posterior: .*{reason}"):
                sample_posterior(vae, x, condition, method=method)
    with pytest.raises(ValueError, match="x: expected shape"):
        sample_posterior(tiny(), torch.randn(4, 2))
    with pytest.raises(ValueError, match="condition"):
        sample_posterior(tiny(condition_dim=2), x)
    broken = tiny()
    broken.likelihood.head.bias.data.fill_(torch.nan)
    for method in ("sir", "hmc"):
        with pytest.raises(FloatingPointError, match="row 0"):
            sample_posterior(broken, x, method=method, num_samples=5, progress=False)
