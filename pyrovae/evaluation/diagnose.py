"""Whether a trained VAE is to be trusted, and what to try where it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae import elbos
from pyrovae.checks import count, trusted
from pyrovae.distributions import moments
from pyrovae.evaluation.evaluate import TRUSTED_K, Evaluation, evaluate
from pyrovae.evaluation.gaps import inference_gaps
from pyrovae.evaluation.importance import draws_at_once, rows_at_once
from pyrovae.evaluation.refine import not_refinable
from pyrovae.evaluation.units import posterior_moments
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd

LOOKED_AT = 300
"""Rows by which the information of codes and the variance of the likelihood are judged."""


class Check(NamedTuple):
    """A figure, the line that it should not cross, what it means to have crossed it, and what to try then."""

    value: float
    threshold: float
    flagged_where: str  # "above" or "below"
    says: str
    advice: str

    @property
    def flagged(self) -> bool:
        """Whether the line is crossed; what is not defined crosses nothing."""
        return self.value > self.threshold if self.flagged_where == "above" else self.value < self.threshold


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found. Printed, it says what is wrong and what to try.

    Attributes:
        checks: one check a row: value, threshold, flagged_where (above or below it), flagged, says, advice. A value is
            nan where the check is not defined for the model.
        units: one latent unit (next to x) a row: variance, active and kl as in `evaluate`, deviation (the posterior's
            sd, mean over rows, in units of the aggregate posterior's) and ks (the greatest distance between the
            distribution functions of aggregate posterior and prior).
        gaps: as `inference_gaps` has them, of the first rows; None where no posterior can be fitted to a row.
        evaluation: of the rows whose densities are finite.
    """

    checks: pd.DataFrame
    units: pd.DataFrame
    gaps: pd.DataFrame | None
    evaluation: Evaluation

    @property
    def flagged(self) -> list[str]:
        """Names of the checks that failed."""
        return self.checks.index[self.checks["flagged"]].tolist()

    def __str__(self) -> str:
        lines = []
        for name, row in self.checks.iterrows():
            mark = "LOOK" if row["flagged"] else "-" if math.isnan(row["value"]) else "ok"
            lines.append(f"{mark:<5}{name:<22}{row['value']:>10.3g}  {row['flagged_where']} {row['threshold']:.3g}?")
            if row["flagged"]:
                lines += [f"     {row['says']}", f"     Try: {row['advice']}"]
        return "\n".join(lines)


def diagnose(
    vae: VAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    num_samples: int = 1000,
    gap_rows: int = 64,
    seed: int = 0,
    chunk: int | None = None,
    progress: bool = True,
) -> Diagnosis:
    r"""Look for what goes wrong in VAEs, each by a number with a threshold.

    - ``non_finite``: share of rows with a log-weight that is nan or +inf among ten draws, or with none but -inf; they
      are left out of what follows.
    - ``k_hat``: share of rows whose Pareto k-hat is above 0.7 (Vehtari et al. 2024,
      https://jmlr.org/papers/v25/19-556.html); ``ess``: median effective number of importance samples.
    - ``posterior_collapse``: the mutual information of row and code, nats,
      :math:`\operatorname{E} [\log q(z \mid x_n) - \log \frac1N \sum_m q(z \mid x_m)]` over 300 rows, of which it can
      see log 300 (Hoffman & Johnson 2016, http://approximateinference.org/2016/accepted/HoffmanJohnson2016.pdf). At 0,
      z says nothing of x (Bowman et al. 2016, https://arxiv.org/abs/1511.06349); the estimate is off by some 0.05.
    - ``posterior_variance``: the posterior's sd relative to that of all codes, median over active units. Near 0, the
      VAE is an autoencoder.
    - ``likelihood_variance``: of continuous data, the sd of p(x | z) relative to that of the data, in the column where
      it is least. Near 0, the density grows without bound (Mattei & Frellsen 2018, https://arxiv.org/abs/1802.04826).
    - ``approximation_gap``, ``amortisation_gap``: means over the first rows, nats (see `pyrovae.inference_gaps`).
    - ``aggregate_posterior``: the Kolmogorov-Smirnov distance of the codes of all rows from draws of the prior, in the
      unit where it is greatest. The threshold is 0.1 and what as many draws of one distribution differ by in 1 of 100
      cases.

    Args:
        vae: a trained model.
        x: rows ``(N, *event_shape)``, better not those that it was trained on.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        num_samples: draws for each row.
        gap_rows: rows whose gap is split, which takes a search of 100 steps.
        seed: of the draws.
        chunk: draws times rows that go through the decoder at once; memory grows with it.
            None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
        progress: show progress bars where something takes more than two seconds.

    Raises:
        ValueError: for data that the model does not take, or if no row has a finite density.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> diagnose(vae, torch.randn(30, 4), num_samples=50, gap_rows=3, progress=False).checks.index[0]
    'non_finite'
    """
    import pandas as pd

    count(gap_rows, "gap_rows", 1)
    x = vae.check(x)
    condition = vae.check_condition(condition, len(x))
    chunk = draws_at_once(vae, chunk)
    finite = _finite(vae, x, condition, seed, chunk)
    if not finite.any():
        raise ValueError("diagnose: expected rows with a finite log p(x, z), got none: the model's weights overflow")
    lost = 1 - float(finite.float().mean())
    x, condition = x[finite], None if condition is None else condition[finite]
    evaluation = evaluate(vae, x, condition, num_samples=num_samples, seed=seed, chunk=chunk, progress=progress)
    gaps = None
    if not_refinable(vae, x, condition) is None:
        head = slice(0, gap_rows)
        c = None if condition is None else condition[head]
        gaps = inference_gaps(vae, x[head], c, num_samples=num_samples, seed=seed, progress=progress)
    units = _units(vae, x, condition, evaluation, seed)
    head = slice(0, LOOKED_AT)
    seen = x[head], vae.labelled(x[head], None if condition is None else condition[head])
    with isolated(seed), evaluating(vae), trusted():
        information, deviation = _information(vae, *seen), _likelihood_deviation(vae, *seen)
    checks = _checks(lost, evaluation, units, gaps, information, deviation)
    table = pd.DataFrame([{**check._asdict(), "flagged": check.flagged} for check in checks.values()], index=[*checks])
    return Diagnosis(table.rename_axis("check"), units, gaps, evaluation)


def _checks(
    lost: float,
    evaluation: Evaluation,
    units: pd.DataFrame,
    gaps: pd.DataFrame | None,
    information: float,
    deviation: float,
) -> dict[str, Check]:
    summary, rows = evaluation.summary(), evaluation.rows
    k_hat = summary["share_k_hat_above_0.7"] if rows["k_hat"].notna().any() else math.nan
    # A point has no sd, and its KL is not defined.
    spread = units["deviation"][units["active"]].median() if rows["elbo"].notna().any() else math.nan
    approximation, amortisation = (
        (gaps[name].mean() for name in ("approximation", "amortisation")) if gaps is not None else (math.nan,) * 2
    )
    return {
        "non_finite": Check(
            lost, 0.0, "above", "Rows whose density is nan or infinite.",
            "look at these rows; a lower lr or clip_norm in training; a likelihood with a floor or heavier tails.",
        ),
        "k_hat": Check(
            k_hat, 0.1, "above",
            f"Share of rows with k-hat above {TRUSTED_K}: log p(x) by importance sampling is too low there.",
            "pyrovae.ais for log p(x); a richer posterior (\"iaf\", \"refined\"); elbo=\"iwae\".",
        ),
        "ess": Check(
            float(rows["ess"].median()), 0.05 * evaluation.num_samples, "below",
            "Effective importance samples of the median row: a few draws decide.",
            "more num_samples; a richer posterior.",
        ),
        "posterior_collapse": Check(
            information, 0.2, "below", "Nats that a code says of its row: next to nothing.",
            "warmup=10 or elbo=\"free_bits\"; a weaker decoder; beta at most 1; a lower lr.",
        ),
        "posterior_variance": Check(
            float(spread), 1e-3, "below", "The posterior is next to a point: this is an autoencoder.",
            "a likelihood whose scale is learned (\"gaussian(scale=shared)\") and not too small; more data.",
        ),
        "likelihood_variance": Check(
            deviation, 1e-3, "below", "The likelihood's sd in some column, relative to the data's, goes to 0.",
            "look for a column that another one determines; a floor, such as \"gaussian(floor=0.1)\"; scale=shared.",
        ),
        "approximation_gap": Check(
            float(approximation), 1.0, "above", "Nats that the best posterior of this family loses.",
            "a richer posterior (\"full_rank\", \"iaf\"), or training by elbo=\"iwae\".",
        ),
        "amortisation_gap": Check(
            float(amortisation), 1.0, "above", "Nats that one encoder for all rows loses to a search for each.",
            "a larger encoder; more epochs for it; posterior=\"refined\".",
        ),
        "aggregate_posterior": Check(
            float(units["ks"].max()), 0.1 + _noise(len(rows), len(units)), "above",
            "The codes of the data are distributed otherwise than the prior: draws from it may not look like data.",
            "a prior that learns (\"vamp\", \"mixture\", \"flow\"); more epochs.",
        ),
    }  # fmt: skip


def _finite(vae: VAE, x: Tensor, condition: Tensor | None, seed: int, chunk: int, draws: int = 10) -> Tensor:
    """Which rows have log-weights that are numbers, ``(N,)``; some may be -inf, which is a weight of 0."""
    step = rows_at_once(vae, len(x), draws, chunk)
    parts = []
    with isolated(seed, validation=False), evaluating(vae), trusted():
        for _, rows, c in ordered(x, condition, step):
            weights = elbos.terms(vae.model, vae.guide, rows, c, draws).log_weights
            parts.append((weights < torch.inf).all(0) & (weights > -torch.inf).any(0))
    return torch.cat(parts)


def _units(vae: VAE, x: Tensor, condition: Tensor | None, evaluation: Evaluation, seed: int) -> pd.DataFrame:
    """Of the latent next to x."""
    from scipy.stats import ks_2samp

    units = evaluation.units
    units = units[units["site"] == vae.sites[0]].copy()
    condition = vae.labelled(x, condition)
    mean, deviation = posterior_moments(vae, x, condition)
    whole = (mean.var(0, correction=0) + deviation.square().mean(0)).sqrt()
    units["deviation"] = (deviation.mean(0) / whole).numpy()
    with isolated(seed), evaluating(vae), trusted():
        codes = torch.cat([vae.encode(rows, c).sample() for _, rows, c in ordered(x, condition, 1000)])
        prior = vae.sample_latent(len(x), condition)
    pairs = zip(codes.T.cpu().numpy(), prior.T.cpu().numpy(), strict=True)
    units["ks"] = [ks_2samp(ours, theirs).statistic for ours, theirs in pairs]
    return units


def _noise(rows: int, units: int) -> float:
    r"""The distance that the greatest of ``units`` pairs of samples of one distribution exceeds in 1 of 100 cases,
    :math:`\sqrt{-\frac12 \log(\alpha / 2)} \sqrt{2 / N}` at :math:`\alpha` = 0.01 / units (Smirnov 1948,
    https://doi.org/10.1214/aoms/1177730256)."""
    return math.sqrt(-0.5 * math.log(0.01 / units / 2)) * math.sqrt(2 / rows)


def _information(vae: VAE, x: Tensor, condition: Tensor | None) -> float:
    """The mutual information of row and code; nan of a posterior without a density everywhere."""
    if vae.posterior.has("point"):
        return math.nan
    q = vae.encode(x, condition)
    z = q.sample()
    try:
        pairs = q.log_prob(z.unsqueeze(1)).double()
    except NotImplementedError:
        return math.nan
    return float((pairs.diag() - pairs.logsumexp(1) + math.log(len(x))).mean())


def _likelihood_deviation(vae: VAE, x: Tensor, condition: Tensor | None) -> float:
    """The likelihood's sd relative to the data's, median over rows, in the element where it is least; nan of discrete
    data, and of data that do not vary."""
    import pandas as pd

    if getattr(vae.likelihood.piece.support, "is_discrete", False) or len(x) < 2:
        return math.nan
    within = moments(vae.decode(vae.encode(x, condition).sample(), condition))[1].cpu().numpy()
    # Of a column with a single cell there is no sd, and nothing to compare.
    across = pd.DataFrame(x.flatten(1).cpu().numpy()).std(ddof=0).to_numpy()
    ratio = np.median(within.reshape(len(x), -1), 0)[across > 0] / across[across > 0]
    return float(ratio.min()) if ratio.size else math.nan
