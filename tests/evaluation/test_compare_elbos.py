"""Estimators side by side: bounds against log p(x), gradients against what they are known to be."""

import math

import numpy as np
import pytest
import torch

from pyrovae import compare_elbos, compare_training, elbos, evaluation
from pyrovae.evaluation.memory import PeakMemory

QUICK = {"num_repeats": 20, "progress": False, "num_samples": 500}


@pytest.fixture
def wrong(linear):
    return linear(n=6, shift=0.3, stretch=1.5)


def test_bounds_gaps_and_their_errors(wrong):
    names = ["elbo", "iwae", "stl", "tvo", "cubo"]
    found = compare_elbos(wrong.vae, wrong.x, names, num_particles=[2, 16], exact=wrong.log_prob, **QUICK)
    truth = float(wrong.log_prob.mean())
    assert found.log_marginal == (pytest.approx(truth, rel=1e-12), 0.0)
    table = found.table
    assert np.allclose(table["gap"], truth - table["bound"], atol=1e-9)
    elbo = float(wrong.truth.elbo(wrong.rows, wrong.loc, wrong.covariance).mean())
    assert ((table.loc["elbo", "bound"] - elbo).abs() < 4 * table.loc["elbo", "standard_error"]).all()
    lower = table.drop("cubo", level="estimator")
    assert (lower["bound"] < truth + 3 * lower["standard_error"]).all()
    assert table.loc[("iwae", 16), "bound"] > table.loc[("iwae", 2), "bound"]
    assert table.loc[("cubo", 16), "gap"] < 0


def test_the_gradient_of_a_mean_in_closed_form(wrong):
    """IWAE at K = 1 and the ELBO have one gradient in the mean; averaging K draws divides its variance by K."""
    found = compare_elbos(
        wrong.vae, wrong.x, ["elbo", "iwae"], num_particles=[1, 4], exact=wrong.log_prob, **QUICK | {"num_repeats": 60}
    )
    variance = found.table["encoder_variance"]
    assert variance["elbo", 1] / variance["elbo", 4] == pytest.approx(4, rel=0.5)
    assert variance["iwae", 1] == pytest.approx(variance["elbo", 1], rel=0.5)
    snr = found.table["encoder_snr"]
    assert snr["elbo", 4] > 1.4 * snr["elbo", 1]


def test_bias_is_seen_where_it_is_and_only_there(wrong):
    names = ["iwae", "dreg", "stl", "vimco", "rws"]
    options = QUICK | {"num_repeats": 200}
    found = compare_elbos(wrong.vae, wrong.x, names, num_particles=[8], exact=wrong.log_prob, **options)
    z = found.table["encoder_bias_z"].droplevel("num_particles")
    assert z["iwae"] == 0
    assert max(abs(z["dreg"]), abs(z["vimco"])) < 4
    assert min(z["stl"], z["rws"]) > 6
    assert found.table["decoder_bias_z"].abs().max() < 4


def test_a_reparameterised_gradient_that_does_not_exist(tiny):
    vae = tiny(prior="one_hot", posterior="categorical")
    found = compare_elbos(vae, torch.randn(5, 3), ["iwae", "vimco", "enum_elbo"], num_particles=[4], **QUICK)
    assert "has no rsample" in found.left_out["iwae", 4]
    assert math.isnan(found.table.loc[("vimco", 4), "encoder_bias"])
    assert found.table.loc[("enum_elbo", 4), "encoder_variance"] == pytest.approx(0, abs=1e-4)


def test_it_moves_nothing(tiny, same):
    vae, untouched = tiny(), tiny()
    vae.likelihood.head.bias.grad = torch.ones(3)
    state = torch.get_rng_state()
    compare_elbos(vae, torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), num_particles=[1], **QUICK)
    assert same(vae, untouched) and torch.equal(state, torch.get_rng_state())
    assert vae.likelihood.head.bias.grad.tolist() == [1, 1, 1] and vae.likelihood.head.weight.grad is None
    assert vae.training


def test_chunks_keep_memory_in_bounds_and_the_bound_as_it_is(wrong):
    whole = compare_elbos(wrong.vae, wrong.x, ["dreg"], num_particles=[200], exact=wrong.log_prob, **QUICK)
    parts = compare_elbos(wrong.vae, wrong.x, ["dreg"], num_particles=[200], exact=wrong.log_prob, chunk=120, **QUICK)
    assert parts.table["bytes"].item() < 0.3 * whole.table["bytes"].item()
    for column in ("bound", "encoder_snr"):
        assert parts.table[column].item() == pytest.approx(whole.table[column].item(), rel=0.3)
    assert parts.table["gap"].item() == pytest.approx(whole.table["gap"].item(), abs=0.02)


def test_references(wrong):
    found = compare_elbos(wrong.vae, wrong.x[:2], ["elbo"], num_particles=[1], annealed=True, **QUICK)
    assert set(found.references) == {"importance", "annealed"}
    for value, error in found.references.values():
        assert abs(value - float(wrong.log_prob[:2].mean())) < 4 * error + 0.01
    assert found.log_marginal == max(found.references.values())


def test_objects_and_names_in_one_table_and_as_xarray(wrong):
    own = elbos.Renyi(3, alpha=0.2)
    found = compare_elbos(wrong.vae, wrong.x, ["iwae", own], num_particles=[1, 2], exact=wrong.log_prob, **QUICK)
    assert list(found.table.index.names) == ["estimator", "num_particles"]
    dataset = found.to_xarray()
    assert dataset.sizes == {"estimator": 2, "num_particles": 2}
    assert float(dataset["bound"].sel(estimator=repr(own), num_particles=2)) == found.table.loc[(repr(own), 2), "bound"]
    assert dataset.attrs["log_marginal_exact"] == found.log_marginal[0]
    assert "log p(x)" in str(found) and own.num_particles == 3


def test_what_it_refuses(tiny):
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="num_repeats: expected a multiple of 10"):
        compare_elbos(tiny(), x, num_repeats=15)
    with pytest.raises(ValueError, match="exact: expected log p.x. of 4 rows"):
        compare_elbos(tiny(), x, exact=torch.zeros(3), **QUICK)
    with pytest.raises(ValueError, match="none of them can be run: unknown elbo 'elb'"):
        compare_elbos(tiny(), x, ["elb"], **QUICK)
    with pytest.raises(ValueError, match="num_particles: expected"):
        compare_elbos(tiny(), x, ["elbo"], num_particles=[0], **QUICK)


# Training


def test_the_same_start_and_the_same_number_of_decoder_evaluations(tiny):
    made = []

    def make():
        made.append(tiny(seed=int(torch.randint(1000, ()))))
        return made[-1]

    x = torch.randn(40, 3)
    found = compare_training(
        make, x, x[:10], [("elbo", 1), ("iwae", 4), (elbos.DReG(), 4)], epochs=8, seeds=[0, 1], num_samples=50,
        progress=False,
    )  # fmt: skip
    assert len(made) == 2, "one model a seed, copied for each estimator"
    epochs = found.table["epochs"].groupby("num_particles").unique()
    assert epochs[1].tolist() == [8] and epochs[4].tolist() == [2]
    assert found.summary().shape == (3, 2) and "8 evaluations" in str(found)
    again = compare_training(make, x, x[:10], [("elbo", 1)], epochs=8, seeds=[1], num_samples=50, progress=False)
    assert again.table["log_marginal"].item() == found.table.loc[("elbo", 1, 1), "log_marginal"]


def test_a_budget_of_time(tiny):
    x = torch.randn(40, 3)
    found = compare_training(tiny, x, x, [("elbo", 1)], seconds=0.3, seeds=[0], num_samples=10, progress=False)
    assert found.table["seconds"].item() > 0.1
    with pytest.raises(ValueError, match="either epochs or seconds"):
        compare_training(tiny, x, x, epochs=1, seconds=1.0)


# Memory


def test_peak_memory_of_known_tensors():
    with PeakMemory() as memory:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b.view(10, 100)
        b += 1
        del b, c
        torch.zeros(500)
    assert memory.peak == 8000
    assert memory.now == 0


def test_peak_memory_sees_what_backward_keeps():
    x = torch.randn(1000, requires_grad=True)
    with PeakMemory() as memory:
        y = x
        for _ in range(7):
            y = torch.tanh(y)
        y.sum().backward()
    assert 7 * 4000 <= memory.peak <= 10 * 4000


def test_figures(wrong, tmp_path):
    from pyrovae import plots

    found = compare_elbos(wrong.vae, wrong.x, ["iwae", "dreg"], num_particles=[1, 4], exact=wrong.log_prob, **QUICK)
    figure = plots.plot_elbos(found)
    assert len(figure.axes) == 6
    figure.savefig(tmp_path / "a.png")
    import pandas as pd

    index = pd.MultiIndex.from_tuples([("iwae", 8, 0), ("iwae", 8, 1)], names=["estimator", "num_particles", "seed"])
    table = pd.DataFrame({"log_marginal": [-1.0, -2.0]}, index=index)
    plots.plot_training(evaluation.TrainingComparison(table, "9 s")).savefig(tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > 0 and (tmp_path / "b.png").stat().st_size > 0
