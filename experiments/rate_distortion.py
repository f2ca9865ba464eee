"""What a nat in the code buys: rate and distortion of digits over beta and the number of latent dimensions.

After Alemi et al. (2018), https://arxiv.org/abs/1711.00464. Binarized digits of scikit-learn (8 x 8), MLPs of 256.

    python experiments/rate_distortion.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _common import RESULTS, save

import pyrovae
from pyrovae.plots import plot_rate_distortion

SIZES = (2, 4, 16)
BETAS = (0.1, 0.3, 1.0, 3.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table and the figure")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = pyrovae.datasets.load("digits", binarize="threshold", seed=arguments.seed)
    table = pyrovae.rate_distortion(
        lambda size: pyrovae.VAE(data.event_shape, size, encoder="mlp(hidden=[256])", decoder="mlp(hidden=[256])"),
        data.train, data.test, latent_dims=SIZES, betas=BETAS, epochs=arguments.epochs, batch_size=64,
        patience=15, validation=data.validation, seed=arguments.seed,
    )  # fmt: skip
    table.to_csv(arguments.out / "rate_distortion.csv", float_format="%.5g")
    print(table.round(2).to_string())
    save(plot_rate_distortion(table), arguments.out / "rate_distortion.png")


if __name__ == "__main__":
    main()
