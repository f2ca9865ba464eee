"""Reweighted wake-sleep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.elbos.bound import Weights
from pyrovae.elbos.draws import ASIDE, Gradient, Program, draw
from pyrovae.elbos.iwae import IWAE

Feed = Callable[[dict[str, Tensor], tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]


def first_argument(
    observed: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the guide for data that the model has drawn: these in place of the first one."""
    if len(observed) != 1 or not args:
        raise ValueError(
            f"feed: expected a model that observes one site and takes its data as the first argument, got sites "
            f"{sorted(observed)} and {len(args)} arguments. Pass a function that puts the drawn data where the guide "
            "looks for them."
        )
    return (*observed.values(), *args[1:]), kwargs


@dataclass(eq=False)
class ReweightedWakeSleep(IWAE):
    r"""Reweighted wake-sleep, with weights for each row: the model by the importance-weighted bound (wake-theta), the
    guide by the divergence from the posterior to it,

    .. math::
        \text{wake-}\phi &: \sum_k \tilde w_k \, \nabla_\phi \log q(z_k \mid x), \qquad
            \tilde w_k = \frac{w_k}{\sum_j w_j} \\
        \text{sleep-}\phi &: \nabla_\phi \log q(z' \mid x'), \qquad z', x' \sim p(x, z).

    No reparameterisation, and no gradient that vanishes where q has no mass; no common objective either: the value is
    `IWAE`'s. The wake gradients are those of log p(x) and of the divergence as K grows, with a bias of order 1/K.

    References: Bornschein and Bengio, 2015, https://arxiv.org/abs/1406.2751; doubly reparameterised: Tucker et al.,
    2018, https://arxiv.org/abs/1810.04152

    Args:
        wake: share of wake-phi in the guide's gradient; the rest is sleep-phi.
        doubly: take wake-phi with a reparameterised score, for the same mean and less noise.
        feed: for sleep-phi, makes the guide's arguments from what the model drew, by site, and from its own arguments;
            by default the drawn data take the place of the first argument.
    """

    num_particles: int = 2
    wake: float = field(default=1.0, kw_only=True)
    doubly: bool = field(default=False, kw_only=True)
    feed: Feed = field(default=first_argument, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.wake <= 1:
            raise ValueError(f"wake: expected a number between 0 and 1, got {self.wake}")
        if self.wake < 1 and self.chunk is not None:
            raise ValueError("chunk: expected None with sleep-phi, which has no draws to split")

    @property
    def gradient(self) -> Gradient:
        return "path" if self.doubly else "score"

    def weights(self, log_weights: Tensor) -> Weights:
        normalized = log_weights.softmax(0)
        if self.doubly:
            return Weights(normalized, path=self.wake * normalized * (1 - normalized))
        return Weights(normalized, score=self.wake * normalized)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        if self.wake == 1:
            return loss
        sleep = (1 - self.wake) * self._sleep(model, guide, args, kwargs)
        return loss + (sleep.detach() - sleep)

    def _sleep(self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """log q(z' | x') of a draw from the model for each row, scaled and summed."""
        with torch.no_grad():
            dream = poutine.trace(_aside(poutine.uncondition(model))).get_trace(*args, **kwargs)
        drawn = {
            name: site["value"]
            for name, site in dream.nodes.items()
            if site["type"] == "sample" and site["infer"].get("was_observed")
        }
        args, kwargs = self.feed(drawn, args, kwargs)
        # The guide at the z of the dream, which stands for the model as well.
        guide = _aside(poutine.replay(guide, trace=dream))
        draws = draw(guide, guide, args, kwargs, 1, int(self.max_plate_nesting), "score")
        return (draws.scale * draws.log_q).sum()


def _aside(program: Program) -> Program:
    return poutine.infer_config(program, lambda site: {**site["infer"], ASIDE: True})
