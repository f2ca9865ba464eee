"""Pictures show the model's own numbers, say what they show, and leave no global state behind."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.distributions import constraints

from pyrovae import VAE, likelihoods, plots
from pyrovae.datasets import Dataset
from pyrovae.plots import (
    plot_history,
    plot_latent,
    plot_reconstructions,
    plot_samples,
    plot_traversal,
    save_figures,
)

ROWS = 30


def rows(*shape, count=ROWS):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def images(*shape, count=ROWS):
    return rows(*(shape or (1, 6, 6)), count=count).gt(0).float()


def make(event_shape, latent_dim=3, **kwargs):
    torch.manual_seed(1)
    likelihood = "bernoulli" if len(event_shape) == 3 else "gaussian"
    return VAE(event_shape, latent_dim, likelihood=likelihood, **kwargs)


def linear(latent_dim=3):
    torch.manual_seed(1)
    likelihood = likelihoods.Gaussian(scale=0.7)
    return VAE((4,), latent_dim, likelihood=likelihood, encoder=nn.Identity(), decoder=nn.Identity())


def history(epochs=5, validation=True):
    values = np.arange(epochs, dtype=float)
    columns = {"elbo": values - 10, "reconstruction": values - 8, "kl": values * 0 + 2}
    if validation:
        columns |= {f"validation_{name}": value - 1 for name, value in columns.items()}
    frame = pd.DataFrame(columns, index=pd.RangeIndex(1, epochs + 1, name="epoch"))
    frame.attrs["best_epoch"] = 3
    return frame


def dataset(x, **kwargs):
    kwargs.setdefault("test_labels", torch.arange(len(x)) % 3)
    return Dataset("made up", x, x, x, constraints.real, **kwargs)


def canvas(figure):
    """The pixels of a grid of images, (height, width, 3)."""
    return np.asarray(figure.axes[0].images[0].get_array())


def cells(figure, size, gap=1):
    """Each grey image of a grid, (rows, columns, size, size)."""
    pixels = np.pad(canvas(figure)[..., 0], ((0, gap), (0, gap)))
    down, across = (length // (size + gap) for length in pixels.shape)
    return pixels.reshape(down, size + gap, across, size + gap)[:, :size, :, :size].swapaxes(1, 2)


def panel_titles(figure):
    return [ax.get_title() for ax in figure.axes]


def title(figure):
    return figure.get_suptitle() or figure.axes[0].get_title()


# History


def test_history_draws_what_fit_recorded():
    frame = history()
    figure = plot_history(frame)
    for ax, name in zip(figure.axes, ("elbo", "reconstruction", "kl"), strict=True):
        training, validation, best = ax.lines
        np.testing.assert_array_equal(training.get_xdata(), frame.index)
        np.testing.assert_array_equal(training.get_ydata(), frame[name])
        np.testing.assert_array_equal(validation.get_ydata(), frame[f"validation_{name}"])
        assert best.get_xdata()[0] == 3
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "nats per row")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["training", "validation", "best epoch, 3"]


def test_history_without_validation():
    assert [len(ax.lines) for ax in plot_history(history(validation=False)).axes] == [1, 1, 1]


def test_history_of_another_table_is_refused():
    with pytest.raises(ValueError, match="'kl'"):
        plot_history(history().drop(columns="kl"))


# Reconstructions


@pytest.mark.parametrize("count", [1, 7, 13, ROWS])
def test_images_stand_above_their_reconstructions(count):
    vae, x = make((1, 6, 6)), images(count=count)
    figure = plot_reconstructions(vae, x)
    drawn = cells(figure, 6)
    shown, across = min(count, 20), min(count, 10)
    assert drawn.shape[:2] == (2 * -(-shown // across), across)
    np.testing.assert_array_equal(drawn[0::2].reshape(-1, 6, 6)[:shown], x[:shown, 0])
    np.testing.assert_allclose(drawn[1::2].reshape(-1, 6, 6)[:shown], vae.reconstruct(x[:shown])[:, 0], atol=1e-6)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][:2] == ["observed", "reconstructed"]


def test_colour_images_keep_their_channels():
    vae, x = make((3, 6, 6)), images(3, 6, 6, count=1)
    np.testing.assert_array_equal(canvas(plot_reconstructions(vae, x))[:6], x[0].permute(1, 2, 0))


def test_values_beyond_0_and_1_are_scaled_into_the_picture():
    vae = VAE((1, 6, 6), 2, likelihood="gaussian")
    drawn = canvas(plot_reconstructions(vae, 10 * rows(1, 6, 6)))
    assert (drawn.min(), drawn.max()) == (0, 1)


def test_a_table_has_a_panel_a_column():
    vae, x = linear(), rows(4)
    figure = plot_reconstructions(vae, x, columns=list("pqrs"), unit="mm")
    assert panel_titles(figure) == list("pqrs")
    decoded = vae.reconstruct(x)
    for i, ax in enumerate(figure.axes):
        _, points = ax.lines
        np.testing.assert_allclose(points.get_xdata(), x[:, i])
        np.testing.assert_allclose(points.get_ydata(), decoded[:, i], rtol=1e-5)
        share = 1 - (x[:, i] - decoded[:, i]).square().mean() / x[:, i].var(correction=0)
        assert ax.texts[0].get_text() == f"R² {share:.2f}"
    assert figure.get_supxlabel() == "observed (mm)"


def test_a_wide_table_says_how_many_columns_it_shows():
    figure = plot_reconstructions(make((40,)), rows(40))
    assert len(figure.axes) == 16
    assert "first 16 of 40 columns" in title(figure)


def test_an_event_of_another_shape_is_a_table_of_its_elements():
    assert panel_titles(plot_reconstructions(make((2, 2)), rows(2, 2))) == ["0, 0", "0, 1", "1, 0", "1, 1"]


def test_a_column_that_never_changes_is_drawn():
    x = rows(4)
    x[:, 0] = 1.0
    vae = linear()
    assert not plot_reconstructions(vae, x).axes[0].texts
    plot_samples(vae, 10, x)


# Samples


def test_sampled_images_are_the_model_s_means():
    vae = make((1, 6, 6))
    figure = plot_samples(vae, 7, seed=4)
    torch.manual_seed(4)
    expected = vae.sample(7, mean=True)[:, 0]
    drawn = cells(figure, 6).reshape(-1, 6, 6)
    assert len(drawn) == 9
    np.testing.assert_allclose(drawn[:7], expected, atol=1e-6)
    assert (drawn[7:] == 1).all()
    assert title(figure) == "E[x | z] at 7 draws of z from the prior"


@pytest.mark.parametrize("with_data", [False, True])
def test_a_table_of_samples_is_histograms_of_draws_and_data(with_data):
    vae, x = linear(), rows(4)
    figure = plot_samples(vae, 100, x if with_data else None, columns=list("pqrs"))
    assert panel_titles(figure) == list("pqrs")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == (["data, 30 rows"] if with_data else []) + ["model, 100 draws"]
    if with_data:
        area = sum(bar.get_width() * bar.get_height() for bar in figure.axes[2].containers[0])
        assert area == pytest.approx(1)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="n: expected"):
        plot_samples(linear(), 0)


# Latent space


def offsets(figure):
    return np.concatenate([np.asarray(points.get_offsets()) for points in figure.axes[0].collections])


def test_two_units_are_drawn_as_they_are():
    vae, x = linear(2), rows(4)
    figure = plot_latent(vae, x)
    np.testing.assert_allclose(offsets(figure), vae.encode(x).mean.detach(), rtol=1e-6)
    assert figure.axes[0].get_xlabel() == "posterior mean of z[0]"
    assert title(figure) == "Posterior means of z, 30 rows"


def test_more_units_are_drawn_by_their_principal_components():
    from sklearn.decomposition import PCA

    vae, x = linear(3), rows(4)
    figure = plot_latent(vae, x)
    pca = PCA(2)
    expected = pca.fit_transform(vae.encode(x).mean.detach().double().numpy())
    signs = np.sign((offsets(figure) * expected).sum(0))
    np.testing.assert_allclose(offsets(figure), signs * expected, rtol=1e-5, atol=1e-6)
    first, second = (f"{100 * share:.0f}" for share in pca.explained_variance_ratio_)
    assert figure.axes[0].get_xlabel() == f"principal component 1, {first} % of variance"
    assert figure.axes[0].get_ylabel() == f"principal component 2, {second} % of variance"


def test_one_unit_is_drawn_beside_its_spread():
    vae, x = linear(1), rows(4)
    q = vae.encode(x)
    np.testing.assert_allclose(offsets(plot_latent(vae, x)), torch.cat([q.mean, q.stddev], 1).detach(), rtol=1e-5)


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_a_single_row(latent_dim):
    assert offsets(plot_latent(linear(latent_dim), rows(4, count=1))).shape == (1, 2)


def test_classes_have_a_legend_and_colours_of_their_own():
    labels = torch.arange(ROWS) % 3
    figure = plot_latent(linear(2), rows(4), labels, ["red", "green", "blue"])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["red", "green", "blue"]
    colours = {tuple(points.get_facecolor()[0]) for points in figure.axes[0].collections}
    assert len(colours) == 3
    means = linear(2).encode(rows(4)).mean.detach()
    np.testing.assert_allclose(figure.axes[0].collections[1].get_offsets(), means[labels == 1], rtol=1e-6)


@pytest.mark.parametrize(
    "labels", [torch.linspace(0, 1, ROWS), torch.arange(ROWS), [f"class {i}" for i in range(ROWS)]]
)
def test_numbers_and_many_classes_have_a_colour_bar(labels):
    figure = plot_latent(linear(2), rows(4), labels)
    assert not figure.legends
    assert [ax.get_ylabel() for ax in figure.axes] == ["posterior mean of z[1]", "label"]


def test_twenty_classes_differ_in_colour_or_marker():
    figure = plot_latent(linear(2), rows(4), torch.arange(ROWS) % 20)
    looks = {
        (tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes())
        for points in figure.axes[0].collections
    }
    assert len(looks) == 20


@pytest.mark.parametrize(("labels", "names"), [([0, 1], None), ([2] * ROWS, ["a", "b"]), ([0.5] * ROWS, ["a"])])
def test_labels_that_do_not_fit_are_refused(labels, names):
    with pytest.raises(ValueError, match="label"):
        plot_latent(linear(2), rows(4), labels, names)


def test_more_rows_than_can_be_seen():
    figure = plot_latent(linear(2), rows(4, count=5001), torch.zeros(5001).long())
    assert title(figure) == "Posterior means of z, 5,000 of 5,001 rows"


# Traversal


def test_units_are_traversed_from_the_most_active_down():
    vae, x = make((1, 6, 6), 5), images()
    with torch.no_grad():
        vae.posterior.head.weight[1:3].mul_(30)
        vae.posterior.head.weight[4].zero_()
    figure = plot_traversal(vae, x)
    variance = vae.encode(x).mean.var(0, correction=0)
    order = [unit for unit in variance.argsort(descending=True).tolist() if variance[unit] > 0.01]
    assert set(order[:2]) == {1, 2}
    assert 4 not in order
    names = [text.get_text().split("\n")[0] for text in figure.axes[0].get_yticklabels()]
    assert names == [f"z[{unit}]" for unit in order]
    z = torch.zeros(11, 5)
    z[:, order[0]] = torch.linspace(-3, 3, 11)
    np.testing.assert_allclose(cells(figure, 6)[0], vae.decode(z).mean[:, 0].detach(), atol=1e-6)


def test_a_plane_of_images_is_a_grid_of_quantiles():
    vae = make((1, 6, 6), 2)
    figure = plot_traversal(vae, images())
    drawn = cells(figure, 6)
    assert drawn.shape[:2] == (15, 15)
    corner = torch.tensor([-1.96, 1.96])
    np.testing.assert_allclose(drawn[0, 0], vae.decode(corner).mean[0].detach(), atol=0.03)
    np.testing.assert_allclose(drawn[7, 7], vae.decode(torch.zeros(2)).mean[0].detach(), atol=0.03)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()][7] == "0.0"
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("z[0]", "z[1]")


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_a_table_has_a_line_for_each_value_of_a_unit(latent_dim):
    vae, x = linear(latent_dim), rows(4)
    figure = plot_traversal(vae, x, columns=["p", "q", "r", "a very long name of a column"], unit="mm")
    *units, bar = figure.axes
    assert len(units) == latent_dim
    unit = int(vae.encode(x).mean.var(0).argmax())
    z = torch.zeros(7, latent_dim)
    z[:, unit] = torch.linspace(-3, 3, 7)
    drawn = np.stack([line.get_ydata() for line in units[0].lines])
    np.testing.assert_allclose(drawn, vae.decode(z).mean.detach(), rtol=1e-5)
    assert [text.get_text() for text in units[-1].get_xticklabels()] == ["p", "q", "r", "a very long name of a c…"]
    assert bar.get_ylabel() == "value of the unit"
    assert title(figure).startswith("E[x | z] (mm) along ")


def test_a_model_without_an_active_unit_shows_one():
    vae = linear(3)
    with torch.no_grad():
        vae.posterior.head.weight.zero_()
    figure = plot_traversal(vae, rows(4))
    assert len(figure.axes) == 2
    assert "the most active of 3 latent units" in title(figure)


# All of them


@pytest.mark.parametrize("event_shape", [(1, 6, 6), (4,)])
def test_a_conditional_model(event_shape):
    vae, condition = make(event_shape, 2, condition_dim=2), rows(2)
    x = images(*event_shape)
    plot_reconstructions(vae, x, condition=condition)
    plot_samples(vae, ROWS, condition=condition)
    plot_latent(vae, x, condition=condition)
    assert "under the condition of row 0" in title(plot_traversal(vae, x, condition=condition))
    with pytest.raises(ValueError, match="condition"):
        plot_latent(vae, x)


@pytest.mark.parametrize("plot", [plot_reconstructions, plot_latent, plot_traversal])
def test_data_of_another_shape_are_refused(plot):
    with pytest.raises(ValueError, match="x: expected shape"):
        plot(linear(), rows(5))


@pytest.mark.parametrize("plot", [plot_reconstructions, plot_traversal])
def test_column_names_that_do_not_fit_are_refused(plot):
    with pytest.raises(ValueError, match="columns: expected one name for each of the 4"):
        plot(linear(), rows(4), columns=["p"])


@pytest.mark.parametrize("event_shape", [(1, 6, 6), (4,)])
def test_save_figures(event_shape, tmp_path):
    x = images(*event_shape)
    table = {"columns": tuple("pqrs"), "scale": torch.ones(4)} if len(event_shape) == 1 else {}
    data = dataset(x, label_names=("a", "b", "c"), **table)
    paths = save_figures(make(event_shape), data, history(), tmp_path / "figures")
    assert [path.name for path in paths] == [
        f"{name}.png" for name in ("history", "reconstructions", "samples", "latent", "traversal")
    ]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_save_figures_without_labels(tmp_path):
    assert len(save_figures(linear(), dataset(rows(4), test_labels=None), history(), tmp_path)) == 5


def test_save_figures_of_a_conditional_model(tmp_path):
    vae = make((4,), 2, condition_dim=2)
    assert len(save_figures(vae, dataset(rows(4)), history(), tmp_path, condition=rows(2))) == 5


def test_nothing_of_the_user_s_moves(tmp_path):
    vae = make((4,), encoder=nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)))
    vae.likelihood.eval()
    modes = [module.training for module in vae.modules()]
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    params, random = set(pyro.get_param_store().keys()), torch.get_rng_state()
    save_figures(vae, dataset(rows(4)), history(), tmp_path)
    assert torch.equal(torch.get_rng_state(), random)
    assert set(pyro.get_param_store().keys()) == params
    assert [module.training for module in vae.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())


def test_figures_belong_to_no_window():
    code = (
        "import sys, torch, pyrovae; from pyrovae import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "vae = pyrovae.VAE((4,), 2, likelihood='gaussian')\n"
        "plots.plot_traversal(vae, torch.randn(9, 4))\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_plots_return_figures():
    vae, x = linear(), rows(4)
    figures = [plot_history(history()), plot_samples(vae, 5), *(p(vae, x) for p in (plot_latent, plot_traversal))]
    assert {type(figure) for figure in figures} == {Figure}
    assert plots.DPI >= 100
