"""Mean, standard deviation and a point in the middle of any distribution, whatever it has in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from pyrovae.modes import reseed

DRAWS = 256
"""Draws from which moments are estimated where there is no closed form."""


def expectation(d: Distribution) -> Tensor:
    """E[v] where it exists, otherwise the mode (a nominal class has no mean), otherwise a mean over draws.

    >>> import pyro.distributions as dist
    >>> expectation(dist.Categorical(torch.tensor([0.2, 0.8])))
    tensor(1)
    """
    for name in ("mean", "mode"):
        value = _finite(d, name)
        if value is not None:
            return value
    return _draws(d).mean(0)


def moments(d: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each element, over 256 draws of a fixed seed where there is no closed form."""
    mean, stddev = _finite(d, "mean"), _finite(d, "stddev")
    if mean is not None and stddev is not None:
        return mean, stddev
    draws = _draws(d)
    return draws.mean(0), draws.std(0)


def centre(d: Distribution) -> Tensor:
    """One value within the support that stands for the distribution: its mean if that is a value it can take, else its
    mode, else the image of its base's centre (a median, where the transform is elementwise), else a draw.

    >>> import pyro.distributions as dist
    >>> centre(dist.OneHotCategorical(torch.tensor([0.2, 0.8])))
    tensor([0., 1.])
    """
    for name in ("mean", "mode"):
        value = _finite(d, name)
        if value is not None and d.support.check(value).all():
            return value
    if isinstance(d, TransformedDistribution):
        value = centre(d.base_dist)
        for transform in d.transforms:
            value = transform(value)
        return value
    draws = _draws(d)
    mean = draws.mean(0)
    return mean if d.support.check(mean).all() else draws[0]


def _finite(d: Distribution, name: str) -> Tensor | None:
    """A closed form of ``d``, if it is there and finite."""
    try:
        value = getattr(d, name)
    except (NotImplementedError, AttributeError):
        return None
    return value if torch.isfinite(value).all() else None


def _draws(d: Distribution) -> Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        reseed(0)
        return d.sample((DRAWS,))
