"""A label that some rows have: what it is, its prior and what a classifier says of it."""

from __future__ import annotations

from typing import Any

import pyro
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae import posteriors, priors
from pyrovae.checks import as_rows, count, is_trusted
from pyrovae.conditional import Conditional
from pyrovae.distributions import Known, centre

REAL = "real"


class Label(nn.Module):
    r"""The site y of a semi-supervised VAE, :math:`y \sim p(y)` and :math:`y \sim q(y \mid x)`: a class, as an
    indicator, or a number. Kingma, Rezende, Mohamed & Welling (2014), https://arxiv.org/abs/1406.5298 (M2).

    Labels come as the condition does, ``(B, width)``, NaN where there is none.

    Args:
        kind: K, for one of the classes 0, ..., K - 1, or "real", for a number.
        prior: p(y).
        posterior: q(y | x).
        weight: of the classifier's own log-likelihood in training.
    """

    def __init__(self, kind: int | str, prior: Conditional, posterior: Conditional, weight: float = 0.0) -> None:
        super().__init__()
        self.kind, self.prior, self.posterior = kind, prior, posterior
        if not 0 <= weight < float("inf"):
            raise ValueError(f"label_weight: expected a number of at least 0, got {weight!r}")
        self.weight = weight

    def draw_prior(self, y: Tensor) -> Tensor:
        """The site of the model."""
        return pyro.sample("y", self.p(y))

    def draw_posterior(self, x: Tensor, y: Tensor) -> Tensor:
        """The site of the guide."""
        return pyro.sample("y", self.q(x, y))

    def observe(self, x: Tensor, y: Tensor) -> None:
        r"""The classifier's log-likelihood of the labels that are there, ``weight`` times: without it, q(y | x) learns
        from rows without a label only."""
        if self.weight and self.training:
            q, known = self.posterior(x), ~y.isnan().any(-1)
            # Rows without a label are masked; what stands there need only be one.
            value = torch.where(known[:, None], y, torch.eye(*y.shape[-1:]).to(y)[0])
            with poutine.scale(scale=self.weight):
                pyro.sample("y_known", q.mask(known), obs=value)

    def p(self, y: Tensor) -> TorchDistribution:
        """p(y), which knows the labels that are there."""
        return Known(self.prior(), *_split(y), prior=True)

    def q(self, x: Tensor, y: Tensor) -> TorchDistribution:
        """q(y | x), which is a label where it is there."""
        return Known(self.posterior(x), *_split(y))

    def filled(self, x: Tensor, y: Tensor) -> Tensor:
        """Labels, and the likeliest (of a number, its mean) where there is none."""
        return centre(self.q(x, y)) if y.isnan().any() else y


def make(kind: int | str, classifier: nn.Module, weight: float, event_shape: torch.Size, **options: Any) -> Label:  # noqa: ANN401
    """The label of a kind, with a network from rows to features, and ``options`` of its `Conditional`."""
    size = (width(kind),)
    prior, posterior = ("normal", "normal") if kind == REAL else ("one_hot", "categorical")
    return Label(
        kind,
        Conditional(priors.make(prior), None, (1,), size, name="label"),
        Conditional(posteriors.make(posterior), classifier, event_shape, size, name="classifier", **options),
        weight,
    )


def width(kind: int | str) -> int:
    """How many numbers a label of a kind is.

    Raises:
        ValueError: for a kind that is neither "real" nor a whole number of at least 2.
    """
    if isinstance(kind, str):
        if kind != REAL:
            raise ValueError(f"label: expected the number of classes, or real, got {kind!r}")
        return 1
    return count(kind, "label", 2)


def encode(labels: Any, kind: int | str, rows: int | None, like: Tensor) -> Tensor:  # noqa: ANN401 - whatever a user has
    """Labels as ``(rows, width)``, NaN for none: of classes, indicators.

    They come as ``(N,)``, classes 0, ..., K - 1 or numbers, with -1 (of classes) or NaN for none; or are so already.
    None is none in any row, and one row stands for all.

    Raises:
        ValueError: naming the row, for a class that there is not, or a number that is not finite.
    """
    size = width(kind)
    if labels is None:
        return like.new_full((1 if rows is None else rows, size), torch.nan)
    values = torch.as_tensor(labels, device=like.device)
    if values.ndim == 1:
        values = values.to(like.dtype)
        if kind == REAL:
            values = values[:, None]
        else:
            values = values.masked_fill(values == -1, torch.nan)
            there = ~values.isnan()
            wrong = there & ~((values >= 0) & (values < kind) & (values == values.round()))
            if not is_trusted() and wrong.any():
                row = int(wrong.nonzero()[0])
                raise ValueError(
                    f"labels: expected a class from 0 to {kind - 1}, or -1 for none, got {values[row]:g} at row {row}"
                )
            indicators = F.one_hot(values.nan_to_num(0.0).long(), kind).to(like.dtype)
            values = torch.where(there[:, None], indicators, torch.nan)
    values = as_rows(values, (size,), "labels", like)
    gone = values.isnan()
    fits = (
        values.isfinite().all(-1) if kind == REAL else ((values == 0) | (values == 1)).all(-1) & (values.sum(-1) == 1)
    )
    wrong = ~(gone.all(-1) | fits)
    if not is_trusted() and wrong.any():
        row = int(wrong.nonzero()[0])
        expected = "a finite number" if kind == REAL else f"an indicator of one of {kind} classes"
        raise ValueError(f"labels: expected {expected}, or NaN for none, got {values[row].tolist()} at row {row}")
    if rows is not None and len(values) not in (1, rows):
        raise ValueError(f"labels: expected {rows} rows, as x has, got {len(values)}")
    return values if rows is None else values.expand(rows, -1)


def _split(y: Tensor) -> tuple[Tensor, Tensor]:
    """Values without NaN, and where they are known."""
    return y.nan_to_num(0.0), ~y.isnan().any(-1)
