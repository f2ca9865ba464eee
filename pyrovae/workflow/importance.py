"""Draws of the guide, as they are and resampled by importance."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyrovae.evaluation.psis import k_hat
from pyrovae.training.batches import ordered
from pyrovae.workflow.task import Draws, Task

PROPOSALS = 10
"""Proposals for each draw that is kept."""
LEAST = 1000
"""Proposals of a chain at the least."""


def guide(task: Task) -> Draws:
    """Independent draws of q(z | x)."""
    z = task.from_guide(task.num_chains, task.num_samples)
    log_weights = task.log_joint(z) - task.log_guide(z)
    task.tick(task.num_samples * len(task.x))
    return Draws(z, {"k_hat": (("row",), k_hat(log_weights.flatten(0, 1)))})


def sir(task: Task) -> Draws:
    r"""Sampling-importance-resampling (Rubin 1988): of proposals :math:`z_k \sim q(z \mid x)`, ten for each draw and
    1,000 at the least, draws with probabilities in proportion to :math:`p(x, z_k) / q(z_k \mid x)`.

    Each chain has proposals of its own. ``importance_ess`` is what these are worth, :math:`1 / \sum_k \bar w_k^2`.
    """
    count = max(LEAST, PROPOSALS * task.num_samples)
    z, weights, worth = [], [], []
    for _, x, c in ordered(task.x, task.condition, max(1, task.chunk // count)):
        rows = replace(task, x=x, condition=c)
        parts = [_resampled(rows, count) for _ in range(task.num_chains)]
        z.append(torch.stack([part[0] for part in parts]))
        worth.append(torch.stack([part[1] for part in parts]))
        weights.append(torch.cat([part[2] for part in parts]))
        task.tick(task.num_samples * len(x))
    return Draws(
        torch.cat(z, 2),
        {"importance_ess": (("chain", "row"), torch.cat(worth, 1)), "k_hat": (("row",), k_hat(torch.cat(weights, 1)))},
    )


def _resampled(task: Task, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws ``(num_samples, B, D)``, the effective number of proposals ``(B,)``, and log-weights ``(count, B)``."""
    z = task.from_guide(count)
    log_weights = task.log_joint(z) - task.log_guide(z)
    shares = log_weights.softmax(0)
    wrong = ~torch.isfinite(shares).all(0)
    if wrong.any():
        raise FloatingPointError(
            f"x: expected finite importance weights, got nan or inf at row {int(wrong.nonzero()[0])} of the batch: the "
            "model's densities overflow there"
        )
    chosen = torch.multinomial(shares.T, task.num_samples, replacement=True).T
    rows = torch.arange(len(task.x), device=z.device)
    return z[chosen, rows], shares.square().sum(0).reciprocal(), log_weights
