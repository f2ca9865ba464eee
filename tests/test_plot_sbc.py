"""The picture of ranks shows the curves themselves, and dots where they leave the band."""

import numpy as np
import pytest
import xarray

from pyrovae import Calibration
from pyrovae.plots import plot_sbc


@pytest.fixture
def calibration():
    """Makes ranks of units of which the last is off."""

    def make(units, total=400, alpha=0.05):
        ranks = np.random.default_rng(0).integers(0, 40, (total, units))
        ranks[:, -1] = ranks[:, -1] ** 2 // 39
        names = [f"z[{unit}]" for unit in range(units)]
        return Calibration(xarray.DataArray(ranks, {"unit": names}, ("simulation", "unit")), 39, alpha)

    return make


def test_curves_and_dots(calibration, tmp_path):
    found = calibration(3, alpha=0.1)
    figure = plot_sbc(found, units=["z[2]", "z[0]"])
    curves = found.curves()
    for ax, unit in zip(figure.axes, ("z[2]", "z[0]"), strict=True):
        assert ax.get_title().startswith(f"{unit}, p = ")
        _, line, dots = ax.lines
        expected = curves["difference"].sel(unit=unit).values
        assert np.array_equal(line.get_ydata()[1:-1], expected) and line.get_ydata()[0] == line.get_ydata()[-1] == 0
        assert line.get_xdata() == pytest.approx(np.arange(41) / 40)
        outside = (expected < curves["lower"].values) | (expected > curves["upper"].values)
        assert np.array_equal(dots.get_ydata(), expected[outside])
        assert bool(len(dots.get_ydata())) == found.units.loc[unit, "flagged"] == (unit == "z[2]")
    assert "2 of 3 units" in figure.get_suptitle() and "90 % band" in figure.get_supxlabel()
    figure.savefig(tmp_path / "a.png")


def test_the_least_uniform_of_many(calibration):
    found = calibration(20)
    titles = [ax.get_title().split(",")[0] for ax in plot_sbc(found).axes]
    assert set(titles) == set(found.units["p_value"].nsmallest(16).index) and "z[19]" in titles
    assert titles == sorted(titles, key=lambda name: int(name[2:-1]))


def test_what_it_refuses(calibration):
    for units in ([], ["z[3]"], ["z[0]"] * 17):
        with pytest.raises(ValueError, match=r"units: expected 1 to 16 names from z\[0\] to z\[2\]"):
            plot_sbc(calibration(3), units=units)
