"""What the likelihoods of counts share: a bounded exponential, an exposure and how a network sees them."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae.checks import count
from pyrovae.piece import Piece

BOUND = 20.0
"""Exponentials of network outputs grow linearly beyond e to this power."""

REMEDY = "Counts are whole numbers from 0: do not scale or log-transform them, or use likelihood='gaussian'."


def bounded(raw: Tensor) -> Tensor:
    r"""A logarithm that never overflows: r within :math:`\pm 20`, beyond that :math:`\pm(20 + \log(|r| - 19))`.

    So :math:`e^{\text{bounded}(r)}` goes on linearly where the exponential leaves the range of counts, at 4.9e8, and
    its gradient is never 0. At raw = 1000 it is 4.8e11, at -1000 it is 2.1e-12.

    >>> bounded(torch.tensor([-1e3, 3.0, 1e3])).exp()
    tensor([2.1011e-12, 2.0086e+01, 4.7595e+11])
    """
    size = raw.abs()
    beyond = size > BOUND
    far = raw.sign() * (BOUND + torch.log1p(torch.where(beyond, size - BOUND, torch.zeros_like(size))))
    return torch.where(beyond, far, raw)


class Counts(Piece):
    r"""Elementwise counts of mean :math:`e^{\eta + o}`, with a logarithm of the exposure o if there is one.

    The base of the likelihoods of counts: they write `law`, the distribution at a mean.

    Args:
        exposure: the column of the condition that holds the logarithm of the exposure (of the library size); None:
            the same for all rows.
    """

    support = constraints.nonnegative_integer
    remedy = REMEDY

    def __init__(self, exposure: int | None = None) -> None:
        super().__init__()
        self.exposure = None if exposure is None else count(exposure, "exposure", 0)
        self.contextual = exposure is not None

    @property
    def numbers(self) -> int:
        return 1

    def law(self, mean: Tensor, *free: Tensor) -> TorchDistribution:
        """The distribution of single counts from their means and the other numbers, each ``(..., *event_shape)``."""
        raise NotImplementedError(f"{type(self).__name__} must define law(mean, ...) -> a Pyro distribution")

    def forward(
        self, params: Tensor, inputs: Tensor | None = None, condition: Tensor | None = None
    ) -> TorchDistribution:
        raw, *free = self.split(params)
        mean = bounded(raw + self.offset(condition)).exp()
        return self.law(mean, *free).to_event(len(self.event_shape))

    def initial(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        # The maximum-likelihood rate of Poisson counts: all counts (at least a half) over all exposure.
        offset = self.offset(condition)
        shift = offset.max() if isinstance(offset, Tensor) else 0.0
        exposure = (offset - shift).exp().mean(0) if isinstance(offset, Tensor) else 1.0
        return (torch.log(x.mean(0).clamp_min(0.5 / len(x)) / exposure) - shift).flatten()

    def features(self, x: Tensor) -> Tensor:
        """log(1 + x), which keeps counts of any size in the range of a network."""
        return torch.log1p(x)

    def offset(self, condition: Tensor | None) -> Tensor | float:
        """The logarithm of the exposure ``(..., 1, ...)``, which broadcasts with ``(..., *event_shape)``."""
        if self.exposure is None:
            return 0.0
        columns = 0 if condition is None else condition.shape[-1]
        if self.exposure >= columns:
            raise ValueError(
                f"{type(self).__name__}: expected the logarithm of the exposure in column {self.exposure} of the "
                f"condition, got a condition of {columns} columns. Build the VAE with condition_dim of at least "
                f"{self.exposure + 1} and pass condition=, or use exposure=None."
            )
        offset = condition[..., self.exposure]
        return offset.reshape(offset.shape + (1,) * len(self.event_shape))
