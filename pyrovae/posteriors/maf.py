"""Masked autoregressive flow posterior."""

from __future__ import annotations

from pyrovae.posteriors.flow import NetworkFlowPosterior


class MAF(NetworkFlowPosterior):
    r"""Masked autoregressive flow posterior: a draw takes D passes.

    .. math:: z_i \leftarrow a_i + s_i z_i \text{ in each step, } a_i, s_i \text{ of the new } z_{<i} \text{ and of } x

    The log-density of any value takes one pass of the networks, a draw D passes: the other way round from ``"iaf"``,
    which trains faster. For estimators that need the log-density of values from elsewhere, such as wake-sleep's.
    Papamakarios, Pavlakou & Murray (2017), https://arxiv.org/abs/1705.07057.

    Args:
        transforms: the number of steps.
        hidden: the widths of each step's network.
        context: the length of the vector that the encoder gives to the networks.
        floor: the least scale of the normal.

    >>> import torch
    >>> posterior = MAF(transforms=2)
    >>> posterior(torch.randn(3, posterior.build((2,)))).event_shape
    torch.Size([2])
    """

    kind = "maf"
    inverted = True
