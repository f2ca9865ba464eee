"""Importance-weighted bounds that split their draws: MIWAE, CIWAE and PIWAE."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pyrovae.checks import count
from pyrovae.elbos.bound import Bound, Weights, log_mean_exp, slope_of


@dataclass(eq=False)
class MIWAE(Bound):
    r"""Mean of M importance-weighted bounds, each of K/M draws of its own,

    .. math:: \mathrm{E} \frac1M \sum_{m=1}^M \log \frac MK \sum_{k=1}^{K/M} w_{mk}.

    The bound is `IWAE`'s at K/M draws, with M times the signal for the guide: between the ELBO of K draws (M = K) and
    IWAE (M = 1).

    Reference: Rainforth et al., 2018, https://arxiv.org/abs/1802.04537

    Args:
        num_particles: K, a multiple of ``groups``.
        groups: M.
    """

    num_particles: int = 2
    groups: int = field(default=2, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        count(self.groups, "groups", 1)
        if self.num_particles % self.groups:
            raise ValueError(f"num_particles: expected a multiple of groups={self.groups}, got {self.num_particles}")

    def bound(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(log_weights.unflatten(0, (self.groups, -1)), 1).mean(0)


class PIWAE(MIWAE):
    r"""Partially importance-weighted: the model is trained by `IWAE` of all K draws, the guide by `MIWAE` of M groups.

    So the model has the tight bound, the guide the gradient with the signal. The value is IWAE's.

    Reference: Rainforth et al., 2018, https://arxiv.org/abs/1802.04537

    Args:
        num_particles: K, a multiple of ``groups``.
        groups: M.
    """

    gradient = "path"

    def bound(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(log_weights)

    def weights(self, log_weights: Tensor) -> Weights:
        guide = slope_of(super().bound, log_weights)
        return Weights(log_weights.softmax(0), guide, -guide)


@dataclass(eq=False)
class CIWAE(Bound):
    r"""Combination of the ELBO and the importance-weighted bound, of the same K draws,

    .. math:: \mathrm{E} \Bigl[ \frac{\beta}{K} \sum_k \log w_k + (1 - \beta) \log \frac1K \sum_k w_k \Bigr].

    Reference: Rainforth et al., 2018, https://arxiv.org/abs/1802.04537

    Args:
        beta: share of the ELBO, between 0 and 1. (The weight of a KL term is another beta.)
    """

    beta: float = field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta: expected a number between 0 and 1, got {self.beta}")

    def bound(self, log_weights: Tensor) -> Tensor:
        return self.beta * log_weights.mean(0) + (1 - self.beta) * log_mean_exp(log_weights)
