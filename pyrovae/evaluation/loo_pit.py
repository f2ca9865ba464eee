"""Whether the model says each cell of a row from the others: leave-one-cell-out probability integral transforms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from tqdm import tqdm

from pyrovae.checks import count, trusted
from pyrovae.distributions import Product
from pyrovae.distributions.observed import log_prob_of_observed
from pyrovae.elbos.draws import draw
from pyrovae.evaluation.evaluate import TRUSTED_K
from pyrovae.evaluation.importance import check_marginal, checked, rows_at_once
from pyrovae.evaluation.psis import TOO_FEW, smooth
from pyrovae.evaluation.uniformity import band, cumulative, p_values
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd
    import xarray

PLACES = 199
"""Points at which a distribution function is compared with the uniform one."""
FEW = 0.1
"""The share of rows whose k-hat may be too high where a cell is judged."""
SHOWN = 10
"""Cells that are printed, the least uniform first."""
SAME = 1e-6
"""What two equal levels of a pixel may differ by in float32."""
Join = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class LooPit:
    r"""What `loo_pit` found. Printed, it is the verdict and a line for each cell of a row.

    Attributes:
        pit: :math:`P(\tilde x_i \le x_i \mid x_{-i})`, dims ``(row, cell)``; nan where the cell is missing.
        standard_error: of each by Monte Carlo, which says too little where k-hat is above 0.7.
        k_hat: of the weights of each.
        alpha: how often the verdict may fail a model that is right, all cells together.
    """

    pit: xarray.DataArray
    standard_error: xarray.DataArray
    k_hat: xarray.DataArray
    alpha: float = 0.05

    @cached_property
    def cells(self) -> pd.DataFrame:
        r"""One cell a row.

        - p_value: of its being uniform over rows (see `pyrovae.evaluation.uniformity`); flagged: whether it is below
          alpha over the number of cells (Bonferroni), and the cell judged.
        - bias: its mean less a half: above 0 the model's guesses are too low.
        - spread: its sd over that of a uniform number, :math:`1 / \sqrt{12}`: above 1 the model is too sure of its
          guesses, below 1 not sure enough.
        - share_k_hat_above_0.7: of rows; judged: whether that is at most a tenth. Where a single cell says most of
          what is known of z, the guide's draws, which have seen it, are too close together for the others.
        - says: of a flagged cell, which way the guesses are wrong.
        """
        import pandas as pd
        from scipy.stats import norm

        columns = []
        for cell in self._names:
            values = self._present(cell)
            rows = len(values)
            bias, variance = values.mean() - 0.5, values.var()
            # The variance of (u - 1/2)^2 of a uniform u is 1/180.
            tails = [2 * norm.sf(abs(off) * math.sqrt(n * rows)) for off, n in ((bias, 12), (variance - 1 / 12, 180))]
            p_value = float(p_values(_ranks(values)[:, None], PLACES)[0])
            share = float((self.k_hat.sel(cell=cell) > TRUSTED_K).sum()) / rows
            flagged = share <= FEW and p_value <= self.alpha / len(self._names)
            columns.append(
                {
                    "p_value": p_value,
                    "flagged": flagged,
                    "bias": bias,
                    "spread": math.sqrt(12 * variance),
                    "share_k_hat_above_0.7": share,
                    "judged": share <= FEW,
                    "says": self._says(bias, variance, *tails) if flagged else "",
                }
            )
        return pd.DataFrame(columns, index=pd.Index(self._names, name="cell"))

    @property
    def calibrated(self) -> bool:
        """Whether no cell is flagged; those that are not judged are not."""
        return not self.cells["flagged"].any()

    def curves(self) -> xarray.Dataset:
        """Each cell's distribution function less the uniform one at 1/200, 2/200, ...: difference, and lower and upper,
        between which all cells stay everywhere with a probability of at least ``1 - alpha``; dims ``(place, cell)``."""
        import xarray

        places = np.arange(1, PLACES + 1) / (PLACES + 1)
        parts: dict[str, list[np.ndarray]] = {"difference": [], "lower": [], "upper": []}
        for cell in self._names:
            values = self._present(cell)
            counts = cumulative(_ranks(values)[:, None], PLACES)[:, 0]
            limits = band(len(values), PLACES, self.alpha / len(self._names))
            for name, numbers in zip(parts, (counts, *limits), strict=True):
                parts[name].append(numbers / len(values) - places)
        variables = {name: (("place", "cell"), np.stack(columns, 1)) for name, columns in parts.items()}
        return xarray.Dataset(variables, {"place": places, "cell": self._names})

    def __str__(self) -> str:
        cells, rows = self.cells, self.pit.sizes["row"]
        flagged = int(cells["flagged"].sum())
        verdict = "No departure from calibration: no judged cell's transforms leave the band of uniform ones"
        if flagged:
            verdict = f"NOT calibrated: transforms of {flagged} of {len(cells)} cells leave the band of uniform ones"
        if left := int((~cells["judged"]).sum()):
            verdict += (
                f"\n{left} of {len(cells)} cells NOT judged: k-hat is above {TRUSTED_K} in more than {FEW:.0%} of rows"
            )
        share = float((self.k_hat > TRUSTED_K).sum() / self.pit.notnull().sum())
        lines = [
            verdict,
            f"({rows:,} rows; level {self.alpha:g}, all cells together; k-hat above {TRUSTED_K}: {share:.1%})",
            f"{'cell':<13}{'p-value':>10}{'bias':>9}{'spread':>9}",
        ]
        for cell, row in cells.sort_values("p_value", kind="stable").iloc[:SHOWN].iterrows():
            numbers = f"{row['p_value']:>10.2g}{row['bias']:>+9.3f}{row['spread']:>9.3f}"
            says = row["says"] if row["judged"] else "not judged"
            lines.append(f"{cell:<13}{numbers}  {says}".rstrip())
        if len(cells) > SHOWN:
            lines.append(f"... and {len(cells) - SHOWN} cells with greater p-values")
        return "\n".join(lines)

    @property
    def _names(self) -> list[str]:
        """Of the cells that some row has."""
        return [str(name) for name in self.pit["cell"].values[self.pit.notnull().any("row").values]]

    def _present(self, cell: str) -> np.ndarray:
        values = self.pit.sel(cell=cell).values
        return values[~np.isnan(values)]

    def _says(self, bias: float, variance: float, biased: float, spread: float) -> str:
        level, words = self.alpha / len(self._names), []
        if biased <= level:
            words.append("too low" if bias > 0 else "too high")
        if spread <= level:
            words.append("too sure" if variance > 1 / 12 else "not sure enough")
        return "the model's guess is " + (" and ".join(words) or "of another shape")


def loo_pit(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    condition: Any = None,  # noqa: ANN401
    *,
    num_samples: int = 1000,
    alpha: float = 0.05,
    seed: int = 0,
    chunk: int | None = None,
    progress: bool = True,
) -> LooPit:
    r"""Leave out one cell of a row, and see where it lies in what the model says of it from the others.

    .. math:: u_{ni} = P(\tilde x_i \le x_{ni} \mid x_{n,-i}) = \sum_k w_k \, P(\tilde x_i \le x_{ni} \mid z_k), \qquad
        w_k \propto \frac{p(x_n, z_k)}{q(z_k \mid x_n) \, p(x_{ni} \mid z_k)}, \quad z_k \sim q(z \mid x_n)

    If the rows come from the model, u is uniform over rows, for each i (Gelfand, Dey & Chang 1992, Bayesian Statistics
    4; for its picture, Gabry et al. 2019, https://arxiv.org/abs/1709.01449). Weights are Pareto-smoothed (Vehtari,
    Gelman & Gabry 2017, https://arxiv.org/abs/1507.04544), so the guide need only be near p(z | x without the cell),
    which k-hat tells. Of discrete cells :math:`P(\tilde x_i < x_i)` and a random share of
    :math:`P(\tilde x_i = x_i)` are taken (Czado, Gneiting & Held 2009,
    https://doi.org/10.1111/j.1541-0420.2009.01191.x); of classes without an order, in that of their numbers.

    It asks of the likelihood, its scale above all, and of what cells say of one another; whether rows as a whole are
    like the data is for `pyrovae.predictive_check`. Rows are independent given the weights of the decoder, which are
    held fixed: hand in rows that they were not trained on.

    Args:
        vae: the model, whose cells are independent given z.
        x: rows ``(N, *event_shape)``, better not those that it was trained on.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        num_samples: K, draws for each row, at least 25.
        alpha: how often the verdict may fail a model that is right, all cells together.
        seed: of the draws; the random state of the user is left alone.
        chunk: draws times rows that go through the decoder at once; memory grows with it, and with draws times cells.
            None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        Transforms with their standard errors and k-hats, p-values and a verdict: see `LooPit`, and
        `pyrovae.plots.plot_loo_pit`.

    Raises:
        ValueError: for data that the model does not take, too few draws, a posterior that is a point, rows that depend
            on one another, or cells that do, given z, or that go missing by their value.
        FloatingPointError: for a density that overflows.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> loo_pit(vae, torch.randn(30, 4), num_samples=50).pit.dims
    ('row', 'cell')
    """
    import xarray

    count(num_samples, "num_samples", TOO_FEW)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a probability above 0 and below 1, such as 0.05, got {alpha!r}")
    check_marginal(vae, "loo_pit")
    if vae.mechanism is not None:
        raise ValueError("loo_pit: expected no mechanism, by which a cell that is there says something of its value")
    x, condition, chunk = checked(vae, x, condition, num_samples, chunk)
    found = []
    with (
        isolated(seed, validation=False),
        evaluating(vae),
        trusted(),
        tqdm(total=len(x), disable=not progress, unit="row", desc="leave one cell out", delay=2) as bar,
    ):
        for rows, part, c in ordered(x, condition, rows_at_once(vae, len(x), num_samples, chunk)):
            step = max(1, chunk // len(part))
            sizes = [min(step, num_samples - start) for start in range(0, num_samples, step)]
            draws = [_draws(vae, part, c, size) for size in sizes]
            log_weights, below, equal = (torch.cat(each) for each in zip(*draws, strict=True))
            wrong = ~(log_weights < torch.inf).flatten(2).all(-1).all(0)
            if wrong.any():
                row = rows.start + int(wrong.nonzero()[0])
                raise FloatingPointError(
                    f"expected finite log-weights, got nan or inf at row {row}: the model's densities overflow there"
                )
            found.append(_transform(log_weights, below, equal, part.flatten(1)))
            bar.update(len(part))
    indices = product(*(range(size) for size in vae.event_shape))
    names = [f"x[{', '.join(map(str, index))}]" for index in indices]
    pit, error, shape = (
        xarray.DataArray(torch.cat(parts).cpu().numpy(), {"cell": names}, ("row", "cell"))
        for parts in zip(*found, strict=True)
    )
    return LooPit(pit, error, shape, alpha)


def _draws(vae: VAE, x: Tensor, condition: Tensor | None, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of draws of z and each cell, ``(size, B, cells)`` in float64: the log-weight of z without the cell, and whether
    a cell of the model there is below the one that is, or equal to it, or the probability of that."""
    draws = draw(vae.model, vae.guide, (x, condition), {}, size, nesting=1)
    parts, join = _cells(draws.model_sites["x"]["fn"], vae)
    found = zip(*(_cell(*part, x) for part in parts), strict=True)
    log_prob, below, equal = (
        join(list(each)).double().expand(size, *x.shape).reshape(size, len(x), -1) for each in found
    )
    return draws.log_weights.double()[..., None] - log_prob, below, equal


def _cells(p: Distribution, vae: VAE) -> tuple[list[tuple[Any, Distribution]], Join]:
    """Which cells, and their distributions, each of them a batch dim; and what puts them into order."""
    if isinstance(p, Product):
        return list(p.parts), p.join
    if isinstance(p, Independent) and p.reinterpreted_batch_ndims == len(vae.event_shape):
        return [(slice(None), p.base_dist)], lambda parts: parts[0]
    raise ValueError(
        f"loo_pit: expected a likelihood whose cells are independent given z, got {type(vae.likelihood.piece).__name__}"
    )


def _cell(columns: Any, p: Distribution, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    """log p of cells, and whether a draw is below them or equal to them, or the probability of that."""
    x = x[..., columns]
    log_prob = log_prob_of_observed(p, x)
    if p.support.is_discrete:
        difference = p.sample() - x
        return log_prob, (difference < -SAME).to(x), (difference.abs() <= SAME).to(x)
    try:
        below = p.cdf(torch.where(x.isnan(), 0.5, x))
    except NotImplementedError:
        below = (p.sample() < x).to(x)
    return log_prob, below, torch.zeros_like(below)


def _transform(log_weights: Tensor, below: Tensor, equal: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Transform, standard error and k-hat of each cell, ``(B, cells)``, from draws ``(K, B, cells)``."""
    smoothed, shapes = smooth(log_weights.flatten(1))
    weights = torch.softmax(smoothed, 0).reshape(log_weights.shape)
    values = below + torch.rand(x.shape, dtype=below.dtype, device=x.device) * equal
    pit = (weights * values).sum(0).clamp(0, 1)
    error = (weights * (values - pit)).square().sum(0).sqrt()
    return tuple(torch.where(x.isnan(), torch.nan, each) for each in (pit, error, shapes.reshape(x.shape)))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1 as ranks from 0 to PLACES."""
    return np.minimum(values * (PLACES + 1), PLACES).astype(int)
