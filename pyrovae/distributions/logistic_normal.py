"""The logistic normal, exact where a part is small."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.distributions.stick_breaking import StickBreaking


class LogisticNormal(dist.LogisticNormal):
    r"""Logistic normal on the simplex of D parts: independent normals through stick-breaking.

    The density is that of ``torch.distributions.LogisticNormal``, by the transform of `StickBreaking`, and like that
    of torch's Dirichlet it is the density of the first D - 1 parts. After Aitchison & Shen (1980),
    https://doi.org/10.1093/biomet/67.2.261.

    Args:
        loc: means, of shape ``(*batch_shape, D - 1)``.
        scale: standard deviations, of shape ``(*batch_shape, D - 1)``.

    >>> LogisticNormal(torch.zeros(2), torch.ones(2)).event_shape
    torch.Size([3])
    """

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale, validate_args=validate_args)
        self.transforms = [StickBreaking()]

    def expand(self, batch_shape: torch.Size, _instance: LogisticNormal | None = None) -> LogisticNormal:
        new = self._get_checked_instance(LogisticNormal, _instance)
        return super().expand(batch_shape, _instance=new)
