"""All scores of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyrovae.evaluation.disentanglement.columns import BINS, checked, gap
from pyrovae.evaluation.disentanglement.dci import factor_completeness, importances, unit_disentanglement
from pyrovae.evaluation.disentanglement.factor_vae import accuracy, votes
from pyrovae.evaluation.disentanglement.mig import mutual_information
from pyrovae.evaluation.disentanglement.sap import predictability
from pyrovae.evaluation.units import ACTIVE, posterior_moments
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Disentanglement:
    """What `disentanglement` found. Printed, it is the scores.

    Attributes:
        mig, sap, disentanglement, completeness, informativeness, factor_vae: the scores; higher is better.
        factors: a factor a row: mig, sap, completeness and informativeness, whose means are those scores.
        mutual_information, predictability, importance, votes: what they are made of, ``(D, F)``: a unit a row, a factor
            a column.
        active: whether each unit carries information.
    """

    mig: float
    sap: float
    disentanglement: float
    completeness: float
    informativeness: float
    factor_vae: float
    factors: pd.DataFrame
    mutual_information: pd.DataFrame
    predictability: pd.DataFrame
    importance: pd.DataFrame
    votes: pd.DataFrame
    active: pd.Series

    def __str__(self) -> str:
        lines = [
            ("MIG", self.mig),
            ("SAP", self.sap),
            ("disentanglement", self.disentanglement),
            ("completeness", self.completeness),
            ("informativeness", self.informativeness),
            ("FactorVAE score", self.factor_vae),
        ]
        chance = f"  (by chance {1 / len(self.factors):.3f})"
        return "\n".join(f"{name:<18}{value:.3f}" for name, value in lines) + chance


def disentanglement(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    factors: Any,  # noqa: ANN401
    condition: Any = None,  # noqa: ANN401
    *,
    categorical: Sequence[Any] = (),
    bins: int = BINS,
    active: float = ACTIVE,
    seed: int = 0,
) -> Disentanglement:
    r"""Whether single latent units tell single known factors of the data: MIG, SAP, DCI and the FactorVAE score.

    The code of a row is the mean of q(z | x). Of a unit whose mean varies by ``active`` or less over the rows it is
    taken to be constant: that little is lost in the posterior's noise, and would count where a score looks at means
    alone. What the scores are is said at `pyrovae.evaluation.mig`, `sap`, `dci` and `factor_vae_score`, which take any
    codes. They disagree (Locatello et al. 2019, https://arxiv.org/abs/1811.12359): report all of them, over seeds.

    Args:
        vae: the model, of one layer of latents.
        x: rows ``(N, *event_shape)``, all factors varying freely among them; some thousands will do.
        factors: ``(N, F)``, array or DataFrame, such as ``data.test_factors`` of `pyrovae.datasets.load("shapes")`.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        categorical: the names of factors (columns of an array: their numbers) whose values are classes. Those of
            pandas' dtype category or bool are anyway.
        bins: of MIG and of the FactorVAE score, of equal width, for a column with more distinct values.
        active: variance above which a unit is active.
        seed: of the forests of DCI and the votes of FactorVAE.

    Raises:
        ValueError: for data that the model does not take, factors that do not fit them, or several layers.

    >>> import torch
    >>> vae, factors = VAE((4,), 2, likelihood="gaussian"), torch.rand(50, 2)
    >>> found = disentanglement(vae, torch.randn(50, 4), factors)
    >>> found.mutual_information.shape, found.factors.columns.tolist()
    ((2, 2), ['mig', 'sap', 'completeness', 'informativeness'])
    """
    import pandas as pd

    if vae.prior.has("deep"):
        raise ValueError("disentanglement: expected a VAE of one layer of latents, got several")
    x = vae.check(x)
    codes = posterior_moments(vae, x, vae.check_condition(condition, len(x)))[0].double()
    moving = codes.var(0, correction=0) > active
    codes, factors = checked(codes * moving, factors, categorical)
    information = mutual_information(codes, factors, bins=bins)
    predicted = predictability(codes, factors)
    used, informativeness = importances(codes, factors, seed=seed)
    known, asked = votes(codes, factors, bins=bins, seed=seed)
    each = pd.DataFrame({
        "mig": gap(information),
        "sap": gap(predicted),
        "completeness": factor_completeness(used),
        "informativeness": informativeness,
    })  # fmt: skip
    return Disentanglement(
        **{name: float(value) for name, value in each.mean().items()},
        disentanglement=unit_disentanglement(used),
        factor_vae=accuracy(known, asked),
        factors=each,
        mutual_information=information,
        predictability=predicted,
        importance=used,
        votes=asked,
        active=pd.Series(moving.numpy(), index=codes.columns),
    )
