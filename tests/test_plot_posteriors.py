"""The picture of two posteriors shows the draws themselves, of the rows and units that it names."""

import numpy as np
import pytest
import xarray as xr

from pyrovae.plots import plot_posteriors


def draws(mean, sd, rows=3, seed=0):
    """Draws as sample_posterior gives them, 2 chains of 100, of the same mean and sd for each row."""
    mean, sd = np.asarray(mean, float), np.asarray(sd, float)
    z = mean + sd * np.random.default_rng(seed).normal(size=(2, 100, rows, len(mean)))
    return {"posterior": xr.Dataset({"z": (("chain", "draw", "row", "latent"), z)})}


def test_a_panel_shows_the_draws_of_its_row():
    ours, theirs = draws([0, 0], [1, 1]), draws([0, 0], [1, 1], seed=1)
    figure = plot_posteriors(ours, theirs, rows=[2, 0], units=[1, 0])
    assert [ax.get_title() for ax in figure.axes] == ["row 2", "row 0"]
    assert figure.get_supxlabel() == "z[1]" and figure.get_supylabel() == "z[0]"
    for ax, row in zip(figure.axes, (2, 0), strict=True):
        lines = {line.get_label(): line for line in ax.lines}
        for label, idata in (("guide", ours), ("posterior", theirs)):
            expected = idata["posterior"]["z"].values[:, :, row].reshape(-1, 2)[:, ::-1]
            assert np.array_equal(np.column_stack(lines[label].get_data()), expected)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["posterior", "guide"]


def test_units_are_those_in_which_the_two_differ():
    reference = draws([0, 0, 0, 0], [1, 1, 1, 1], seed=1)
    figure = plot_posteriors(draws([0, 2, 0, 0], [1, 1, 1, 0.1]), reference)
    assert figure.get_supxlabel() == "z[1]" and figure.get_supylabel() == "z[3]"


def test_one_unit_has_histograms_that_are_densities():
    figure = plot_posteriors(draws([0.0], [1.0]), draws([0.0], [2.0], seed=1))
    assert len(figure.axes) == 3 and figure.get_supylabel() == "density"
    for ax in figure.axes:
        for patch in ax.patches:
            (left, bottom), (right, _) = patch.get_xy().min(0), patch.get_xy().max(0)
            across, up = patch.get_xy().T
            assert bottom == 0 and right > left
            assert abs(np.sum(0.5 * (up[1:] + up[:-1]) * np.diff(across))) == pytest.approx(1)


def test_a_layer():
    two = {"posterior": draws([0, 1, 2], [1, 1, 1])["posterior"].rename(z="z2", latent="z2_latent")}
    figure = plot_posteriors(two, two, units=[2, 1], site="z2")
    assert figure.get_supxlabel() == "z2[2]" and figure.get_supylabel() == "z2[1]"
    with pytest.raises(ValueError, match="guide: expected a group posterior with z, .* got z2. Of several layers"):
        plot_posteriors(two, two)


def test_what_it_refuses():
    one = draws([0, 0], [1, 1])
    with pytest.raises(ValueError, match="reference: expected draws of the rows"):
        plot_posteriors(one, draws([0, 0], [1, 1], rows=2))
    with pytest.raises(ValueError, match="rows: expected 1 to 3 numbers from 0 to 2"):
        plot_posteriors(one, one, rows=[3])
    with pytest.raises(ValueError, match="units: expected 1 to 2"):
        plot_posteriors(one, one, units=[0, 1, 0])
    with pytest.raises(ValueError, match="guide: expected a group posterior with z, .* got none"):
        plot_posteriors({}, one)
