"""Inverse autoregressive flow posterior."""

from __future__ import annotations

from pyrovae.posteriors.flow import NetworkFlowPosterior


class IAF(NetworkFlowPosterior):
    r"""Inverse autoregressive flow posterior: a draw takes one pass.

    .. math:: z_i \leftarrow a_i + s_i z_i \text{ in each step, } a_i, s_i \text{ of the old } z_{<i} \text{ and of } x

    A draw and its log-density take one pass of the networks; the log-density of any other value takes D passes. Masked
    networks (MADE) see the z of the step before and a context from the encoder; the order is reversed from step to
    step. Kingma et al. (2016), https://arxiv.org/abs/1606.04934.

    Args:
        transforms: the number of steps.
        hidden: the widths of each step's network.
        context: the length of the vector that the encoder gives to the networks.
        floor: the least scale of the normal.

    >>> import torch
    >>> posterior = IAF(transforms=2)
    >>> posterior(torch.randn(3, posterior.build((2,)))).event_shape
    torch.Size([2])
    """

    kind = "maf"
