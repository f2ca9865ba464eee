"""The chi upper bound."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyrovae.elbos.bound import Bound, Weights, log_mean_exp, slope_of
from pyrovae.elbos.draws import Draws, along


@dataclass(eq=False)
class CUBO(Bound):
    r"""Chi upper bound on log p(x) of order n,

    .. math:: \frac1n \log \mathrm{E}_q \, w^n \;\ge\; \log p(x),

    by the mean of K draws, of which the value is low on average: an upper bound as K grows, and a loose one where the
    weights have heavy tails. Its exponential is unbiased. It trains the guide alone, downwards; the model, which must
    not lower log p(x), is left as it is: train that with a lower bound.

    Reference: Dieng, Tran, Ranganath, Paisley and Blei, 2017, https://arxiv.org/abs/1611.00328

    Args:
        order: n, above 1.
    """

    gradient = "path"
    order: float = field(default=2.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 < self.order < float("inf"):
            raise ValueError(f"order: expected a finite number above 1, got {self.order}")

    @property
    def side(self) -> int:
        return 1

    def bound(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(self.order * log_weights) / self.order

    def surrogate(self, draws: Draws, weights: Weights) -> Tensor:
        """Its gradient in z alone, taken back to the guide: nothing reaches the model's parameters."""
        path, score = weights.path * draws.scale, weights.score * draws.scale
        free = [site for site in draws.model_sites.values() if not site["is_observed"] and site["value"].requires_grad]
        total = (score * draws.log_q).sum()
        if draws.path is not None:
            total = total - (path * draws.path).sum()
        if not free:
            return total
        values = [site["value"] for site in free]
        joint = (path * draws.log_p).sum()
        slopes = torch.autograd.grad(joint, values, retain_graph=True, allow_unused=True, materialize_grads=True)
        return total + sum(along(site, z, slope).sum() for site, z, slope in zip(free, values, slopes, strict=True))

    def weights(self, log_weights: Tensor) -> Weights:
        slope = slope_of(self.bound, log_weights)
        return Weights(torch.zeros_like(slope), -slope, slope)
