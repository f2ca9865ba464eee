"""How good a trained VAE is, in numbers."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae.evaluation.importance import checked, importance_terms, no_marginal, point
from pyrovae.evaluation.psis import k_hat
from pyrovae.evaluation.shares import Share, by_shares
from pyrovae.evaluation.units import ACTIVE, unit_kls, unit_variances
from pyrovae.evaluation.weights import log_mean_weight
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd

TRUSTED_K = 0.7
"""Above this k-hat the importance-sampling estimate of a row is not to be trusted (Vehtari et al. 2024)."""


@dataclass(frozen=True)
class Evaluation:
    r"""What `evaluate` found. Printed, it is the summary as a table.

    Attributes:
        rows: one row of data a row: elbo, reconstruction, kl, log_marginal, log_marginal_standard_error (Monte Carlo),
            in nats; k_hat; ess, the effective number of importance samples, :math:`(\sum w)^2 / \sum w^2`.
        units: one latent unit a row: site (of several layers z1, z2, ...), variance (over rows, of the posterior mean),
            active, and kl, :math:`\operatorname{E}_x \mathrm{KL}(q(z_d \mid x) \,\Vert\, p(z_d))` in nats, of which z's
            share of the KL of a row is the sum; in closed form where there is one, else over 100 draws. It is nan where
            prior or posterior is no product over units.
        num_samples: draws for each row.
        discrete_size: the number of elements of a row where they are discrete, for bits/dim (of cells that are there,
            on average); None where they are not.
        undefined: why there is no log p(x) of single rows, which is nan then, as k_hat is; a posterior that is a point
            has no elbo and no kl either.
    """

    rows: pd.DataFrame
    units: pd.DataFrame
    num_samples: int
    discrete_size: float | None = None
    undefined: str | None = None

    def summary(self) -> dict[str, float | int]:
        """Means over rows, in nats a row; ``*_standard_error`` is that of the mean over rows as a sample of data, and
        ``log_marginal_monte_carlo_error`` that of importance sampling alone."""
        count = len(self.rows)
        summary: dict[str, float | int] = {"rows": count, "num_samples": self.num_samples}
        for name in ("elbo", "reconstruction", "kl", "log_marginal"):
            summary[name] = float(self.rows[name].mean())
            spread = float(self.rows[name].std()) if count > 1 else math.nan
            summary[f"{name}_standard_error"] = spread / math.sqrt(count)
        errors = self.rows["log_marginal_standard_error"]
        summary["log_marginal_monte_carlo_error"] = float((errors**2).sum()) ** 0.5 / count
        if self.discrete_size:
            summary["bits_per_dim"] = -summary["log_marginal"] / (self.discrete_size * math.log(2))
        summary["active_units"] = int(self.units["active"].sum())
        layers = self.units.groupby("site")["active"].sum()
        if len(layers) > 1:
            summary |= {f"active_units_{site}": int(active) for site, active in layers.items()}
        summary["latent_dim"] = len(self.units)
        summary["share_k_hat_above_0.7"] = float((self.rows["k_hat"] > TRUSTED_K).mean())
        return summary

    def __str__(self) -> str:
        s = self.summary()
        lines = [
            ("ELBO", f"{s['elbo']:.2f}", f"+- {s['elbo_standard_error']:.2f} over rows"),
            ("  reconstruction", f"{s['reconstruction']:.2f}", ""),
            ("  KL", f"{s['kl']:.2f}", ""),
            (
                "log p(x)",
                f"{s['log_marginal']:.2f}",
                f"+- {s['log_marginal_monte_carlo_error']:.3f} Monte Carlo, +- {s['log_marginal_standard_error']:.2f} "
                f"over rows; {self.num_samples} importance samples",
            ),
            ("active units", f"{s['active_units']}", f"of {s['latent_dim']}{self._layers()}"),
            ("k-hat > 0.7", f"{100 * s['share_k_hat_above_0.7']:.1f} %", f"of {s['rows']} rows"),
        ]
        if "bits_per_dim" in s:
            lines.insert(4, ("bits/dim", f"{s['bits_per_dim']:.4f}", ""))
        if self.undefined:
            lines.append(("not defined", "nan", f"where {self.undefined}"))
        return "\n".join(f"{name:<18}{value:>10}  {note}".rstrip() for name, value, note in lines)

    def _layers(self) -> str:
        """How many of each layer's units are active, where there are several."""
        layers = self.units.groupby("site")["active"].agg(["sum", "size"])
        if len(layers) == 1:
            return ""
        return ": " + ", ".join(f"{active} of {total} in {site}" for site, active, total in layers.itertuples())


def evaluate(
    vae: VAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    num_samples: int = 1000,
    seed: int = 0,
    chunk: int | None = None,
    n_jobs: int = 1,
    progress: bool = True,
) -> Evaluation:
    r"""Hold a VAE against data: ELBO with its split, log p(x), Pareto k-hat and active units, row by row.

    All come from the same ``num_samples`` draws of z from q(z | x) for each row: the mean of the log-weights is the
    ELBO, their log-mean-exp the estimate of log p(x) (see `pyrovae.log_marginal`), the shape of their tail k-hat. A
    unit is active where :math:`\operatorname{Var}_x(\mathrm{E}_q[z_d]) > 0.01` (Burda, Grosse & Salakhutdinov 2015,
    https://arxiv.org/abs/1509.00519). No weight, statistic or random state moves.

    Args:
        vae: the model.
        x: data ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        num_samples: draws for each row.
        seed: of the draws.
        chunk: draws times rows that go through the decoder at once; memory grows with it, in each thread.
            None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
        n_jobs: processes that share the rows, as those of `log_marginal` do.
        progress: show a progress bar where it takes more than two seconds; with several jobs, that of the first.

    Raises:
        ValueError: for data that the model does not take.
        FloatingPointError: for a density that overflows.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> evaluate(vae, torch.randn(30, 4), num_samples=50).summary()["rows"]
    30
    """
    import pandas as pd

    x, condition, chunk = checked(vae, x, condition, num_samples, chunk)

    def columns_of(share: Share) -> list[dict[str, Tensor]]:
        found = []
        every = importance_terms(vae, x, condition, num_samples, seed=seed, chunk=chunk, share=share, progress=progress)
        with closing(every):
            for _, terms in every:
                estimate = log_mean_weight(terms.log_weights)
                part = {
                    "elbo": terms.log_weights.mean(0),
                    "reconstruction": terms.reconstruction.mean(0),
                    "kl": terms.kl.mean(0),
                    "log_marginal": estimate.value,
                    "log_marginal_standard_error": estimate.standard_error,
                    "k_hat": k_hat(terms.log_weights),
                    "ess": (2 * terms.log_weights.logsumexp(0) - (2 * terms.log_weights).logsumexp(0)).exp(),
                }
                found.append({name: values.double().cpu() for name, values in part.items()})
        return found

    parts = by_shares(columns_of, n_jobs)
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    reason = no_marginal(vae)
    if reason:
        undefined = ["log_marginal", "log_marginal_standard_error", "k_hat", "ess"]
        # log p(x, z) at one point z is no bound on log p(x).
        undefined += ["elbo", "kl"] if point(vae) else []
        columns |= {name: torch.full((len(x),), math.nan) for name in undefined}
    rows = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    rows.index.name = "row"
    variances, kls = unit_variances(vae, x, condition), unit_kls(vae, x, condition)
    units = pd.concat(
        [
            pd.DataFrame({"site": site, "variance": values, "active": values > ACTIVE, "kl": kls[site]})
            for site, values in variances.items()
        ],
        ignore_index=True,
    )
    units.index.name = "unit"
    discrete = getattr(vae.likelihood.piece.support, "is_discrete", False)
    cells = float((~torch.isnan(x)).sum()) / len(x)
    return Evaluation(rows, units, num_samples, cells if discrete else None, reason)
