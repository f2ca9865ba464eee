"""The picture of the README: digits, their reconstructions, draws from the model, and the latent space.

python experiments/digits.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import pyrovae
from pyrovae import plots

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    data = pyrovae.datasets.load("digits")
    torch.manual_seed(0)
    vae = pyrovae.VAE(data.event_shape, 2)
    pyrovae.fit(vae, data.train, validation=data.validation, transform=data.transform, epochs=200)
    print(pyrovae.evaluate(vae, data.test))
    latent = pixels(plots.plot_latent(vae, torch.cat([data.validation, data.test]), labels(data)))
    manifold = pixels(plots.plot_traversal(vae, data.test))
    both = np.concatenate([latent, manifold], 1)
    RESULTS.mkdir(exist_ok=True)
    matplotlib.image.imsave(RESULTS / "digits.png", both)


def labels(data: pyrovae.datasets.Dataset) -> torch.Tensor:
    return torch.cat([data.validation_labels, data.test_labels])


def pixels(figure: Figure, height: int = 560) -> np.ndarray:
    """The figure as an image (height, width, 3)."""
    figure.set_dpi(height / figure.get_size_inches()[1])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:height, :, :3]


if __name__ == "__main__":
    main()
