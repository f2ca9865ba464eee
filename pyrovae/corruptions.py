"""What is done to the rows that an encoder sees in training: a name, an object from here, or any function of x.

A model that must tell the clean row from a corrupted one learns what holds rows together: the denoising autoencoder of
Vincent, Larochelle, Bengio & Manzagol (2008), https://doi.org/10.1145/1390156.1390294; the denoising VAE of Im, Ahn,
Memisevic & Bengio (2017), https://arxiv.org/abs/1511.06406. For each corrupted row the ELBO of the clean one is a lower
bound all the same. In evaluation mode encoders see rows as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.distributions import positive
from pyrovae.registry import Family
from pyrovae.registry import make as _make


@dataclass
class Gaussian:
    """Normal noise added to each element.

    Args:
        scale: its standard deviation, in units of x.
    """

    scale: float = 0.3

    def __post_init__(self) -> None:
        self.scale = positive(self.scale, "gaussian scale: expected")

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.randn_like(x)


@dataclass
class Masking:
    """Elements set to 0 at random.

    Args:
        share: the probability of each.
    """

    share: float = 0.25

    def __post_init__(self) -> None:
        self.share = _share(self.share, "masking")

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(torch.rand_like(x) < self.share, torch.zeros_like(x), x)


@dataclass
class SaltAndPepper:
    """Elements set to 0 or 1 at random, half of them to each.

    Args:
        share: the probability that one is.
    """

    share: float = 0.25

    def __post_init__(self) -> None:
        self.share = _share(self.share, "salt_and_pepper")

    def __call__(self, x: Tensor) -> Tensor:
        chance = torch.rand_like(x)
        return torch.where(chance < self.share, (chance < self.share / 2).to(x), x)


FAMILY: Family = {"gaussian": Gaussian, "masking": Masking, "salt_and_pepper": SaltAndPepper}


def make(value: Any) -> Callable[[Tensor], Tensor] | None:  # noqa: ANN401 - any function passes through
    """A corruption from its name, or itself; None for none."""
    if value is None:
        return None
    made = _make(value, FAMILY, "corruption")
    if not callable(made):
        raise ValueError(f"corruption: expected a name or a function of x, got {type(made).__name__}")
    return made


def _share(value: float, name: str) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} share: expected a probability above 0 and below 1, got {value!r}")
    return value
