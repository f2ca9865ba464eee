"""How a cell's value makes it go missing: the site ``missing`` of a VAE of data that are missing not at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn
from torch.distributions import Independent

from pyrovae import registry
from pyrovae.conditional import Conditional
from pyrovae.modes import evaluating
from pyrovae.registry import Family

DRAWN = "x_missing"
"""The site of the missing cells."""
_LEFT = "_x_missing_is_left_to_the_model"
SIGNS = (None, 1, -1)


class SelfMasking(nn.Module):
    r"""A logistic regression of each cell's own on its value,

    .. math:: \operatorname{logit} p(s_d = 1 \mid x_d) = a_d + b_d x_d.

    At first b is 0, which is missing at random, or with a known sign, :math:`b = \pm \operatorname{softplus}(\cdot)`.
    The sign is worth knowing: data may say little of it. Ipsen, Mattei & Frellsen (2021),
    https://arxiv.org/abs/2006.12871

    Args:
        event_shape: the shape of a and b: that of a row, or one that broadcasts to it.
        sign: of b: 1 where the higher values go missing, -1 where the lower ones do; None to learn it.

    Raises:
        ValueError: for another sign.

    >>> SelfMasking((3,))(torch.zeros(5, 3)).shape
    torch.Size([5, 3])
    """

    def __init__(self, event_shape: Sequence[int], sign: int | None = None) -> None:
        super().__init__()
        if sign not in SIGNS:
            raise ValueError(f"self_masking sign: expected 1, -1 or None, got {sign!r}")
        self.event_shape, self.sign = tuple(event_shape), sign
        self.intercept = nn.Parameter(torch.zeros(self.event_shape))
        self.weight = nn.Parameter(torch.zeros(self.event_shape))

    @property
    def slope(self) -> Tensor:
        """b."""
        return self.weight if self.sign is None else self.sign * F.softplus(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.intercept + self.slope * x

    @torch.no_grad()
    def initialize(self, missing: Tensor) -> None:
        """a from the share of rows in which a cell is missing, of ``missing`` ``(N, *event_shape)``, unless it has
        moved from zero."""
        if self.intercept.shape == missing.shape[1:] and not self.intercept.any():
            share = (missing.to(self.intercept).sum(0) + 0.5) / (len(missing) + 1)
            self.intercept.copy_(torch.logit(share))


FAMILY: Family = {"self_masking": SelfMasking}


class Mechanism(nn.Module):
    r"""The sites of a model of data that are missing not at random, :math:`s_d = 1` where cell d is missing,

    .. math:: x_\text{mis} \sim p(x_\text{mis} \mid z), \qquad
        s \sim \prod_d \operatorname{Bernoulli}(\operatorname{logit} s_d = f_d(x_\text{obs}, x_\text{mis})),

    called ``x_missing`` (a whole row, of which the missing cells alone are looked at) and ``missing``.

    The guide proposes missing cells from the model's own :math:`p(x_\text{mis} \mid z)`, so that their densities cancel
    and

    .. math:: \log w = \log p(z) + \log p(x_\text{obs} \mid z) + \log p(s \mid x_\text{obs}, x_\text{mis})
        - \log q(z \mid x_\text{obs}).

    It leaves them to the model, which has run the decoder anyway: where z comes from the VAE's own guide,
    ``x_missing`` is drawn beside the density, and with a gradient. Anywhere else (NUTS, another guide) it is a latent
    site like any other.

    Args:
        logits: f, from completed rows ``(B, *event_shape)`` to the logits of being missing, of the same shape.
        event_shape: the shape of a row.

    Raises:
        ValueError: for a module that does not take such rows or gives another shape.

    >>> mechanism = Mechanism(nn.Linear(3, 3), (3,))
    >>> mechanism(torch.zeros(7, 5, 3)).shape
    torch.Size([7, 5, 3])
    """

    def __init__(self, logits: Callable[[Tensor], Tensor], event_shape: Sequence[int]) -> None:
        super().__init__()
        self.logits, self.event_shape = logits, torch.Size(event_shape)
        like = next(self.parameters(), torch.empty(()))
        rows = torch.zeros(2, *self.event_shape, dtype=like.dtype, device=like.device)
        try:
            with evaluating(self), torch.random.fork_rng():
                found = logits(rows)
        except Exception as error:
            raise ValueError(f"mechanism: expected a module that takes {tuple(rows.shape)}, got {error!r}") from error
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if got != tuple(rows.shape):
            raise ValueError(
                f"mechanism: expected a logit of being missing for each cell, {tuple(rows.shape)}, got {got}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of being missing of the cells of completed rows ``(..., *event_shape)``."""
        return self.logits(x.reshape(-1, *self.event_shape)).reshape(x.shape)

    def draw(self, p: TorchDistribution, x: Tensor, *, given: bool, left: bool) -> None:
        """The sites of the model, next to ``x ~ p(x | z)``, NaN in missing cells.

        Args:
            p: p(x | z).
            x: rows ``(..., *event_shape)``.
            given: whether they are data, which say what is missing, or drawn.
            left: whether the guide has left the missing cells to the model.
        """
        gone, dims = torch.isnan(x), len(self.event_shape)
        # A step that is compiled draws them whether there are such or not.
        if left or gone.any():
            cells = Independent(p.base_dist, dims)
            drawn = (
                pyro.deterministic(DRAWN, cells.rsample(), event_dim=dims)
                if left
                else pyro.sample(DRAWN, dist.Independent(p.base_dist, dims))
            )
            x = torch.where(gone, drawn, x)
        s = dist.Bernoulli(logits=self(x)).to_event(dims)
        pyro.sample("missing", s, obs=gone.to(x.dtype) if given else None)

    def initialize(self, x: Tensor) -> None:
        """Let f start at the shares of missing cells of rows x, if it can."""
        initialize: Any = getattr(self.logits, "initialize", None)
        if initialize is not None:
            initialize(torch.isnan(x))


def make(value: Any, likelihood: Conditional, missing: str | None, condition_dim: int) -> Mechanism | None:  # noqa: ANN401 - any module passes through
    """The mechanism of a VAE from its name, or from a module of its own; None for none.

    Raises:
        ValueError: for a likelihood without missing cells, or one whose draws have no gradient.
    """
    if value is None:
        return None
    if missing is None:
        raise ValueError(
            "mechanism: expected a VAE of which missing cells are known, got missing=None. Pass missing='mask' or "
            "missing='zero' beside it; likelihoods that know missing cells themselves take no mechanism."
        )
    logits = registry.make(value, FAMILY, "mechanism", event_shape=likelihood.event_shape)
    if not callable(logits):
        raise ValueError(f"mechanism: expected a name or a module, got {type(logits).__name__}")
    if not likelihood.example(condition_dim).has_rsample:
        raise ValueError(
            f"mechanism: expected a likelihood of continuous cells, got {type(likelihood.piece.likelihood).__name__}: "
            "missing cells are drawn from it, and the gradient goes through the draws. Omit mechanism=."
        )
    return Mechanism(logits, likelihood.event_shape)


def leaving(mechanism: Mechanism | None) -> AbstractContextManager:
    """Around the latent sites of a guide: says that the missing cells are left to the model."""
    if mechanism is None:
        return nullcontext()
    return poutine.infer_config(config_fn=lambda site: {_LEFT: True})


class Left(Messenger):
    """Around the latent sites of a model: hears whether they come from a guide that left the missing cells to it."""

    heard = False

    def _pyro_post_sample(self, msg: Message) -> None:
        self.heard = self.heard or _LEFT in msg["infer"]
