"""How unlike the data a row is, by more than its log p(x)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from pyrovae.checks import count, trusted
from pyrovae.evaluation.log_marginal import log_marginal
from pyrovae.evaluation.refine import many_log_weights, not_refinable, refine
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd


def outlier_scores(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    reference: Any,  # noqa: ANN401
    condition: Any = None,  # noqa: ANN401
    reference_condition: Any = None,  # noqa: ANN401
    *,
    num_samples: int = 500,
    steps: int = 100,
    lr: float = 0.05,
    draws: int = 8,
    rows_at_once: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Scores of how unlike the data each row is; the higher, the more so.

    - ``surprise``: :math:`-\log p(x)`, nats. By itself it fails: a model of one kind of image may give a higher density
      to a simpler kind that it has never seen (Nalisnick et al. 2019, https://arxiv.org/abs/1810.09136).
    - ``typicality``: :math:`\lvert \log p(x) - \overline{\log p}(x_\text{ref}) \rvert`, nats: distance from what rows
      of the data usually have, on either side (Nalisnick et al. 2019, https://arxiv.org/abs/1906.02994).
    - ``regret``: :math:`\max_q \mathrm{ELBO}(x; q) - \mathrm{ELBO}(x; q_\phi)`, nats: what a posterior made for this
      row gains on that of the encoder, which has never met its like (Xiao, Yan & Amit 2020,
      https://arxiv.org/abs/2003.02977). The numbers of the posterior are what is moved, by Adam.

    Args:
        vae: a trained model.
        x: rows ``(N, *event_shape)``.
        reference: rows of the data, such as validation rows.
        condition, reference_condition: for a conditional VAE.
        num_samples: importance samples for log p(x).
        steps, lr, draws: of the search for the best posterior; draws of z a step.
        rows_at_once: rows that are searched for together.
        seed: of the draws.
        progress: show a progress bar.

    Raises:
        ValueError: for data that the model does not take, or a model without log p(x) of single rows, a reparameterised
            posterior of one layer, or with a label.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> outlier_scores(vae, torch.randn(3, 4), torch.randn(9, 4), steps=2, progress=False).columns.tolist()
    ['surprise', 'typicality', 'regret']
    """
    import pandas as pd

    for name, value in (("steps", steps), ("draws", draws), ("rows_at_once", rows_at_once)):
        count(value, name, 1)
    x = vae.check(x)
    condition = vae.check_condition(condition, len(x))
    if reason := not_refinable(vae, x, condition):
        raise ValueError(f"outlier_scores: expected a posterior that can be fitted to a row, but {reason}")
    options = {"num_samples": num_samples, "seed": seed, "progress": progress}
    usual = log_marginal(vae, reference, reference_condition, **options).value.double().mean()
    log_p = log_marginal(vae, x, condition, **options).value.double()
    parts = []
    with isolated(seed, validation=False), evaluating(vae), trusted():
        bar = tqdm(total=len(x), disable=not progress, unit="row", desc="regret", delay=2)
        for _, part, c in ordered(x, condition, rows_at_once):
            numbers = refine(vae, part, c, steps=steps, lr=lr, draws=draws)
            before, after = (many_log_weights(vae, params, part, c).mean(0) for params in numbers)
            parts.append(after - before)
            bar.update(len(part))
        bar.close()
    table = pd.DataFrame({
        "surprise": -log_p.cpu().numpy(),
        "typicality": (log_p - usual).abs().cpu().numpy(),
        "regret": torch.cat(parts).double().cpu().numpy(),
    })  # fmt: skip
    table.index.name = "row"
    return table
