"""The picture of transforms shows the curves themselves, each in the band of its own number of rows."""

import numpy as np
import pytest
import xarray

from pyrovae import LooPit
from pyrovae.plots import plot_loo_pit


@pytest.fixture
def found():
    """Transforms of three cells, of which the last is off and the first is missing in half of the rows."""
    values = np.random.default_rng(0).random((400, 3))
    values[:, 2] **= 2
    values[::2, 0] = np.nan
    pit = xarray.DataArray(values, {"cell": ["x[0]", "x[1]", "x[2]"]}, ("row", "cell"))
    return LooPit(pit, 0 * pit, 0 * pit, alpha=0.1)


def test_curves_and_dots(found, tmp_path):
    figure, curves = plot_loo_pit(found), found.curves()
    for ax, cell in zip(figure.axes, ("x[0]", "x[1]", "x[2]"), strict=True):
        assert ax.get_title().startswith(f"{cell}, p = ")
        _, line, dots = ax.lines
        curve = curves.sel(cell=cell)
        values = found.pit.sel(cell=cell).dropna("row").values
        expected = [(values < place).mean() - place for place in curves["place"].values]
        assert line.get_ydata()[1:-1] == pytest.approx(expected) and np.diff(line.get_xdata()) == pytest.approx(1 / 200)
        outside = (curve["difference"] < curve["lower"]) | (curve["difference"] > curve["upper"])
        assert len(dots.get_ydata()) == outside.sum() and bool(outside.any()) == (cell == "x[2]")
    width = (curves["upper"] - curves["lower"]).max("place")
    assert float(width[0] / width[1]) == pytest.approx(2**0.5, rel=0.05)
    assert "90 % band" in figure.get_supxlabel() and "400 rows" in figure.get_suptitle()
    figure.savefig(tmp_path / "a.png")


def test_what_it_refuses(found):
    for cells in ([], ["x[3]"]):
        with pytest.raises(ValueError, match=r"cells: expected 1 to 16 names from x\[0\] to x\[2\]"):
            plot_loo_pit(found, cells=cells)
