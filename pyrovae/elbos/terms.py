"""Per-row reconstruction and KL of any model and guide: what every bound is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

Program = Callable[..., object]


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
        runs = self._model.runs
        result = Terms(self._model.observed / runs, (self._guide.latent - self._model.latent) / runs)
        if self._guide.enumerated:
            # Every value of z was there once, so the mean over q is a sum with the weights of q.
            weights = torch.softmax(self._guide.latent / runs, 0)
            result = Terms(*(_weighted(weights, term) for term in result))
        self._model.clear()
        self._guide.clear()
        return result


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Sum over values of z, ``(values, rows) -> (rows,)``; a value that q never takes counts nothing."""
    return torch.where(weights > 0, weights * values, 0.0).sum(0)


class _Listener(Messenger):
    """Sums of log-densities, each of shape (..., rows), of the sites that were observed and of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        self.observed: Tensor | float = 0.0
        self.latent: Tensor | float = 0.0
        self.enumerated = False
        self.runs = 0

    def __enter__(self) -> _Listener:
        self.runs += 1
        return super().__enter__()

    def _pyro_post_sample(self, msg: Message) -> None:
        if site_is_subsample(msg):
            return
        self.enumerated |= "_enumerate_dim" in msg["infer"]
        with torch.no_grad():
            log_prob = msg["fn"].log_prob(msg["value"])
            if msg["mask"] is not None:
                log_prob = torch.where(torch.as_tensor(msg["mask"]), log_prob, 0.0)
        if msg["is_observed"]:
            self.observed = self.observed + log_prob
        else:
            self.latent = self.latent + log_prob


def terms(model: Program, guide: Program, x: Tensor, condition: Tensor | None = None, num_particles: int = 1) -> Terms:
    """Terms of ``num_particles`` draws from the guide for each row: tensors of shape ``(num_particles, B)``.

    Works on any Pyro model and guide whose sites lie in one plate of dim -1.
    """
    split = Split(model, guide)
    particles = pyro.plate("particles", num_particles, dim=-2)
    with torch.no_grad(), particles:
        trace = poutine.trace(split.guide).get_trace(x, condition)
        poutine.replay(split.model, trace=trace)(x, condition)
    result = split.take()
    shape = torch.broadcast_shapes(result.reconstruction.shape, result.kl.shape, (num_particles, 1))
    return Terms(result.reconstruction.expand(shape), result.kl.expand(shape))
