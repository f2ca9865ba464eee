"""Per-row reconstruction and KL of any model and guide: what every bound is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.elbos.draws import ASIDE, Program, draw


class Terms(NamedTuple):
    r"""Terms of the ELBO for each particle and row, in nats, unscaled by any subsampling.

    ``log_weights`` :math:`= \log p(x, z) - \log q(z \mid x)` = reconstruction - kl; their mean over particles is the
    ELBO, their log-mean-exp the importance-weighted bound.
    """

    reconstruction: Tensor  # log p(x | z)
    kl: Tensor  # log q(z | x) - log p(z)

    @property
    def log_weights(self) -> Tensor:
        return self.reconstruction - self.kl


class Split:
    """Wraps a model and a guide and adds up, row by row, the terms of what passes through them.

    It listens and changes nothing, so any ELBO can be run on the wrapped pair; `take` gives the terms since the last
    call, averaged over runs.
    """

    def __init__(self, model: Program, guide: Program) -> None:
        self._model, self._guide = _Listener(), _Listener()
        self.model, self.guide = self._model(model), self._guide(guide)

    def take(self) -> Terms:
        model, guide = self._model.take(), self._guide.take()
        if len(model) == len(guide) == 1 and not guide[0].enumerated:
            return Terms(model[0].observed, guide[0].latent - model[0].latent)
        # An estimator may run the two several times with the same draws, and one of them more often.
        q = [run.weights() for run in guide]
        over = q if len(q) == len(model) else [None] * len(model)
        kl = _mean(guide, "latent", q) - _mean(model, "latent", over)
        return Terms(_mean(model, "observed", over), kl)


@dataclass
class _Run:
    """Sums of log-densities of a run, each of shape (..., rows): of sites that were observed, and of the others."""

    observed: Tensor | float = 0.0
    latent: Tensor | float = 0.0
    choice: Tensor | float = 0.0  # of the latent sites that are enumerated
    enumerated: bool = False
    sites: int = 0

    def weights(self) -> Tensor | None:
        """Of an enumerated z every value was there once: the mean over q is a sum with the weights of q."""
        return torch.softmax(self.choice, 0) if self.enumerated else None


def _mean(runs: list[_Run], name: str, weights: list[Tensor | None]) -> Tensor | float:
    """Mean over draws, each of which counts once, of any number of runs: ``(rows,)``."""
    total, draws = 0.0, 0
    for run, weight in zip(runs, weights, strict=True):
        values = torch.as_tensor(getattr(run, name))
        if weight is not None:
            # A value that q never takes counts nothing.
            values = torch.where(weight > 0, weight * values, 0.0).sum(0)
        count = values[..., 0].numel() if values.ndim else 1
        total = total + (values.flatten(0, -2).sum(0) if values.ndim > 1 else values)
        draws += count
    return total / draws


class _Listener(Messenger):
    """Keeps the log-densities of each run that passes through, but for those that an estimator makes aside."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[_Run] = []

    def take(self) -> list[_Run]:
        runs, self.runs = [run for run in self.runs if run.sites], []
        return runs

    def __enter__(self) -> _Listener:
        self.runs.append(_Run())
        return super().__enter__()

    def _pyro_post_sample(self, msg: Message) -> None:
        if site_is_subsample(msg) or msg["infer"].get(ASIDE):
            return
        run = self.runs[-1]
        run.sites += 1
        run.enumerated |= "_enumerate_dim" in msg["infer"]
        with torch.no_grad():
            log_prob = msg["fn"].log_prob(msg["value"])
            if msg["mask"] is not None:
                log_prob = torch.where(torch.as_tensor(msg["mask"]), log_prob, 0.0)
        if msg["is_observed"]:
            run.observed = run.observed + log_prob
        else:
            run.latent = run.latent + log_prob
            if "_enumerate_dim" in msg["infer"]:
                run.choice = run.choice + log_prob


def terms(model: Program, guide: Program, x: Tensor, condition: Tensor | None = None, num_particles: int = 1) -> Terms:
    """Terms of ``num_particles`` draws from the guide for each row: tensors of shape ``(num_particles, B)``.

    Works on any Pyro model and guide whose sites lie in one plate of dim -1.
    """
    with torch.no_grad():
        draws = draw(model, guide, (x, condition), {}, num_particles, nesting=1)
    return Terms(draws.observed, draws.log_q - draws.latent)
