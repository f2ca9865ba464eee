"""Neural spline flow posterior."""

from __future__ import annotations

from collections.abc import Sequence

from pyrovae.checks import count
from pyrovae.posteriors.flow import NetworkFlowPosterior


class NSF(NetworkFlowPosterior):
    r"""Neural spline flow posterior: monotone splines in the place of affine steps.

    .. math:: z_i \leftarrow \text{spline}_i(z_i) \text{ in each step, its knots of the old } z_{<i} \text{ and of } x

    With monotonic rational-quadratic splines, within 5 standard deviations of the normal. They make several modes and
    skewed shapes where ``"iaf"`` needs many steps or, with one latent dimension, stays a normal. A draw and its
    log-density take one pass of the networks; the log-density of any other value takes D passes. Durkan, Bekasov,
    Murray & Papamakarios (2019), https://arxiv.org/abs/1906.04032.

    Args:
        transforms: the number of steps.
        bins: the number of bins of a spline.
        hidden: the widths of each step's network.
        context: the length of the vector that the encoder gives to the networks.
        floor: the least scale of the normal.

    >>> import torch
    >>> posterior = NSF(transforms=2)
    >>> posterior(torch.randn(3, posterior.build((2,)))).event_shape
    torch.Size([2])
    """

    kind = "nsf"

    def __init__(
        self,
        transforms: int = 3,
        bins: int = 8,
        hidden: Sequence[int] = (64, 64),
        context: int = 32,
        floor: float = 1e-4,
    ) -> None:
        super().__init__(transforms, hidden, context, floor)
        self.bins = count(bins, "nsf bins", 2)
