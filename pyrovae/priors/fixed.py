"""Any Pyro distribution as a prior."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.distributions import map_tensors
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
        self.distribution = map_tensors(fn, self.distribution)
        return super()._apply(fn, recurse)
