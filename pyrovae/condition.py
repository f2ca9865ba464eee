"""What a VAE is conditioned on: numbers, classes, an image, or a label that some rows have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import label as labels
from pyrovae import networks
from pyrovae.checks import as_rows, check_values, choose_all, count, shape

NETWORKS = ("encoder", "decoder")
IMAGE_FEATURES = 256
"""What a network of the library is told of a condition that is an image."""


class Condition:
    r"""The condition c of a VAE: what it may be, and how networks see it.

    Args:
        dim: the length of c; 0 where there is none, or where it follows from the others.
        image_shape: ``(C, H, W)`` of one that is an image.
        on: which of `NETWORKS` take it.
        label: K or "real", where c is a label that some rows have (see `pyrovae.label.Label`).

    Raises:
        ValueError: for sizes that contradict one another, and for an unknown network.
    """

    def __init__(
        self, dim: int, image_shape: Sequence[int] | None, on: Sequence[str] | str, label: int | str | None
    ) -> None:
        self.label, self.on = label, choose_all(on, NETWORKS, "condition_on")
        self.image_shape = None if image_shape is None else tuple(shape(image_shape))
        if label is not None and dim not in (0, labels.width(label)):
            raise ValueError(f"condition_dim: expected 0, because the label is the condition, got {dim}")
        if self.image_shape is not None:
            fits = len(self.image_shape) == 3 and dim in (0, math.prod(self.image_shape))
            if label is not None or not fits:
                raise ValueError(
                    f"condition_shape: expected (channels, height, width), no label, and condition_dim 0 or "
                    f"their product, got {self.image_shape} and condition_dim={dim}"
                )
            dim = math.prod(self.image_shape)
        self.dim = count(dim, "condition_dim", 0) if label is None else labels.width(label)

    def width(self, network: str) -> int:
        """How many numbers a network of the library is given of it."""
        if network not in self.on:
            return 0
        return self.dim if self.image_shape is None else IMAGE_FEATURES

    def image(self) -> nn.Module | None:
        """What makes of the flat condition the image that it is; None where it is none."""
        return None if self.image_shape is None else nn.Unflatten(-1, self.image_shape)

    def sight(self, network: nn.Module | None) -> nn.Module | None:
        """What makes of the flat condition what a network takes; None: as it is."""
        ours = type(network) in {*networks.ENCODERS.values(), *networks.DECODERS.values()}
        if self.image_shape is None or not ours:
            return self.image()
        return nn.Sequential(self.image(), networks.Conv(self.image_shape, features=IMAGE_FEATURES))

    def check(self, values: Any, rows: int | None, like: Tensor) -> Tensor | None:  # noqa: ANN401 - whatever a user has
        """Conditions as a tensor ``(rows, dim)`` as ``like`` is, one row standing for all; None where there is none.

        Images ``(rows, *image_shape)`` become flat; classes ``(rows,)``, integers from 0 to dim - 1, indicators; labels
        are as `pyrovae.label.encode` makes them, NaN where there is none.

        Raises:
            ValueError: if it is missing, not wanted, of another shape, or not finite.
        """
        if self.label is not None:
            return labels.encode(values, self.label, rows, like)
        if not self.dim:
            if values is not None:
                raise ValueError("condition: expected None, because this VAE was built with condition_dim=0")
            return None
        if values is None:
            raise ValueError(f"condition: expected shape (B, {self.dim}), got None")
        if self.image_shape is not None and np.ndim(values) > 2:
            values = as_rows(values, self.image_shape, "condition", like).flatten(1)
        if self.dim > 1 and np.ndim(values) == 1 and not torch.as_tensor(values).is_floating_point():
            values = labels.encode(values, self.dim, None, like)
        values = as_rows(values, (self.dim,), "condition", like)
        check_values(values, constraints.real, name="condition")
        if rows is not None and len(values) not in (1, rows):
            raise ValueError(f"condition: expected {rows} rows, as x has, got {len(values)}")
        return values if rows is None else values.expand(rows, -1)
