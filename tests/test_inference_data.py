"""ArviZ's groups hold what the model says: names, axes, draws and densities, on either line of ArviZ's releases."""

import arviz as az
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import nn

from pyrovae import VAE, inference_data, likelihoods
from pyrovae.evaluation.psis import k_hat
from pyrovae.inference_data import to_inference_data, write_netcdf

ROWS, DRAWS = 6, 50
GROUPS = {
    "posterior": {"z"},
    "posterior_predictive": {"x"},
    "prior": {"z"},
    "prior_predictive": {"x"},
    "log_likelihood": {"x"},
    "sample_stats": {"log_weight", "lp", "k_hat"},
    "observed_data": {"x"},
    "constant_data": {"labels"},
}


class Both(nn.Module):
    """Features of an input and a condition: the two side by side."""

    def forward(self, u, condition):
        return torch.cat([u, condition], -1)


def linear(**kwargs):
    torch.manual_seed(1)
    network = Both if kwargs.get("condition_dim") else nn.Identity
    return VAE((4,), 2, likelihood=likelihoods.Gaussian(scale=0.7), encoder=network(), decoder=network(), **kwargs)


def rows(count=ROWS, *shape):
    return torch.randn(count, *(shape or (4,)), generator=torch.Generator().manual_seed(2))


def names(idata):
    return set(idata.groups() if callable(idata.groups) else idata.children)


def dataset(idata, group):
    found = idata[group]
    return found if isinstance(found, xr.Dataset) else found.to_dataset()


def weights(head):
    return head.weight.detach().double().numpy(), head.bias.detach().double().numpy()


def gaussian_parts(vae, idata):
    """log p(x|z), log p(z) and log q(z|x) in float64 by SciPy, from the saved z and the model's own weights."""
    x = dataset(idata, "observed_data")["x"].values.astype(float)
    z = dataset(idata, "posterior")["z"].values.astype(float)
    constants = dataset(idata, "constant_data") if "constant_data" in names(idata) else {}
    c = constants["condition"].values.astype(float) if "condition" in constants else np.zeros((len(x), 0))
    decoder, decoder_bias = weights(vae.likelihood.head)
    encoder, encoder_bias = weights(vae.posterior.head)
    beside_z = np.broadcast_to(c, (*z.shape[:-1], c.shape[-1]))
    mean = np.concatenate([z, beside_z], -1) @ decoder.T + decoder_bias
    loc, raw = np.split(np.concatenate([x, c], -1) @ encoder.T + encoder_bias, 2, axis=-1)
    scale = 1e-4 + np.logaddexp(0, raw)
    return (
        stats.norm.logpdf(x, mean, 0.7).sum(-1),
        stats.norm.logpdf(z).sum(-1),
        stats.norm.logpdf(z, loc, scale).sum(-1),
    )


def assert_densities(vae, idata):
    log_likelihood, log_prior, log_q = gaussian_parts(vae, idata)
    np.testing.assert_allclose(dataset(idata, "log_likelihood")["x"], log_likelihood, rtol=1e-5)
    statistics = dataset(idata, "sample_stats")
    np.testing.assert_allclose(statistics["lp"], log_likelihood + log_prior, rtol=1e-5)
    np.testing.assert_allclose(statistics["log_weight"], log_likelihood + log_prior - log_q, rtol=1e-5, atol=1e-5)


# Names and axes


def test_groups_and_variables():
    idata = to_inference_data(linear(), rows(), labels=range(ROWS), num_samples=DRAWS)
    assert names(idata) == set(GROUPS)
    for group, variables in GROUPS.items():
        assert set(dataset(idata, group).data_vars) == variables
        assert not set(dataset(idata, group).dims) - set(dataset(idata, group).coords)


def test_no_constants_no_constant_data():
    assert names(to_inference_data(linear(), rows(), num_samples=2)) == set(GROUPS) - {"constant_data"}


@pytest.mark.parametrize(
    ("event_shape", "dims"),
    [
        ((4,), ("column",)),
        ((2, 3, 5), ("channel", "height", "width")),
        ((3, 5), ("event_0", "event_1")),
    ],
)
def test_dims(event_shape, dims):
    idata = to_inference_data(VAE(event_shape, 3, likelihood="gaussian"), rows(ROWS, *event_shape), num_samples=DRAWS)
    draw, shape = ("chain", "draw"), (1, DRAWS)
    expected = {
        ("posterior", "z"): ((*draw, "row", "latent"), (*shape, ROWS, 3)),
        ("posterior_predictive", "x"): ((*draw, "row", *dims), (*shape, ROWS, *event_shape)),
        ("prior", "z"): ((*draw, "latent"), (*shape, 3)),
        ("prior_predictive", "x"): ((*draw, *dims), (*shape, *event_shape)),
        ("log_likelihood", "x"): ((*draw, "row"), (*shape, ROWS)),
        ("sample_stats", "log_weight"): ((*draw, "row"), (*shape, ROWS)),
        ("sample_stats", "lp"): ((*draw, "row"), (*shape, ROWS)),
        ("sample_stats", "k_hat"): (("row",), (ROWS,)),
        ("observed_data", "x"): (("row", *dims), (ROWS, *event_shape)),
    }
    for (group, name), (dims, shape) in expected.items():
        array = dataset(idata, group)[name]
        assert (array.dims, array.shape) == (dims, shape)
        for dim, size in zip(dims, shape, strict=True):
            np.testing.assert_array_equal(array[dim], np.arange(size))


def test_column_and_label_names():
    idata = to_inference_data(
        linear(),
        rows(),
        labels=torch.tensor([0, 1, 0, 1, 2, 2]),
        label_names=["a", "b", "long name"],
        columns=list("pqrs"),
        num_samples=2,
    )
    for group in ("observed_data", "posterior_predictive", "prior_predictive"):
        assert dataset(idata, group)["x"]["column"].values.tolist() == list("pqrs")
    constants = dataset(idata, "constant_data")
    assert constants["labels"].values.tolist() == [0, 1, 0, 1, 2, 2]
    assert constants["label_name"].values.tolist() == ["a", "b", "a", "b", "long name", "long name"]
    z = dataset(idata, "posterior")["z"]
    assert z.where(z["label_name"] == "b", drop=True)["row"].values.tolist() == [1, 3]


def test_a_data_frame_brings_its_column_names():
    frame = pd.DataFrame(rows().numpy(), columns=list("pqrs"))
    x = dataset(to_inference_data(linear(), frame, num_samples=2), "observed_data")["x"]
    assert x["column"].values.tolist() == list("pqrs")


@pytest.mark.parametrize("labels", [[0.5] * ROWS, np.array(list("abcabc"))])
def test_labels_of_any_kind_are_kept(labels):
    kept = dataset(to_inference_data(linear(), rows(), labels=labels, num_samples=2), "constant_data")["labels"]
    assert kept.values.tolist() == list(labels)


def test_attributes():
    attrs = to_inference_data(linear(), rows(), num_samples=DRAWS, seed=3).attrs
    assert (attrs["inference_library"], attrs["bound"]) == ("pyrovae", "elbo")
    assert (attrs["num_samples"], attrs["seed"]) == (DRAWS, 3)
    assert attrs["pyro_version"] == pyro.__version__
    assert attrs["torch_version"] == str(torch.__version__)
    assert attrs["inference_library_version"]
    assert pd.Timestamp(attrs["created_at"]).tz is not None


def test_the_log_likelihood_says_what_not_to_do_with_it():
    log_likelihood = dataset(to_inference_data(linear(), rows(), num_samples=2), "log_likelihood")
    assert "az.loo" in log_likelihood.attrs["warning"]
    assert log_likelihood["x"].attrs["units"] == "nats"


# Values


def test_densities_are_those_of_scipy():
    vae = linear()
    idata = to_inference_data(vae, rows(), num_samples=DRAWS)
    assert_densities(vae, idata)
    log_weights = torch.tensor(dataset(idata, "sample_stats")["log_weight"].values[0])
    np.testing.assert_array_equal(dataset(idata, "sample_stats")["k_hat"], k_hat(log_weights))
    assert np.isfinite(dataset(idata, "sample_stats")["k_hat"]).all()


@pytest.mark.parametrize("chunk", [1, 2 * DRAWS, 5 * DRAWS])
def test_rows_in_several_batches_stay_in_order(chunk, monkeypatch):
    monkeypatch.setattr(inference_data, "draws_at_once", lambda vae, _: chunk)
    vae, x, condition = linear(condition_dim=3), rows(), rows(ROWS, 3)
    idata = to_inference_data(vae, x, condition, num_samples=DRAWS)
    np.testing.assert_array_equal(dataset(idata, "observed_data")["x"], x)
    assert_densities(vae, idata)


def test_draws_have_the_distributions_of_the_model():
    vae, count = linear(), 4000
    idata = to_inference_data(vae, rows(), num_samples=count)
    decoder, bias = weights(vae.likelihood.head)
    for latents, predictive in (("posterior", "posterior_predictive"), ("prior", "prior_predictive")):
        z, x = dataset(idata, latents)["z"].values, dataset(idata, predictive)["x"].values
        residual = (x - z @ decoder.T - bias) / 0.7
        assert stats.kstest(residual.ravel(), "norm").pvalue > 1e-3
        residual = residual.reshape(-1, 4)
        assert np.abs(np.corrcoef(residual.T) - np.eye(4)).max() < 5 / len(residual) ** 0.5
    assert stats.kstest(dataset(idata, "prior")["z"].values.ravel(), "norm").pvalue > 1e-3
    encoder, bias = weights(vae.posterior.head)
    loc, raw = np.split(rows().double().numpy() @ encoder.T + bias, 2, axis=-1)
    standardized = (dataset(idata, "posterior")["z"].values - loc) / (1e-4 + np.logaddexp(0, raw))
    assert stats.kstest(standardized.ravel(), "norm").pvalue > 1e-3


def test_values_are_kept_as_they_are():
    x = rows()
    kept = dataset(to_inference_data(linear(), x, num_samples=2), "observed_data")["x"]
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, x)


@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.float32, np.float32), (torch.float64, np.float64), (torch.bfloat16, np.float32)]
)
def test_the_dtype_is_the_model_s(dtype, kept):
    idata = to_inference_data(linear().to(dtype), rows(), num_samples=2)
    for group in names(idata) - {"sample_stats"}:
        assert {array.dtype for array in dataset(idata, group).values()} == {np.dtype(kept)}


def test_an_image_model():
    vae = VAE((1, 4, 4), 2)
    x = rows(ROWS, 1, 4, 4).gt(0).float()
    idata = to_inference_data(vae, x, num_samples=DRAWS)
    assert set(np.unique(dataset(idata, "posterior_predictive")["x"])) == {0, 1}
    z = torch.tensor(dataset(idata, "posterior")["z"].values[0])
    p = vae.decode(z).mean.detach().double().numpy()
    expected = stats.bernoulli.logpmf(x.numpy(), p).sum((-1, -2, -3))
    np.testing.assert_allclose(dataset(idata, "log_likelihood")["x"][0], expected, rtol=1e-5)


def test_a_conditional_model():
    vae, condition = linear(condition_dim=3), rows(ROWS, 3)
    idata = to_inference_data(vae, rows(), condition, num_samples=DRAWS)
    assert_densities(vae, idata)
    kept = dataset(idata, "constant_data")["condition"]
    assert kept.dims == ("row", "condition_dim")
    np.testing.assert_array_equal(kept, condition)
    z, x = dataset(idata, "prior")["z"], dataset(idata, "prior_predictive")["x"]
    assert (z.dims, x.dims) == (("chain", "draw", "row", "latent"), ("chain", "draw", "row", "column"))
    decoder, bias = weights(vae.likelihood.head)
    mean = z.values @ decoder[:, :2].T + condition.double().numpy() @ decoder[:, 2:].T + bias
    assert stats.kstest(((x - mean) / 0.7).values.ravel(), "norm").pvalue > 1e-3


def test_a_single_condition_is_that_of_every_row():
    vae, condition = linear(condition_dim=3), rows(1, 3)
    idata = to_inference_data(vae, rows(), condition, num_samples=2)
    np.testing.assert_array_equal(dataset(idata, "constant_data")["condition"], condition.expand(ROWS, -1))


class Layered(VAE):
    """Two latent sites, of sizes 1 and 2; the second is the mean of x."""

    def model(self, x=None, condition=None, *, size=None):
        x, condition, plate = self._rows(x, condition, size)
        with plate:
            top = pyro.sample("z1", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            z = pyro.sample("z2", dist.Normal(top.expand(*top.shape[:-1], 2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x=None, condition=None, *, size=None):
        x, condition, plate = self._rows(x, condition, size)
        with plate:
            pyro.sample("z1", dist.Normal(0.0, 2.0).expand([1]).to_event(1))
            return pyro.sample("z2", dist.Normal(x, 3.0).to_event(1))


def test_a_model_of_several_latent_sites():
    vae = Layered((2,), 2, likelihood="gaussian")
    x = rows(ROWS, 2)
    idata = to_inference_data(vae, x, num_samples=DRAWS)
    posterior = dataset(idata, "posterior")
    assert posterior["z1"].dims == ("chain", "draw", "row", "z1_latent")
    assert posterior["z2"].shape == (1, DRAWS, ROWS, 2)
    assert set(dataset(idata, "prior")) == {"z1", "z2"}
    top, z, x = posterior["z1"].values.astype(float), posterior["z2"].values.astype(float), x.double().numpy()
    pieces = [(x, z, 1), (z, top, 1), (top, 0, 1)]
    lp = sum(stats.norm.logpdf(*piece).sum(-1) for piece in pieces)
    log_q = stats.norm.logpdf(top, 0, 2).sum(-1) + stats.norm.logpdf(z, x, 3).sum(-1)
    np.testing.assert_allclose(dataset(idata, "sample_stats")["log_weight"], lp - log_q, rtol=1e-4, atol=1e-4)


# What a user relies on


def test_arviz_summarises_it():
    idata = to_inference_data(linear(), rows(), labels=[0] * ROWS, label_names=["a"], num_samples=DRAWS)
    summary = az.summary(idata, var_names=["z"], kind="stats", round_to="none")
    z = dataset(idata, "posterior")["z"].values.astype(float)
    np.testing.assert_allclose(summary["mean"].astype(float), z.mean((0, 1)).ravel(), rtol=1e-4)


def test_netcdf_round_trip(tmp_path):
    idata = to_inference_data(
        linear(condition_dim=3),
        rows(),
        rows(ROWS, 3),
        labels=[0, 1, 0, 1, 0, 1],
        label_names=["a", "bc"],
        columns=list("pqrs"),
        num_samples=DRAWS,
    )
    path = write_netcdf(idata, tmp_path / "run" / "inference_data.nc")
    assert [file.name for file in path.parent.iterdir()] == ["inference_data.nc"]
    read = az.from_netcdf(str(path))
    assert names(read) == names(idata)
    assert read.attrs == idata.attrs
    for group in names(idata):
        ours, theirs = dataset(idata, group), dataset(read, group).load()
        xr.testing.assert_equal(ours, theirs)
        assert {name: array.dtype for name, array in ours.items()} == {n: array.dtype for n, array in theirs.items()}
        assert ours.attrs == theirs.attrs
    assert dataset(read, "log_likelihood")["x"].attrs == dataset(idata, "log_likelihood")["x"].attrs
    read.close()


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    idata = to_inference_data(linear(), rows(), num_samples=2)
    path = write_netcdf(idata, tmp_path / "a.nc")
    before = path.read_bytes()

    def fail(self, filename, *args, **kwargs):
        with open(filename, "wb") as file:
            file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(type(idata), "to_netcdf", fail)
    with pytest.raises(OSError, match="no space"):
        write_netcdf(idata, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_seed_decides():
    vae, x = linear(), rows()
    first, again, other = (to_inference_data(vae, x, num_samples=DRAWS, seed=seed) for seed in (5, 5, 6))
    for group in set(GROUPS) - {"observed_data", "constant_data"}:
        xr.testing.assert_identical(dataset(first, group), dataset(again, group))
        assert not dataset(first, group).equals(dataset(other, group))


def test_nothing_of_the_user_s_moves():
    vae = VAE(
        (4,),
        2,
        likelihood="gaussian",
        encoder=nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)),
    )
    vae.likelihood.eval()
    modes = [module.training for module in vae.modules()]
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    pyro.param("mine", torch.tensor(1.0))
    params = set(pyro.get_param_store().keys())
    random = torch.get_rng_state()
    pyro.enable_validation(True)
    to_inference_data(vae, rows(), num_samples=2)
    assert torch.distributions.Distribution._validate_args
    assert torch.equal(torch.get_rng_state(), random)
    assert set(pyro.get_param_store().keys()) == params
    assert [module.training for module in vae.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert all(parameter.grad is None for parameter in vae.parameters())
    pyro.clear_param_store()


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 1}, "num_samples: expected a whole number of at least 2, got 1"),
        ({"num_samples": 2.0}, "num_samples"),
        ({"num_samples": True}, "num_samples"),
        ({"seed": None}, "seed"),
        ({"labels": [0, 1]}, r"labels: expected one for each row of x, shape \(6,\), got shape \(2,\)"),
        ({"labels": np.zeros((ROWS, 1))}, "labels"),
        ({"label_names": ["a"]}, "label_names: expected integer labels"),
        ({"labels": [0.5] * ROWS, "label_names": ["a"]}, "label_names: expected integer labels"),
        ({"labels": [0] * 5 + [2], "label_names": ["a", "b"]}, "label_names: .* from 0 to 2.* got 2 names"),
        ({"labels": [0] * 5 + [-1], "label_names": ["a", "b"]}, "label_names"),
        ({"columns": list("pqr")}, "columns: expected one name for each column"),
        ({"condition": torch.zeros(ROWS, 1)}, "condition"),
    ],
)
def test_mistakes_are_named_before_any_work(arguments, message, monkeypatch):
    monkeypatch.setattr(inference_data, "_draws", lambda *_: pytest.fail("worked before it looked"))
    with pytest.raises(ValueError, match=message):
        to_inference_data(linear(), rows(), **arguments)


def test_column_names_of_an_image_are_refused():
    with pytest.raises(ValueError, match="columns"):
        to_inference_data(VAE((1, 4, 4), 2), torch.zeros(2, 1, 4, 4), columns=["a"])


def test_a_value_outside_the_support_is_named_with_its_column():
    frame = pd.DataFrame(rows().numpy(), columns=list("pqrs"))
    frame.loc[3, "r"] = np.nan
    with pytest.raises(ValueError, match="row 3, column 'r'"):
        to_inference_data(linear(), frame)


@pytest.mark.parametrize("chunk", [1, 2**14])
def test_the_row_of_a_density_that_overflows_is_named(chunk, monkeypatch):
    monkeypatch.setattr(inference_data, "draws_at_once", lambda vae, _: chunk)
    x = rows()
    x[4, 1] = 1e30
    with pytest.raises(FloatingPointError, match="got -inf at row 4"):
        to_inference_data(linear(), x, num_samples=2)


def test_a_model_whose_weights_are_nan_is_refused():
    vae = linear()
    with torch.no_grad():
        vae.likelihood.head.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="got nan at row 0"):
        to_inference_data(vae, rows(), num_samples=2)
