"""Normalising flow prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae import distributions, registry
from pyrovae.checks import count
from pyrovae.distributions.zuko import KINDS, flow_network
from pyrovae.piece import Piece


class Flow(Piece):
    r"""Normalising flow prior, learned.

    .. math:: \log p(z) = \log \mathcal{N}(f(z); 0, I) + \log |\det \partial f / \partial z|

    For an aggregate posterior that is no normal: clusters, curved shapes, dimensions that depend on one another. It
    starts near N(0, I). All kinds give the density, which training needs, in one pass:

    - ``"maf"``: affine steps, each element by those before it (Papamakarios, Pavlakou & Murray 2017,
      https://arxiv.org/abs/1705.07057); a draw takes D passes;
    - ``"nsf"``: the same with splines within [-5, 5] (Durkan et al. 2019, https://arxiv.org/abs/1906.04032);
    - ``"coupling"``: affine steps, one half by the other (Dinh et al. 2017, https://arxiv.org/abs/1605.08803); a draw
      takes one pass.

    Args:
        kind: one of the names above.
        transforms: the number of steps.
        hidden: the widths of each step's network.
        bins: the number of bins of a spline, where there are some.

    Raises:
        ValueError: for ``"coupling"`` with one latent dimension, which has no halves.

    >>> prior = Flow("nsf")
    >>> prior.build((2,))
    0
    >>> prior(None).sample((5,)).shape
    torch.Size([5, 2])
    """

    numbers = 0

    def __init__(
        self,
        kind: Literal["coupling", "maf", "nsf"] = "maf",
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
    ) -> None:
        super().__init__()
        self.kind = registry.choose(kind, KINDS, "flow kind")
        self.transforms = count(transforms, "flow transforms", 1)
        self.hidden = tuple(hidden)
        self.bins = count(bins, "flow bins", 2)

    def build(self, event_shape: Sequence[int]) -> int:
        numbers = super().build(event_shape)
        size = self.event_shape.numel()
        self.to_noise = flow_network(self.kind, size, transforms=self.transforms, hidden=self.hidden, bins=self.bins)
        self.register_buffer("loc", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)
        return numbers

    def forward(self, params: Tensor | None = None) -> dist.TorchDistribution:
        noise = dist.Normal(self.loc, self.scale).to_event(1)
        return distributions.Flow(noise, self.to_noise(None).inv)
