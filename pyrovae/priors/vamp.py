"""VampPrior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.checks import count
from pyrovae.distributions import Mixture, base, inverse_scale, to_scale
from pyrovae.piece import Piece
from pyrovae.registry import choose

STARTS = ("data", "random")
EDGE = 0.01
"""How far from an edge of the data's support pseudo-inputs start, where their gradients are not yet lost."""


class Vamp(Piece):
    r"""VampPrior: a mixture of the posteriors of learned pseudo-inputs, :math:`p(z) = \frac1K \sum_k q(z \mid u_k)`.

    A prior that follows the aggregate posterior, of which it is an approximation by K rows, without a family of its
    own (Tomczak & Welling 2018, https://arxiv.org/abs/1705.07120). The pseudo-inputs :math:`u_k` are parameters in
    the space of x, and the encoder too is trained through the prior. They are real numbers, carried to where x lives:
    as they are for real data, by a sigmoid for data between two bounds (0 and 1 for binary data), by a softplus for
    counts and positive data.

    Each density costs one pass of the K pseudo-inputs through the encoder; where the encoder takes a condition c, of
    K for each row: :math:`p(z \mid c) = \frac1K \sum_k q(z \mid u_k, c)`. In training mode, an encoder with batch
    normalisation sees the pseudo-inputs as one batch, and its running averages take them in.

    Args:
        components: K, at most the number of rows where pseudo-inputs start from data.
        pseudo_inputs: where they start: ``"data"``, from rows of x without replacement, when `VAE.initialize` (which
            `fit` calls) first sees x, and from random numbers until then; or ``"random"``, from N(0, I) before they
            are carried to where x lives, which suits standardised data.

    Raises:
        ValueError: when the VAE is built, for a likelihood whose data cannot be moved by gradients (categories), or a
            posterior without a density or that works with the prior itself; in `VAE.initialize`, for fewer rows than
            pseudo-inputs.

    >>> import pyrovae
    >>> vae = pyrovae.VAE((4,), 2, likelihood="gaussian", prior=Vamp(components=3))
    >>> vae.initialize(torch.randn(100, 4))
    >>> vae.prior().log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    numbers = 0
    contextual = True

    def __init__(self, components: int = 500, pseudo_inputs: Literal["data", "random"] = "data") -> None:
        super().__init__()
        self.components = count(components, "vamp components", 1)
        self.pseudo_inputs = choose(pseudo_inputs, STARTS, "vamp pseudo_inputs")
        self.register_buffer("started", torch.tensor(pseudo_inputs == "random"))
        self._vae: tuple[Any, ...] = ()

    def build(self, event_shape: Sequence[int]) -> int:
        super().build(event_shape)
        return 0

    def bind(self, vae: Any) -> None:  # noqa: ANN401 - the VAE lies below this in the order of imports
        posterior, likelihood = vae.posterior.piece, vae.likelihood.piece
        if vae.posterior.has("point") or hasattr(posterior, "bind"):
            raise ValueError(
                f"vamp: expected a posterior with a density, of the encoder alone, got {type(posterior).__name__}. "
                "Choose posterior='normal', or prior='mixture'."
            )
        # In a tuple, so that the VAE does not become a part of its own prior.
        self._vae = (vae,)
        self.support = posterior.support
        self.low, self.high = _bounds(likelihood.support)
        self.raw_inputs = nn.Parameter(torch.randn(self.components, *vae.event_shape).to(vae.like))
        if not self._can_move(likelihood):
            raise ValueError(
                "vamp: expected a likelihood of real numbers, of numbers between bounds or of counts, in whose space "
                f"pseudo-inputs can move, got {type(likelihood).__name__}. Choose prior='mixture'."
            )

    def _can_move(self, likelihood: Any) -> bool:  # noqa: ANN401 - a user's may be of any class
        """Whether a gradient reaches the pseudo-inputs through what the encoder sees of them."""
        if self.low is None and str(base(likelihood.support)) != str(constraints.real):
            return False
        with torch.enable_grad():
            features = getattr(likelihood, "features", lambda x: x)
            return features(self.inputs()).requires_grad

    def inputs(self) -> Tensor:
        """The pseudo-inputs, ``(K, *event_shape)``."""
        if self.low is None:
            return self.raw_inputs
        if self.high is None:
            return to_scale(self.raw_inputs, self.low)
        return self.low + (self.high - self.low) * torch.sigmoid(self.raw_inputs)

    def forward(
        self, params: Tensor | None = None, inputs: Tensor | None = None, condition: Tensor | None = None
    ) -> dist.TorchDistribution:
        if not self._vae:
            raise ValueError("vamp: expected to be the prior of a VAE before it is used, got no VAE")
        (vae,) = self._vae
        u = self.inputs()
        if condition is not None and (vae.posterior.condition_dim or vae.posterior.has("contextual")):
            rows = condition.shape[:-1]
            u = u.expand(*rows, *u.shape)
            q = vae.posterior(u, condition[..., None, :].expand(*rows, self.components, -1))
        else:
            q = vae.posterior(u)
        return Mixture(dist.Categorical(logits=u.new_zeros(q.batch_shape)), q)

    @torch.no_grad()
    def initial(self, x: Tensor, condition: Tensor | None = None) -> None:
        """Take pseudo-inputs from rows of x, the first time; a missing cell is the mean of its column."""
        if self.started:
            return
        if len(x) < self.components:
            raise ValueError(
                f"vamp: expected at least as many rows as the {self.components} pseudo-inputs, got {len(x)}. "
                f"Write vamp(components={len(x)}) or fewer, or vamp(pseudo_inputs=random)."
            )
        rows = x[torch.randperm(len(x))[: self.components].to(x.device)]
        rows = torch.where(rows.isnan(), x.nanmean(0).nan_to_num(), rows)
        if self.high is not None:
            rows = torch.logit((rows - self.low) / (self.high - self.low), eps=EDGE)
        elif self.low is not None:
            rows = inverse_scale(rows.clamp_min(self.low + EDGE), self.low)
        self.raw_inputs.copy_(rows)
        self.started.fill_(True)


def _bounds(support: constraints.Constraint) -> tuple[Any, Any]:
    """The lower and the upper bound of a support; None where there is none."""
    support = base(support)
    if str(support) == str(constraints.boolean):
        return 0.0, 1.0
    low = getattr(support, "lower_bound", None)
    return low, None if low is None else getattr(support, "upper_bound", None)
