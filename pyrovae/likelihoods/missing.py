"""Any likelihood of independent elements, with cells missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent

from pyrovae.distributions import Observed
from pyrovae.piece import Piece
from pyrovae.registry import choose

SEEN = ("mask", "zero")


class Missing(Piece):
    r"""A likelihood of independent elements, of data with cells missing at random.

    .. math:: p(x_\text{obs} \mid z) = \prod_{d \text{ observed}} p(x_d \mid z)

    NaN is a missing cell: it is left out of the product, which integrates it out exactly, and with it out of every
    bound, density and gradient. Trained with ``"iwae"`` it is the MIWAE of Mattei & Frellsen (2019),
    https://arxiv.org/abs/1812.02633; with ``"elbo"`` the VAE of Nazabal et al. (2020), https://arxiv.org/abs/1807.03653.
    `pyrovae.impute` fills the cells in. ``VAE(..., missing="mask")`` makes one of these of its likelihood.

    It holds where whether a cell is missing says nothing of its value, given the cells that are there. Where it does,
    the VAE needs a mechanism beside it (see `pyrovae.mechanism.Mechanism`).

    Args:
        likelihood: of the complete data.
        sees: what an encoder sees of a missing cell: 0 in its place ("zero": of standardized data, its mean), or that
            and, beside the data, an indicator of each cell that is missing ("mask").

    Raises:
        ValueError: for a likelihood whose elements are not independent given z, or that knows missing cells itself.

    >>> from pyrovae.likelihoods import Gaussian
    >>> likelihood = Missing(Gaussian(scale=1.0))
    >>> likelihood.build((2,))
    2
    >>> likelihood(torch.zeros(1, 2)).log_prob(torch.tensor([0.0, torch.nan]))  # -log(2 pi) / 2
    tensor([-0.9189])
    """

    missing = True

    def __init__(self, likelihood: Piece, sees: str = "mask") -> None:
        super().__init__()
        self.sees = choose(sees, SEEN, "missing")
        name = type(likelihood).__name__
        if getattr(likelihood, "missing", False):
            raise ValueError(f"missing: {name} knows missing cells itself. Omit missing=.")
        if getattr(likelihood, "scale", None) == "optimal":
            raise ValueError(
                "missing: gaussian(scale=optimal) computes its scale from all cells of a batch, of which some are "
                "missing. Choose scale=shared, which learns it."
            )
        self.likelihood = likelihood
        self.support, self.remedy = likelihood.support, getattr(likelihood, "remedy", "")
        self.contextual = getattr(likelihood, "contextual", False)

    def build(self, event_shape: Sequence[int]) -> int:
        super().build(event_shape)
        return self.likelihood.build(event_shape)

    def forward(self, params: Tensor, *context: Tensor | None) -> TorchDistribution:
        p = self.likelihood(params, *context)
        if not isinstance(p, Independent) or p.reinterpreted_batch_ndims != len(self.event_shape):
            raise ValueError(
                f"missing: expected a likelihood whose elements are independent given z, got "
                f"{type(self.likelihood).__name__}, in which none can be left out. Fill in or drop missing values."
            )
        return Observed(p.base_dist, p.reinterpreted_batch_ndims)

    def initial(self, x: Tensor, *context: Tensor | None) -> Tensor | None:
        initial = getattr(self.likelihood, "initial", None)
        return None if initial is None else initial(fill(x), *context)

    def features(self, x: Tensor) -> Tensor:
        """What the likelihood shows of the data, 0 for a missing cell, and with "mask" an indicator of each: more
        channels of an image, more columns of anything else."""
        features = getattr(self.likelihood, "features", None)
        seen = (x if features is None else features(x)).nan_to_num(0.0)
        if self.sees == "zero":
            return seen
        return torch.cat([seen, torch.isnan(x).to(seen)], 1 if x.ndim == 4 else -1)


def fill(x: Tensor, columns: Sequence[str] | None = None) -> Tensor:
    """x with the missing cells of each column filled by evenly spaced quantiles of the others, which leaves mean,
    spread and shares as they are.

    Raises:
        ValueError: for a column without any value.
    """
    cells = x.clone().flatten(1)
    missing = torch.isnan(cells)
    if empty := missing.all(0).nonzero().flatten().tolist():
        column = repr(columns[empty[0]]) if columns else empty[0]
        raise ValueError(f"column {column}: expected values, got none in any row. Drop it.")
    for i in missing.any(0).nonzero().flatten().tolist():
        gone = missing[:, i]
        observed, count = cells[~gone, i].sort().values, int(gone.sum())
        cells[gone, i] = observed[(torch.arange(count, device=x.device) * 2 + 1) * len(observed) // (2 * count)]
    return cells.reshape(x.shape)
