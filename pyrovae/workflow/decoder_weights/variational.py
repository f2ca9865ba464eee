"""Full variational Bayes: a normal over decoder weights, trained by Pyro's SVI."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoNormal, init_to_value
from pyro.infer.autoguide.guides import AutoGuide
from pyro.optim import ClippedAdam
from torch import Tensor

from pyrovae import hierarchy
from pyrovae.workflow.decoder_weights.task import Fitted, Task

FIRST_SCALE = 0.01
"""The first standard deviation of each weight: noise that does not undo what a network has learned."""
FASTER = 10
"""How many times as fast scales are learned as locations: they have farther to go, a few e-folds from the first."""
DECAY = 0.01
"""What the learning rate has come down to at the last step, so that the noise of the gradients is averaged out."""


def mean_field(task: Task) -> Fitted:
    """Weights independent of one another, ``AutoNormal``."""
    scale = min(FIRST_SCALE, task.prior_scale)
    guide = AutoNormal(partial(prior, task), init_loc_fn=_start(task), init_scale=scale)
    history = _fit(task, guide)
    return Fitted(dist.Normal(guide.locs.weights.detach(), guide.scales.weights.detach()).to_event(1), history)


def low_rank(task: Task) -> Fitted:
    """Weights of covariance diagonal plus low rank, ``AutoLowRankMultivariateNormal``."""
    # Half of the first variance is that of the factor, half of the diagonal.
    scale, rank = min(FIRST_SCALE, task.prior_scale) / math.sqrt(2), min(task.rank, len(task.start))
    guide = AutoLowRankMultivariateNormal(partial(prior, task), init_loc_fn=_start(task), init_scale=scale, rank=rank)
    history = _fit(task, guide)
    q = guide.get_posterior()
    parts = (part.detach() for part in (q.loc, q.cov_factor, q.cov_diag))
    return Fitted(dist.LowRankMultivariateNormal(*parts), history)


def prior(task: Task) -> Tensor:
    """Draw the site ``weights``, all of them in one vector ``(P,)``."""
    like = task.vae.like
    zeros = torch.zeros(len(task.start), dtype=like.dtype, device=like.device)
    return pyro.sample("weights", dist.Normal(zeros, task.prior_scale).to_event(1))


def model(task: Task, index: Tensor) -> None:
    """p(W), and of the rows ``index`` p(z) p(x | z, W), their log-densities times N/B."""
    weights = prior(task)
    x, condition = task.rows(index)
    with pyro.plate("data", len(task.x), subsample=index, dim=-1):
        z = hierarchy.draw_prior(task.vae, condition, task.vae.sites)
        pyro.sample("x", task.likelihood(weights, z, condition), obs=x)


def _fit(task: Task, weights: AutoGuide) -> list[float]:
    """Train q(W); the ELBO at each step, in nats per row."""

    def guide(index: Tensor) -> None:
        weights()
        x, condition = task.rows(index)
        with pyro.plate("data", len(task.x), subsample=index, dim=-1):
            hierarchy.draw_posterior(task.vae, x, condition, task.vae.sites)

    decay = DECAY ** (1 / task.steps)

    def settings(name: str) -> dict[str, float]:
        rate = task.lr if ".loc" in name else FASTER * task.lr
        # The norm of ClippedAdam is one of each element, at which it would cut gradients that grow with N.
        return {"lr": rate, "lrd": decay, "clip_norm": math.inf}

    optim = ClippedAdam(settings)
    svi = SVI(partial(model, task), guide, optim, Trace_ELBO(num_particles=task.num_particles))
    history = []
    for step, index in zip(range(task.steps), task.batches(), strict=False):
        history.append(-svi.step(index) / len(task.x))
        task.check(history[-1], step)
        task.tick()
    return history


def _start(task: Task) -> Callable:
    return init_to_value(values={"weights": task.start})
