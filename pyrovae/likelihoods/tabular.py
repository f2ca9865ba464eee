"""Likelihood of tables whose columns have different types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import distributions
from pyrovae.datasets.schema import CODED, Column, Schema
from pyrovae.datasets.standardize import standardization
from pyrovae.distributions import Columns, Product, positive
from pyrovae.likelihoods.categorical import Categorical
from pyrovae.likelihoods.location_scale import LocationScale
from pyrovae.likelihoods.missing import fill
from pyrovae.likelihoods.negative_binomial import NegativeBinomial
from pyrovae.likelihoods.ordinal import Ordinal
from pyrovae.piece import Piece

SUPPORTS = {
    "real": constraints.real,
    "positive": constraints.positive,
    "count": constraints.nonnegative_integer,
}
SCALED = {"real": dist.Normal, "positive": distributions.LogNormal}


class Tabular(Piece):
    r"""Likelihood of tables whose columns have different types, with cells missing.

    .. math:: p(x \mid z) = \prod_{d \text{ observed}} p_d(x_d \mid z)

    one value a column and a distribution for each kind of column: ``real`` a Gaussian, ``positive`` a log-normal,
    ``count`` a negative binomial, ``categorical`` a softmax over its categories, ``ordinal`` cumulative logits. NaN is
    a missing cell: it is left out of the product, and an encoder sees it as one, so that a VAE trains on tables with
    holes and `pyrovae.impute` fills them. The heterogeneous likelihood of HI-VAE, Nazabal, Olmos, Ghahramani & Valera
    (2020), https://arxiv.org/abs/1807.03653.

    Real columns, and the logarithms of positive ones, are brought to mean 0 and standard deviation 1 by the first data
    (`initial`), and back: log p(x) is in the units of the table, whatever they are. Do not standardize the table.

    Args:
        columns: the columns in order, as `pyrovae.datasets.Column` or in JSON, such as ``data.schema``; the categories
            of a column stand in x as their codes 0, 1, 2, ...
        floor: the least scale of a real or positive column, in standard deviations of it or of its logarithm.

    >>> from pyrovae.datasets import Column
    >>> likelihood = Tabular([Column("age", "count"), Column("job", "categorical", ("clerk", "nurse"))])
    >>> likelihood.features(torch.tensor([[3.0, 1.0], [0.0, torch.nan]])).shape  # log age, two jobs, two missing
    torch.Size([2, 5])
    """

    missing = True
    remedy = "A value must be of its column's kind; a category stands as its code 0, 1, 2, ..., a missing cell as NaN."

    def __init__(self, columns: Iterable[Column | Mapping[str, Any]] = (), floor: float = 1e-2) -> None:
        super().__init__()
        schema = Schema(columns)
        self.columns = schema.to_list()
        self.floor = positive(floor, "tabular floor: expected")
        groups: dict[tuple[str, int], list[int]] = {}
        for i, column in enumerate(schema):
            groups.setdefault((column.kind, len(column.categories)), []).append(i)
        self.groups = tuple(groups)
        self.pieces = nn.ModuleList(self._piece(kind, classes) for kind, classes in groups)
        for i, members in enumerate(groups.values()):
            self.register_buffer(f"members_{i}", torch.tensor(members), persistent=False)
        # Of the numbers x, log x or log(1 + x) of each column; categories keep 0 and 1.
        self.register_buffer("center", torch.zeros(len(schema)))
        self.register_buffer("spread", torch.ones(len(schema)))
        self.support = Columns(
            [
                (members, SUPPORTS.get(kind, constraints.integer_interval(0, classes - 1)))
                for (kind, classes), members in groups.items()
            ]
        )

    def build(self, event_shape: Sequence[int]) -> int:
        self._check(event_shape)
        super().build(event_shape)
        self.sizes = [piece.build((len(members),)) for _, _, piece, members in self._parts()]
        return sum(self.sizes)

    def forward(self, params: Tensor) -> Product:
        parts = []
        for (kind, _, piece, members), numbers in zip(self._parts(), params.split(self.sizes, -1), strict=True):
            if kind in SCALED:
                loc, scale = piece.location_scale(numbers)
                spread = self.spread[members]
                part = SCALED[kind](self.center[members] + spread * loc, spread * scale)
            else:
                part = piece(numbers).base_dist
            parts.append((members, part))
        return Product(parts)

    def initial(self, x: Tensor) -> Tensor:
        x = fill(x, [column["name"] for column in self.columns])
        numeric = self._numeric()
        self.center[numeric], self.spread[numeric] = standardization(self._numbers(x)[:, numeric])
        scaled = self._scaled(x)
        return torch.cat(
            [piece.initial((scaled if kind in SCALED else x)[:, members]) for kind, _, piece, members in self._parts()]
        )

    def features(self, x: Tensor) -> Tensor:
        """Numbers (counts and positive ones by their logarithms) at mean 0 and standard deviation 1, an indicator of
        each category, and one of each missing cell; what is missing is 0 in the others."""
        self._check(x.shape[1:])
        missing = torch.isnan(x)
        x = torch.where(missing, 0.0, x)
        seen = [torch.where(missing, 0.0, self._scaled(x))[:, self._numeric()]]
        for kind, classes, _, members in self._parts():
            if kind in CODED:
                indicators = F.one_hot(x[:, members].long(), classes).to(x) * ~missing[:, members, None]
                seen.append(indicators.flatten(1))
        return torch.cat([*seen, missing.to(x)], -1)

    def _piece(self, kind: str, classes: int) -> Piece:
        if kind in SCALED:
            return LocationScale("per_dimension", self.floor)
        if kind == "count":
            return NegativeBinomial()
        return Categorical(classes) if kind == "categorical" else Ordinal(classes)

    def _parts(self) -> Iterator[tuple[str, int, Piece, Tensor]]:
        """Kind, number of categories, piece and columns of each group of like columns."""
        for i, ((kind, classes), piece) in enumerate(zip(self.groups, self.pieces, strict=True)):
            yield kind, classes, piece, getattr(self, f"members_{i}")

    def _numeric(self) -> list[int]:
        return [i for i, column in enumerate(self.columns) if column["kind"] not in CODED]

    def _numbers(self, x: Tensor) -> Tensor:
        """x with the logarithms of positive columns and log(1 + x) of counts."""
        x = x.clone()
        for kind, _, _, members in self._parts():
            if kind == "positive":
                x[:, members] = x[:, members].clamp_min(torch.finfo(x.dtype).tiny).log()
            elif kind == "count":
                x[:, members] = x[:, members].log1p()
        return x

    def _scaled(self, x: Tensor) -> Tensor:
        return (self._numbers(x) - self.center) / self.spread

    def _check(self, shape: Sequence[int]) -> None:
        if tuple(shape) != (len(self.columns),) or not self.columns:
            raise ValueError(
                f"tabular: expected one column for each element of an event of shape {tuple(shape)}, got "
                f"{len(self.columns)} columns. Pass columns=, such as the schema of "
                "pyrovae.datasets.load(path, schema={})."
            )
