"""Predictive checks: whether data that the model draws are like the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from pyrovae.checks import count, trusted
from pyrovae.evaluation.importance import draws_at_once
from pyrovae.modes import evaluating, isolated
from pyrovae.registry import choose
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd

Statistic = Callable[[Tensor], Any]
"""From a set of rows ``(N, *event_shape)``, NaN in missing cells, to a number."""
KINDS = ("posterior", "prior")


def _there(statistic: Callable[[Tensor], Tensor]) -> Statistic:
    """A statistic of all cells that are not missing."""
    return lambda x: statistic(x[~x.isnan()])


STATISTICS: dict[str, Statistic] = {
    "mean": _there(torch.mean),
    "sd": _there(lambda cells: cells.std(correction=0)),
    "min": _there(torch.min),
    "max": _there(torch.max),
}
"""What is looked at unless told otherwise, each of all cells of all rows."""


@dataclass(frozen=True)
class PredictiveCheck:
    """Statistics of the data, and of data sets that a model drew. Printed, it is a table that marks what is strange.

    Attributes:
        replicated: one data set that was drawn a row, one statistic a column.
        observed: each statistic of the data.
        kind: "posterior" or "prior".
    """

    replicated: pd.DataFrame
    observed: pd.Series
    kind: str

    @property
    def p_values(self) -> pd.Series:
        r"""Of each statistic, the probability of one as great as the data's, :math:`P(T(x^\text{rep}) \ge T(x))`: near
        0 where the model draws smaller ones, near 1 where greater. Ties count by half, and the data as one of the sets,
        so that it is never 0 or 1."""
        above, equal = (self.replicated > self.observed).sum(), (self.replicated == self.observed).sum()
        return ((above + 0.5 * equal + 0.5) / (len(self.replicated) + 1)).rename("p_value")

    @property
    def table(self) -> pd.DataFrame:
        """One statistic a row: observed, mean and sd of the replicated ones, p_value, and whether that is extreme,
        below 0.025 or above 0.975, which is so for one in twenty of a model from which the data come."""
        import pandas as pd

        columns = {"observed": self.observed, "mean": self.replicated.mean(), "sd": self.replicated.std()}
        table = pd.DataFrame({**columns, "p_value": self.p_values})
        table["extreme"] = (table["p_value"] - 0.5).abs() > 0.475
        return table.rename_axis("statistic")

    def __str__(self) -> str:
        lines = [f"{len(self.replicated):,} data sets from the {self.kind} predictive distribution"]
        for name, row in self.table.iterrows():
            mark, drawn = "LOOK" if row["extreme"] else "ok", f"{row['mean']:>10.4g} +- {row['sd']:.2g}"
            lines.append(f"{mark:<5}{name:<18}{row['observed']:>10.4g}  drawn {drawn:<22}p = {row['p_value']:.3g}")
        return "\n".join(lines)


def predictive_check(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    statistics: Mapping[str, Statistic] | None = None,
    condition: Any = None,  # noqa: ANN401
    *,
    kind: str = "posterior",
    num_replicates: int = 1000,
    seed: int = 0,
    chunk: int | None = None,
    progress: bool = True,
) -> PredictiveCheck:
    r"""Hold statistics T of the data against those of data sets of the same size that the model draws.

    .. math:: \text{posterior: } z_n \sim q(z \mid x_n), \; x_n^\text{rep} \sim p(x \mid z_n)
        \qquad \text{prior: } z_n \sim p(z), \; x_n^\text{rep} \sim p(x \mid z_n)

    The prior kind asks whether the model makes such data; its p-values are uniform where the data come from the model.
    The posterior kind asks whether the model can say these rows again. It has seen them, so its p-values lie nearer one
    half than uniform ones (Meng 1994, https://doi.org/10.1214/aos/1176325622): one that is extreme is a misfit all the
    more, one that is not says little, unless rows were held out and T is nothing that z is fitted to. Gelman, Meng &
    Stern (1996), https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm.

    Args:
        vae: the model.
        x: rows ``(N, *event_shape)``, better not those that it was trained on. Cells that are missing here are missing
            in what is drawn.
        statistics: functions of rows ``(N, *event_shape)`` that give a number, by name; None for mean, sd, min and max
            of all cells.
        condition: ``(N, condition_dim)``, for a conditional VAE, or labels, for a VAE with those.
        kind: "posterior" or "prior".
        num_replicates: data sets to draw.
        seed: of the draws; the random state of the user is left alone.
        chunk: rows that go through the decoder at once.
            None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        Statistics, observed and replicated, and p-values: see `PredictiveCheck`.

    Raises:
        ValueError: for data that the model does not take, another kind, numbers below 1, or a statistic that is not a
            function, or not a finite number.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> check = predictive_check(vae, torch.randn(30, 4), {"median": torch.median}, num_replicates=20)
    >>> check.p_values.index.tolist()
    ['median']
    """
    import pandas as pd

    choose(kind, KINDS, "kind")
    count(num_replicates, "num_replicates", 1)
    chunk = draws_at_once(vae, chunk)
    statistics = dict(STATISTICS if statistics is None else statistics)
    if not statistics or any(not callable(statistic) for statistic in statistics.values()):
        raise ValueError(
            'statistics: expected a dict of functions of rows by name, such as {"mean": torch.mean}, got '
            f"{statistics or 'an empty one'}"
        )
    x = vae.check(x)
    condition = vae.check_condition(condition, len(x))
    observed = _values(statistics, x)
    rows = []
    with (
        isolated(seed, validation=False),
        evaluating(vae),
        tqdm(total=num_replicates, disable=not progress, unit="set", desc="predictive check", delay=2) as bar,
    ):
        for data in _replicates(vae, x, condition, kind == "prior", num_replicates, chunk):
            rows.append(_values(statistics, torch.where(x.isnan(), x, data)))
            bar.update()
    return PredictiveCheck(pd.DataFrame(rows), pd.Series(observed, name="observed"), kind)


def _values(statistics: Mapping[str, Statistic], x: Tensor) -> dict[str, float]:
    """Each statistic of rows."""
    values = {}
    for name, statistic in statistics.items():
        value = np.asarray(statistic(x))
        if value.size != 1 or not np.isfinite(value).all():
            got = f"shape {value.shape}" if value.size != 1 else value.item()
            raise ValueError(
                f"statistics: expected {name} to give one finite number for rows {tuple(x.shape)}, got {got}"
            )
        values[name] = float(value.item())
    return values


def _replicates(
    vae: VAE, x: Tensor, condition: Tensor | None, prior: bool, num_replicates: int, chunk: int
) -> Iterator[Tensor]:
    """Data sets like x, ``(N, *event_shape)``, several at once where they are small; where rows depend on one another,
    all rows of one are drawn together."""
    joint = vae.prior.has("joint")
    size, step = (1, len(x)) if joint else (max(1, chunk // len(x)), chunk)
    for first in range(0, num_replicates, size):
        sets = min(size, num_replicates - first)
        parts = [_draw(vae, rows, c, prior, sets) for _, rows, c in ordered(x, condition, step)]
        yield from torch.cat(parts, 1).to(x.dtype)


def _draw(vae: VAE, x: Tensor, condition: Tensor | None, prior: bool, sets: int) -> Tensor:
    """Draws of x ``(sets, B, *event_shape)``: the model's, at the latents of the guide, which is the prior where it is
    not given rows."""
    with trusted(), pyro.plate("sets", sets, dim=-2):
        guide = poutine.trace(vae.guide).get_trace(None if prior else x, condition, size=len(x))
        value = poutine.replay(vae.model, trace=guide)(None, condition, size=len(x))
    # A plate of a single set may be left out of the shape.
    return value.reshape(sets, *x.shape)
