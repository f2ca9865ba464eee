"""The ELBO's KL in three parts, each with a weight: beta-TCVAE."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from pyrovae.checks import count
from pyrovae.elbos.regularized.latent import Latent
from pyrovae.elbos.regularized.regularized import Regularized, amount
from pyrovae.registry import choose

SAMPLING = ("stratified", "weighted")


class Parts(NamedTuple):
    """Of the mean KL, in nats a row: between z and the row's number, among the dimensions of z, and of each by itself
    from the prior."""

    mutual_information: Tensor
    total_correlation: Tensor
    by_dimension: Tensor


@dataclass(eq=False)
class TotalCorrelation(Regularized):
    r"""beta-TCVAE: the KL in three parts, by the aggregate posterior :math:`q(z) = \frac1N \sum_n q(z \mid x_n)`,

    .. math:: \mathrm{E}_q[\log p(x \mid z)]
        - \alpha \, \mathrm{KL}\bigl(q(z, n) \,\|\, q(z) q(n)\bigr)
        - \beta \, \mathrm{KL}\bigl(q(z) \,\|\, \textstyle\prod_d q(z_d)\bigr)
        - \gamma \sum_d \mathrm{KL}\bigl(q(z_d) \,\|\, p(z_d)\bigr),

    for latents that are independent of one another over the data. At weights of 1 it is the ELBO, draw by draw; with a
    greater beta below it, up to the error of the estimate. Of q(z) a batch knows its own B rows: "stratified" gives a
    draw's own row the weight 1/N and each other row (N - 1) / (N (B - 1)), so that q(z) has no bias and is exact where
    B = N (the paper's minibatch stratified sampling, averaged over the order of rows). The paper's own choice,
    "weighted", gives each row 1 / (N B): its gradient is of use, its value is not (the total correlation is up to
    (D - 1) log N too high). Posterior and prior must be products over d.

    Reference: Chen, Li, Grosse and Duvenaud, 2018, https://arxiv.org/abs/1802.04942

    Args:
        alpha, beta, gamma: the weights. (Those of a KL term as a whole, as in `pyrovae.fit`, multiply all three.)
        num_rows: N; None: as the plate says, or in `pyrovae.fit` the rows of training.
        sampling: "stratified" or "weighted".
    """

    alpha: float = field(default=1.0, kw_only=True)
    beta: float = field(default=6.0, kw_only=True)
    gamma: float = field(default=1.0, kw_only=True)
    num_rows: int | None = field(default=None, kw_only=True)
    sampling: Literal["stratified", "weighted"] = field(default="stratified", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta", "gamma"):
            amount(getattr(self, name), name)
        if self.num_rows is not None:
            count(self.num_rows, "num_rows", 1)
        choose(self.sampling, SAMPLING, "sampling")

    def penalty(self, latent: Latent) -> Tensor:
        parts = self.parts(latent)
        return sum(weight * part for weight, part in zip((self.alpha, self.beta, self.gamma), parts, strict=True))

    def parts(self, latent: Latent) -> Parts:
        """The three parts, whose sum is the mean of log q(z | x) - log p(z) at the draws."""
        between = latent.log_q_between()
        weights = self._log_weights(latent)
        joint = (between.sum(-1) + weights).logsumexp(2)
        product = (between + weights.unsqueeze(-1)).logsumexp(2).sum(-1)
        return Parts((latent.log_q - joint).mean(), (joint - product).mean(), (product - latent.log_p).mean())

    def _log_weights(self, latent: Latent) -> Tensor:
        """Of each row j in q(z) at the draw of row i, ``(B, B)``."""
        rows = latent.rows
        total = latent.all_rows if self.num_rows is None else self.num_rows
        if total < rows:
            raise ValueError(f"num_rows: expected at least the {rows} rows of the batch, got {total}: pass num_rows=")
        if self.sampling == "weighted":
            return latent.z.new_full((rows, rows), -math.log(total * rows))
        if total > 1:
            latent.at_least(2)
        others = math.log((total - 1) / (total * (rows - 1))) if rows > 1 else 0.0
        return latent.z.new_full((rows, rows), others).fill_diagonal_(-math.log(total))
