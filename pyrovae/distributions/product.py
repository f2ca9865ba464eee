"""Columns of different kinds, independent of one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.moments import expectation
from pyrovae.distributions.observed import OrMissing, log_prob_of_observed


class Columns(constraints.Constraint):
    """A constraint for each column, as ``(columns, constraint)`` pairs; checks ``(..., D)`` cell by cell.

    >>> Columns([([0, 2], constraints.real), ([1], constraints.positive)]).check(torch.tensor([-1.0, -1.0, -1.0]))
    tensor([ True, False,  True])
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int] | Tensor, constraints.Constraint]]) -> None:
        self.parts = tuple(parts)
        self.is_discrete = all(constraint.is_discrete for _, constraint in self.parts)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        fits = torch.zeros_like(value, dtype=torch.bool)
        for columns, constraint in self.parts:
            fits[..., columns] = constraint.check(value[..., columns])
        return fits

    def __repr__(self) -> str:
        return "the support of its column"


class Product(TorchDistribution):
    r"""Independent columns of different kinds, :math:`p(x) = \prod_d p_d(x_d)` over the cells that are there.

    NaN is a missing cell and contributes 0 to log p: what is left is the density of the observed cells, the others
    integrated out. The heterogeneous likelihood of Nazabal et al. (2020), https://arxiv.org/abs/1807.03653.

    Args:
        parts: ``(columns, distribution)`` pairs: which columns, each of 0, ..., D - 1 in one pair, and their
            distributions, of batch shape ``(..., len(columns))``.

    >>> import pyro.distributions as dist
    >>> p = Product([([0, 2], dist.Normal(torch.zeros(2), 1.0)), ([1], dist.Poisson(torch.ones(1)))])
    >>> p.log_prob(torch.tensor([0.0, 1.0, torch.nan]))  # -log(2 pi) / 2 - 1
    tensor(-1.9189)
    """

    arg_constraints = {}

    def __init__(
        self, parts: Sequence[tuple[Sequence[int] | Tensor, TorchDistribution]], validate_args: bool | None = None
    ) -> None:
        self.parts = tuple(parts)
        batch_shape = self.parts[0][1].batch_shape[:-1]
        width = sum(part.batch_shape[-1] for _, part in self.parts)
        super().__init__(batch_shape, torch.Size([width]), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        columns = Columns([(columns, part.support) for columns, part in self.parts])
        return constraints.independent(OrMissing(columns), 1)

    @property
    def has_rsample(self) -> bool:
        return all(part.has_rsample for _, part in self.parts)

    def expand(self, batch_shape: torch.Size, _instance: Product | None = None) -> Product:
        new = self._get_checked_instance(Product, _instance)
        shape = torch.Size(batch_shape)
        new.parts = tuple((columns, part.expand(shape + part.batch_shape[-1:])) for columns, part in self.parts)
        super(Product, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        with torch.no_grad():
            return self.join([part.sample(sample_shape) for _, part in self.parts])

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.join([part.rsample(sample_shape) for _, part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        total = value.new_zeros(())
        for columns, part in self.parts:
            total = total + log_prob_of_observed(part, value[..., columns]).sum(-1)
        return total

    @property
    def mean(self) -> Tensor:
        """E[x] of each column; of nominal categories, which have none, the mode (see `distributions.expectation`)."""
        return self.join([expectation(part) for _, part in self.parts])

    @property
    def mode(self) -> Tensor:
        return self.join([part.mode for _, part in self.parts])

    def join(self, values: Sequence[Tensor]) -> Tensor:
        """Values of the parts, each ``(..., len(columns))``, in the order of the columns."""
        order = torch.cat([torch.as_tensor(columns, device=values[0].device) for columns, _ in self.parts])
        return torch.cat(list(values), -1)[..., order.argsort()]
