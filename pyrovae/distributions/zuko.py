"""What the library takes from zuko: transforms, and networks that give them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributions import Distribution

# Importing zuko switches torch's checks of values off for the whole process. All else imports it from here, so that
# they stay as they were.
_checks = Distribution._validate_args
from zuko.flows import MAF, NICE, NSF  # noqa: E402
from zuko.transforms import ComposedTransform, PermutationTransform  # noqa: E402
from zuko.utils import bisection  # noqa: E402

Distribution.set_default_validate_args(_checks)

__all__ = ["KINDS", "ComposedTransform", "PermutationTransform", "bisection", "flow_network"]

KINDS = {"coupling": NICE, "maf": MAF, "nsf": NSF}
START = 0.01
"""What the first weights of a flow network's last layer are multiplied by."""


def flow_network(
    kind: str, size: int, context: int = 0, *, transforms: int = 3, hidden: Sequence[int] = (64, 64), bins: int = 8
) -> nn.Module:
    """A module from a context ``(..., context)``, or None, to a transform of vectors ``(..., size)`` near the identity.

    The transform's own direction takes one pass of its networks; the inverse takes ``size`` passes where the kind is
    autoregressive ("maf", "nsf"), and one where it is "coupling".

    >>> transform = flow_network("maf", 3)(None)
    >>> transform(torch.zeros(5, 3)).shape
    torch.Size([5, 3])
    """
    if kind == "coupling" and size < 2:
        raise ValueError(
            f"a coupling flow splits z in two: expected 2 or more latent dimensions, got {size}. Use 'nsf' instead."
        )
    if not hidden or any(width < 1 for width in hidden):
        raise ValueError(f"{kind} hidden: expected one or more positive widths, got {tuple(hidden)}")
    options = {"bins": bins} if kind == "nsf" else {}
    network = KINDS[kind](size, context, transforms=transforms, hidden_features=tuple(hidden), **options).transform
    with torch.no_grad():
        for step in network.transforms:
            # In one dimension, without a context, zuko has bare numbers and no network.
            last = step.hyper[-1] if hasattr(step, "hyper") else step.phi
            for parameter in last.parameters():
                parameter.mul_(START)
    return network
