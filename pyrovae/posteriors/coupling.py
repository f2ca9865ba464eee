"""Coupling flow posterior."""

from __future__ import annotations

from collections.abc import Sequence

from pyrovae.posteriors.flow import NetworkFlowPosterior


class Coupling(NetworkFlowPosterior):
    r"""Coupling flow posterior: one half of z moves the other.

    .. math:: z_b \leftarrow a + s \, z_b \text{ in each step, } a, s \text{ of the other half } z_a \text{ and of } x

    A draw takes one pass of the networks and so does the log-density of any value; in return a step moves half of the
    elements only. Dinh, Sohl-Dickstein & Bengio (2017), https://arxiv.org/abs/1605.08803.

    Args:
        transforms: the number of steps; the halves change places from step to step.
        hidden: the widths of each step's network.
        context: the length of the vector that the encoder gives to the networks.
        floor: the least scale of the normal.

    Raises:
        ValueError: for one latent dimension, which has no halves.

    >>> import torch
    >>> posterior = Coupling(transforms=2)
    >>> posterior(torch.randn(3, posterior.build((2,)))).event_shape
    torch.Size([2])
    """

    kind = "coupling"

    def __init__(
        self, transforms: int = 4, hidden: Sequence[int] = (64, 64), context: int = 32, floor: float = 1e-4
    ) -> None:
        super().__init__(transforms, hidden, context, floor)
