"""SWAG: a normal over decoder weights with the moments of the path that SGD takes."""

from __future__ import annotations

from collections import deque

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.workflow.decoder_weights.task import Fitted, Task

ITERATES = 5
"""How many iterates there are for each column of the low-rank factor, which keeps the last of them."""


class Moments:
    r"""Running moments of weights :math:`\theta_0, \theta_1, \dots`, algorithm 1 of Maddox et al. (2019).

    Mean and variance of all of them, and the last K deviations :math:`\theta_i - \bar\theta_i` from the mean up to
    then. In float64 and by Welford's formula, because a difference of two squares would lose a small variance.

    Args:
        start: :math:`\theta_0`, ``(P,)``.
        rank: K.

    >>> moments = Moments(torch.zeros(1), 2)
    >>> for value in (1.0, 2.0):
    ...     moments.add(torch.tensor([value]))
    >>> [round(part.item(), 4) for part in (moments.mean, moments.variance, moments.normal().variance)]
    [1.0, 0.6667, 0.9583]
    """

    def __init__(self, start: Tensor, rank: int) -> None:
        self.count, self.mean, self._squares = 1, start.double(), torch.zeros_like(start, dtype=torch.float64)
        self.deviations: deque[Tensor] = deque(maxlen=rank)

    def add(self, weights: Tensor) -> None:
        """One iterate more."""
        before = weights.double() - self.mean
        self.count += 1
        self.mean = self.mean + before / self.count
        after = weights.double() - self.mean
        self._squares = self._squares + before * after
        self.deviations.append(after)

    @property
    def variance(self) -> Tensor:
        """Of each weight over the iterates, ``(P,)``."""
        return self._squares / self.count

    def normal(self) -> dist.LowRankMultivariateNormal:
        r"""The normal of equation 1, :math:`N(\bar\theta, \frac12 (\Sigma_\text{diag} + D D^\top / (K - 1)))`."""
        factor = torch.stack(list(self.deviations), -1) / (2 * (len(self.deviations) - 1)) ** 0.5
        # A weight that never moved has a variance, which is as good as none.
        diagonal = self.variance.clamp_min(torch.finfo(torch.float64).tiny)
        return dist.LowRankMultivariateNormal(self.mean, factor, diagonal / 2)


def swag(task: Task) -> Fitted:
    r"""SGD of constant learning rate from the trained weights, on the negative log-posterior per row,

    .. math:: -\frac1B \sum_{n \in \text{batch}} \log p(x_n \mid z_n, W) + \frac{|W|^2}{2 s^2 N},
        \qquad z_n \sim q(z \mid x_n).
    """
    weights = task.start.clone().requires_grad_()
    optim = torch.optim.SGD([weights], task.lr)
    moments, every = Moments(task.start, task.rank), max(1, task.steps // (ITERATES * task.rank))
    history = []
    for step, index in zip(range(task.steps), task.batches(), strict=False):
        x, condition = task.rows(index)
        fits = [
            task.likelihood(weights, task.latents(x, condition), condition).log_prob(x).mean()
            for _ in range(task.num_particles)
        ]
        objective = sum(fits) / len(fits) - weights.square().sum() / (2 * task.prior_scale**2 * len(task.x))
        history.append(objective.item())
        task.check(history[-1], step)
        optim.zero_grad()
        (-objective).backward()
        optim.step()
        if (step + 1) % every == 0:
            moments.add(weights.detach())
        task.tick()
    return Fitted(moments.normal(), history)
