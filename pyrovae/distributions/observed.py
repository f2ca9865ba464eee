"""Densities of the cells that are there."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import Distribution, constraints


class OrMissing(constraints.Constraint):
    """A constraint on cells in which NaN is welcome, too: a missing cell.

    >>> OrMissing(constraints.positive).check(torch.tensor([1.0, -1.0, torch.nan]))
    tensor([ True, False,  True])
    """

    def __init__(self, present: constraints.Constraint) -> None:
        self.present = present
        self.is_discrete = present.is_discrete
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.present.check(value) | torch.isnan(value)

    def __repr__(self) -> str:
        return f"{self.present}, or missing"


class Observed(dist.Independent):
    r"""Independent cells, :math:`p(x) = \prod_d p_d(x_d)` over those that are there.

    NaN is a missing cell and contributes 0 to log p: what is left is the density of the observed cells, the others
    integrated out. In all else it is ``Independent``.

    Args:
        base_distribution: of the cells, each of them a batch dim.
        reinterpreted_batch_ndims: how many of its last dims make an event.

    >>> p = Observed(dist.Normal(torch.zeros(3), 1.0), 1)
    >>> p.log_prob(torch.tensor([0.0, torch.nan, 0.0]))  # -log(2 pi)
    tensor(-1.8379)
    """

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(OrMissing(self.base_dist.support), self.reinterpreted_batch_ndims)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_rightmost(log_prob_of_observed(self.base_dist, value), self.reinterpreted_batch_ndims)


def log_prob_of_observed(p: Distribution, value: Tensor) -> Tensor:
    """log p of each cell, and 0 where it is missing (NaN)."""
    missing = torch.isnan(value)
    # A value that p accepts stands in, because 0 times the gradient of NaN is NaN.
    inside = 0.0 if p.support.is_discrete else 0.5
    return torch.where(missing, 0.0, p.log_prob(torch.where(missing, inside, value)))
