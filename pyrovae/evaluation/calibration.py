"""Simulation-based calibration: whether the guide is, on average over the model's own data, the posterior."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor
from tqdm import tqdm

from pyrovae.checks import count, trusted
from pyrovae.evaluation.importance import check_marginal, draws_at_once
from pyrovae.evaluation.uniformity import band, cumulative, p_values, two_sided
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import bounds
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd
    import xarray

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Probabilities of the central intervals whose coverage is counted."""
LEAST_DRAWS = 19
"""Draws of which the least and the greatest are the ends of an interval of 90 %."""
LIKELIHOOD = "log p(x | z)"
"""The unit that depends on all of z."""
SHOWN = 10
"""Units that are printed, the least uniform first."""


@dataclass(frozen=True)
class Calibration:
    r"""Ranks of what the model drew among draws of the guide, and what they say. Printed, it is the verdict and a line
    for each unit.

    Ranks from elsewhere (an MCMC, another package) are judged just so: ``Calibration(ranks, num_draws)``.

    Attributes:
        ranks: how many of the draws were below the true value, from 0 to L, dims ``(simulation, unit)``.
        num_draws: L.
        alpha: how often the verdict may fail a guide that is calibrated, all units together.

    Raises:
        ValueError: for ranks of other dims, or that are not whole numbers from 0 to L; an alpha outside (0, 1).
    """

    ranks: xarray.DataArray
    num_draws: int
    alpha: float = 0.05

    def __post_init__(self) -> None:
        count(self.num_draws, "num_draws", LEAST_DRAWS)
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: expected a probability above 0 and below 1, such as 0.05, got {self.alpha!r}")
        dims, values = getattr(self.ranks, "dims", None), np.asarray(self.ranks)
        if dims != ("simulation", "unit") or not values.size:
            raise ValueError(
                f"ranks: expected an xarray.DataArray of dims ('simulation', 'unit'), neither empty, got "
                f"{type(self.ranks).__name__} of dims {dims} and shape {values.shape}"
            )
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > self.num_draws:
            raise ValueError(
                f"ranks: expected whole numbers from 0 to num_draws = {self.num_draws}, got {values.dtype} from "
                f"{values.min()} to {values.max()}. Count the draws below each true value."
            )

    @cached_property
    def units(self) -> pd.DataFrame:
        r"""One unit a row.

        - p_value: of uniform ranks (see `pyrovae.evaluation.uniformity`); flagged: whether it is below alpha over the
          number of units (Bonferroni), which is leaving the band of `curves` somewhere.
        - bias: the mean share of draws below the true value, less a half: above 0 the guide is too low. Where ranks are
          uniform its standard error is :math:`1 / \sqrt{12 N}`.
        - bias_p_value: of ranks that are symmetric, uniform or not, when signs of ranks from their middle are flipped
          at random; the asymmetry by which Yao, Vehtari, Simpson & Gelman (2018), https://arxiv.org/abs/1802.02538,
          tell a guide in the wrong place from one of the wrong width.
        - says: of a flagged unit, how the guide is wrong: too low or too high by ``bias_p_value``, overconfident or
          underconfident by `coverage`, which is that of intervals in the wrong place, too.
        """
        import pandas as pd
        from scipy.stats import norm

        ranks = self.ranks.values
        aside = ranks - self.num_draws / 2
        size = np.sqrt(np.square(aside).sum(0))
        table = pd.DataFrame(
            {
                "p_value": p_values(ranks, self.num_draws),
                "bias": aside.mean(0) / (self.num_draws + 1),
                "bias_p_value": 2 * norm.sf(np.abs(aside.sum(0)) / np.where(size, size, 1.0)),
            },
            index=pd.Index(self._names, name="unit"),
        )
        table.insert(1, "flagged", table["p_value"] <= self.alpha / len(table))
        table["says"] = [self._says(unit, row) if row["flagged"] else "" for unit, row in table.iterrows()]
        return table

    @cached_property
    def coverage(self) -> pd.DataFrame:
        """How often central intervals of the guide's draws hold the true value, a row for each unit and nominal
        probability.

        observed, below nominal where the guide is overconfident; its binomial standard_error; p_value of its being
        nominal. Intervals lie between draws, so nominal is what L of them have next to 50, 80, 90 and 95 %.
        """
        import pandas as pd

        ranks, total, places = self.ranks.values, self.ranks.sizes["simulation"], self.num_draws + 1
        # As many ranks are left out on each side.
        outside = {round((1 - level) / 2 * places) for level in LEVELS} - {0}
        parts = []
        for out in sorted(outside, reverse=True):
            nominal = 1 - 2 * out / places
            hits = ((ranks >= out) & (ranks <= self.num_draws - out)).sum(0)
            observed = hits / total
            columns = {
                "unit": self._names,
                "nominal": round(nominal, 6),
                "observed": observed,
                "standard_error": np.sqrt(observed * (1 - observed) / total),
                "p_value": two_sided(hits, total, nominal),
            }
            parts.append(pd.DataFrame(columns))
        order = pd.Index(self._names, name="unit")
        return pd.concat(parts).set_index(["unit", "nominal"]).reindex(order, level="unit")

    @property
    def calibrated(self) -> bool:
        """Whether no unit is flagged."""
        return not self.units["flagged"].any()

    def curves(self) -> xarray.Dataset:
        """The ranks' distribution function less that of uniform ranks: difference ``(rank, unit)``, and lower and upper
        ``(rank,)``, between which all units stay everywhere with a probability of at least ``1 - alpha``."""
        import xarray

        total, names = self.ranks.sizes["simulation"], self._names
        share = np.arange(1, self.num_draws + 1) / (self.num_draws + 1)
        limits = band(total, self.num_draws, self.alpha / len(names))
        difference = cumulative(self.ranks.values, self.num_draws) / total - share[:, None]
        lower, upper = (("rank", limit / total - share) for limit in limits)
        return xarray.Dataset(
            {"difference": (("rank", "unit"), difference), "lower": lower, "upper": upper},
            {"rank": np.arange(self.num_draws), "unit": names},
        )

    def __str__(self) -> str:
        total, units = self.ranks.sizes["simulation"], self.units
        flagged = int(units["flagged"].sum())
        verdict = "No departure from calibration: no unit's ranks leave the band of uniform ones"
        if flagged:
            verdict = f"NOT calibrated: the ranks of {flagged} of {len(units)} units leave the band of uniform ones"
        shown = units.sort_values("p_value", kind="stable").iloc[:SHOWN]
        levels = self.coverage.index.unique("nominal")
        heads = "".join(f"{100 * level:>7.4g} %" for level in levels)
        lines = [
            verdict,
            f"({total:,} simulations, {self.num_draws} draws each; level {self.alpha:g}, all units together)",
            f"{'unit':<13}{'p-value':>10}{'bias':>9}{heads}  intervals hold, %",
        ]
        for unit, row in shown.iterrows():
            held = "".join(f"{100 * value:>9.1f}" for value in self.coverage.loc[unit, "observed"])
            lines.append(f"{unit:<13}{row['p_value']:>10.2g}{row['bias']:>+9.3f}{held}  {row['says']}".rstrip())
        if len(units) > SHOWN:
            lines.append(f"... and {len(units) - SHOWN} units with greater p-values")
        return "\n".join(lines)

    @property
    def _names(self) -> list[str]:
        return [str(name) for name in self.ranks["unit"].values]

    def _says(self, unit: str, row: pd.Series) -> str:
        """Which way a unit's ranks are off."""
        count, words = self.ranks.sizes["unit"], []
        if row["bias_p_value"] <= self.alpha / count:
            words.append("too low" if row["bias"] > 0 else "too high")
        covered = self.coverage.loc[unit].reset_index()
        worst = covered.loc[covered["p_value"].idxmin()]
        if worst["p_value"] <= self.alpha / count / len(covered):
            words.append("overconfident" if worst["observed"] < worst["nominal"] else "underconfident")
        return "the guide is " + (" and ".join(words) or "of another shape")


def sbc(
    vae: VAE,
    num_simulations: int = 1000,
    num_draws: int = 199,
    condition: Any = None,  # noqa: ANN401 - whatever a user has
    *,
    likelihood: bool = False,
    alpha: float = 0.05,
    seed: int = 0,
    chunk: int | None = None,
    progress: bool = True,
) -> Calibration:
    r"""Simulation-based calibration of the guide: where the model's z lies among draws of q(z | x).

    .. math:: z, x \sim p(z) \, p(x \mid z), \quad z_1, \dots, z_L \sim q(z \mid x), \quad
        r = \sum_l 1[z_l < z]

    If q is the posterior of the model, r is uniform on 0, ..., L in every unit of z. Ranks heaped at both ends are
    those of a guide that is too narrow, in the middle too wide, at the upper end too low. Ties, which discrete units
    have, are broken at random, which leaves ranks uniform. Talts, Betancourt, Simpson, Vehtari & Gelman (2018),
    https://arxiv.org/abs/1804.06788.

    It looks at one unit at a time, so correlations that the guide lacks are not seen, unless the rank of
    :math:`\log p(x \mid z)` is asked for, which depends on all units and the row (Modrák et al. 2023,
    https://arxiv.org/abs/2211.02383). And it looks at rows that the model draws: if those are not like the data, at the
    guide where it was not trained. Of several layers all are looked at, and of a model with a label y, which is drawn
    too. Rows have no missing cells.

    Args:
        vae: the model, with independent rows and a posterior that is no point.
        num_simulations: N. With 1,000, a guide whose sd is a tenth too small is seen nine times in ten, one that is a
            tenth of an sd aside three times in four.
        num_draws: L, at least 19; with 199, or another multiple of 40 less 1, there are intervals of just 50, 80, 90
            and 95 %.
        condition: ``(N, condition_dim)``, or one row for all, for a conditional VAE.
        likelihood: rank log p(x | z) as one more unit; then all draws go through the decoder.
        alpha: how often the verdict may fail a guide that is calibrated, all units together.
        seed: of the draws; the random state of the user is left alone.
        chunk: draws times simulations that go through the decoder at once, and 16 times as many where they do not;
            memory grows with it. None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        Ranks, p-values, bias, coverage and a verdict: see `Calibration`, and `pyrovae.plots.plot_sbc`.

    Raises:
        ValueError: for numbers that are too small, a posterior that is a point, rows that depend on one another, or a
            condition that the model does not take.
        FloatingPointError: for a z that is not finite.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> sbc(vae, num_simulations=50, num_draws=39).ranks.dims
    ('simulation', 'unit')
    """
    import xarray

    count(num_simulations, "num_simulations", 1)
    count(num_draws, "num_draws", LEAST_DRAWS)
    chunk = draws_at_once(vae, chunk)
    check_marginal(vae, "sbc")
    if vae.label is not None and condition is not None:
        raise ValueError("condition: expected None, because the label is drawn with z and ranked as it is")
    condition = vae.check_condition(condition, num_simulations)
    sites = [*vae.sites, *(["y"] if vae.label is not None else [])]
    names = [*sites, *([LIKELIHOOD] if likelihood else [])]
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    # A simulation is a row for encoder and decoder, too, however few its draws.
    step = max(1, min(chunk, (1 if likelihood else 16) * chunk // num_draws))
    with (
        isolated(seed, validation=False),
        evaluating(vae),
        tqdm(total=num_simulations, disable=not progress, unit="simulation", desc="calibration", delay=2) as bar,
    ):
        for first, last in bounds(num_simulations, step):
            c = None if condition is None else condition[first:last]
            model = poutine.trace(vae.model).get_trace(None, c, size=last - first)
            x = vae.check(model.nodes["x"]["value"])
            with trusted(), pyro.plate("draws", num_draws, dim=-2):
                guide = poutine.trace(vae.guide).get_trace(x, c)
                draws = {site: guide.nodes[site]["value"] for site in sites}
                truth = {site: model.nodes[site]["value"] for site in sites}
                if likelihood:
                    again = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x, c)
                    draws[LIKELIHOOD], truth[LIKELIHOOD] = (_log_likelihood(trace, x) for trace in (again, model))
            for name in names:
                parts[name].append(_ranks(truth[name], draws[name], name))
            bar.update(last - first)
    ranks = [torch.cat(parts[name]).cpu() for name in names]
    units = [f"{site}[{unit}]" for site, part in zip(sites, ranks, strict=False) for unit in range(part.shape[1])]
    coords = {"unit": [*units, *names[len(sites) :]]}
    values = torch.cat(ranks, 1).numpy()
    return Calibration(xarray.DataArray(values, dims=("simulation", "unit"), coords=coords), num_draws, alpha)


def _log_likelihood(trace: Trace, x: Tensor) -> Tensor:
    """log p(x | z) of rows at the latents of a run of the model, as one unit: ``(..., B, 1)``."""
    return trace.nodes["x"]["fn"].log_prob(x).unsqueeze(-1)


def _ranks(truth: Tensor, draws: Tensor, name: str) -> Tensor:
    """How many of draws ``(L, B, D)`` are below the truth ``(B, D)``, and a random share of those equal to it."""
    if not (draws.isfinite().all() and truth.isfinite().all()):
        raise FloatingPointError(f"expected finite draws of {name}, got nan or inf: the model's weights overflow")
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    ties = (torch.rand(truth.shape, dtype=torch.float64, device=truth.device) * (equal + 1)).long()
    return below + ties
