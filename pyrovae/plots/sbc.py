"""Ranks of simulation-based calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyrovae.evaluation import Calibration
from pyrovae.plots.uniform import plot_uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_sbc(calibration: Calibration, *, units: Sequence[str] | None = None) -> Figure:
    """The distribution function of each unit's ranks less that of uniform ranks, a panel for each unit, in the band
    that all keep to with a probability of 1 - alpha if the guide is calibrated (Säilynoja, Bürkner & Vehtari 2022,
    https://arxiv.org/abs/2103.10522).

    Where a curve leaves the band it is dotted. One that is up on the left and down on the right is that of a guide too
    narrow, the reverse too wide; one that is all below 0 too low, all above too high.

    Args:
        calibration: what `pyrovae.sbc` returned.
        units: names of at most 16 units, such as ``["z[0]", "z[3]"]``; None for the 16 that are least uniform, in their
            order.

    Raises:
        ValueError: for units that there are not.

    >>> from pyrovae import VAE, sbc
    >>> len(plot_sbc(sbc(VAE((4,), 2, likelihood="gaussian"), num_simulations=50)).axes)
    2
    """
    total = calibration.ranks.sizes["simulation"]
    return plot_uniform(
        calibration.units["p_value"],
        calibration.curves(),
        units,
        title=f"Ranks of {total:,} simulations among {calibration.num_draws} draws of the guide",
        words=("share of draws below the true value", "ranks"),
        alpha=calibration.alpha,
    )
