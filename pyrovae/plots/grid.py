"""Images side by side, in rows and columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae.plots.style import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def grid(images: Tensor, title: str, left: float = 1.1) -> tuple[Figure, Axes]:
    """Images ``(rows, columns, C, H, W)`` as one picture, white between them and where they are nan.

    ``left`` is the room for labels, in inches.
    """
    rows, across, _, height, width = images.shape
    gap = _gap(images)
    images = images.float().cpu()
    shown = images[images.isfinite()]
    low, high = min(0.0, float(shown.min())), max(1.0, float(shown.max()))
    canvas = torch.ones(rows, across, 3, height + gap, width + gap)
    canvas[..., :height, :width] = ((images - low) / (high - low)).nan_to_num(1.0).expand(-1, -1, 3, -1, -1)
    canvas = canvas.permute(0, 3, 1, 4, 2).reshape(rows * (height + gap), across * (width + gap), 3)
    canvas = canvas[: -gap or None, : -gap or None]
    span = min(9.0, 0.75 * across)
    figure = new_figure(max(6.8, span + left), span * canvas.shape[0] / canvas.shape[1] + 0.7, "compressed")
    ax = figure.subplots()
    ax.imshow(canvas.numpy(), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    figure.suptitle(title, fontsize=11)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return figure, ax


def _gap(images: Tensor) -> int:
    """Pixels between images."""
    return max(1, images.shape[-1] // 14)


def fill(images: Tensor, across: int) -> Tensor:
    """Images ``(n, C, H, W)`` in rows of ``across``, the last row filled up with nan."""
    blank = images.new_full((-len(images) % across, *images.shape[1:]), torch.nan)
    return torch.cat([images, blank]).unflatten(0, (-1, across))


def centres(images: Tensor, axis: int, labels: list[str]) -> tuple[list[float], list[str]]:
    """Where the labels of a grid's rows (axis 0) or columns (axis 1) go."""
    size = images.shape[3 + axis]
    return [i * (size + _gap(images)) + (size - 1) / 2 for i in range(len(labels))], labels


def short(values: Tensor) -> list[str]:
    """Numbers with one decimal, and no minus zero."""
    return [f"{round(value, 1) + 0.0:.1f}" for value in values.tolist()]
