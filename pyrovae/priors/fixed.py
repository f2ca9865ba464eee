"""Any Pyro distribution as a prior."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.piece import Piece


class Fixed(Piece):
    """A prior that is a given distribution: the VAE wraps any Pyro Distribution in it.

    Its tensors follow the VAE to another device or dtype, and are not trained.

    Args:
        distribution: a Pyro distribution over one latent vector: event shape ``(latent_dim,)``, no batch shape.

    Raises:
        ValueError: when the VAE is built, if the distribution has another shape.

    >>> import pyro.distributions as dist
    >>> prior = Fixed(dist.Laplace(0.0, 1.0).expand([2]).to_event(1))
    >>> prior.build((2,))
    0
    """

    numbers = 0

    def __init__(self, distribution: TorchDistribution) -> None:
        super().__init__()
        if not isinstance(distribution, TorchDistributionMixin):
            raise ValueError(
                f"prior: expected a Pyro distribution, got {type(distribution).__module__}."
                f"{type(distribution).__name__}. Take it from pyro.distributions."
            )
        self.distribution = distribution

    def build(self, event_shape: Sequence[int]) -> int:
        d = self.distribution
        if tuple(d.event_shape) != tuple(event_shape) or d.batch_shape:
            raise ValueError(
                f"prior: expected a distribution of event shape {tuple(event_shape)} and no batch shape, got event "
                f"shape {tuple(d.event_shape)} and batch shape {tuple(d.batch_shape)}. "
                f"Write distribution.expand([{', '.join(map(str, event_shape))}]).to_event(1)."
            )
        return super().build(event_shape)

    def forward(self, params: Tensor | None = None) -> TorchDistribution:
        return self.distribution

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self.distribution = _map_tensors(fn, self.distribution, {})
        return super()._apply(fn, recurse)


def _map_tensors(fn: Callable[[Tensor], Tensor], value: Any, seen: dict[int, Any]) -> Any:  # noqa: ANN401 - any attribute
    """A copy of a distribution in which each tensor, however deep, has gone through ``fn``.

    ``seen`` holds what is copied already: a transform and its inverse know each other.
    """
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, Tensor):
        return fn(value.detach())
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return type(value)(_map_tensors(fn, item, seen) for item in value)
    if isinstance(value, weakref.ref):
        return None  # a transform's memory of its inverse, which it makes anew
    if isinstance(value, nn.Module):
        new = seen[id(value)] = copy.deepcopy(value)
        return new._apply(fn)
    if isinstance(value, torch.distributions.Distribution | torch.distributions.Transform):
        new = seen[id(value)] = copy.copy(value)
        for key, item in vars(value).items():
            new.__dict__[key] = _map_tensors(fn, item, seen)
        return new
    return value
