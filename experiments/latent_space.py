"""Holes in the latent space: an autoencoder, the same with a density fitted to its codes, and a VAE.

Binarized MNIST, MLPs of 400, 2 and 16 latent dimensions, the same Bernoulli likelihood for all. An autoencoder is the
posterior "delta" with no KL term (beta = 0). Continuity: the greatest step of the decoder along straight paths between
the codes of test rows, over its mean step (1 is even). Completeness: the share of prior samples that lie as near to
a training row as 95 % of test rows do that went through the code; draws of pixels, both of them. Two distances: of
pixels, by which a faint sample, that is no digit, is near to every row, and of rows scaled to norm 1 (cosine).

    python experiments/latent_space.py --data-root data
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import RESULTS, random_rows, save

import pyrovae
from pyrovae.distributions import centre
from pyrovae.modes import evaluating
from pyrovae.plots.style import FIRST, QUIET, new_figure

NETWORK = "mlp(hidden=[400])"
SIZES = (2, 16)
PATHS = 4
SAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table and the figure")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--components", type=int, default=20, help="of the mixture that is fitted to the codes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = pyrovae.datasets.load("mnist", root=arguments.data_root, binarize="dynamic", seed=arguments.seed)
    train = data.transform(data.train, torch.Generator().manual_seed(arguments.seed))[:20_000]
    test = data.test[random_rows(len(data.test), 2000, arguments.seed)]
    rows, shown = [], {}
    for size in SIZES:
        models = {}
        for name, options in (("autoencoder", {"posterior": "delta"}), ("VAE", {})):
            torch.manual_seed(arguments.seed)
            vae = pyrovae.VAE((1, 28, 28), size, encoder=NETWORK, decoder=NETWORK, **options)
            pyrovae.fit(
                vae, data.train, transform=data.transform, epochs=arguments.epochs, batch_size=256,
                beta=0.0 if options else 1.0, seed=arguments.seed,
            )  # fmt: skip
            models[name] = vae
            if options:
                models["autoencoder + mixture"] = pyrovae.ex_post(vae, train, components=arguments.components)
        for name, vae in models.items():
            paths = pyrovae.continuity(vae, test, num_paths=500, seed=arguments.seed)
            complete = {
                distance: pyrovae.completeness(
                    vae, train, test, num_samples=SAMPLES, distance=distance, seed=arguments.seed
                ).share
                for distance in ("cosine", "euclidean")
            }
            rows.append({
                "latent_dim": size, "model": name, "jump": paths["jump"].mean(),
                "jump_standard_error": paths["jump"].sem(), "detour": paths["detour"].mean(),
                "detour_standard_error": paths["detour"].sem(), "completeness": complete["cosine"],
                "completeness_standard_error": np.sqrt(complete["cosine"] * (1 - complete["cosine"]) / SAMPLES),
                "completeness_of_pixels": complete["euclidean"],
            })  # fmt: skip
            shown[size, name] = vae
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "latent_space.csv", index=False, float_format="%.4g")
    print(table.round(3).to_string(index=False))
    draw(shown, test, arguments.out / "latent_space.png")


@torch.no_grad()
def draw(shown: dict[tuple[int, str], pyrovae.VAE], test: torch.Tensor, path: Path) -> None:
    """For each model a row: codes in two dimensions and prior draws, samples, and paths between test rows."""
    two = [name for size, name in shown if size == SIZES[0]]
    figure = new_figure(12, 3.6 * len(two))
    for row, name in zip(figure.subplots(len(two), 3, width_ratios=(1, 1, 1.6)), two, strict=True):
        flat, deep = shown[SIZES[0], name], shown[SIZES[1], name]
        torch.manual_seed(0)
        with evaluating(flat):
            codes, draws = centre(flat.encode(test)), flat.sample_latent(len(test))
        left, middle, right = row
        left.scatter(*codes.T, s=3, color=FIRST, alpha=0.4, linewidths=0, label="codes of test rows")
        left.scatter(*draws.T, s=3, color=QUIET, alpha=0.4, linewidths=0, label="draws from the prior")
        left.set_title(f"{name}: 2 latent dimensions", fontsize=10)
        left.legend(frameon=False, fontsize=8, markerscale=4)
        left.spines[["top", "right"]].set_visible(False)
        samples = deep.sample(36, mean=True)[:, 0].reshape(6, 6, 28, 28)
        middle.imshow(torch.cat([torch.cat(list(line), 1) for line in samples]), cmap="gray_r", vmin=0, vmax=1)
        middle.set_title(f"{SIZES[1]} dimensions: samples", fontsize=10)
        steps = deep.interpolate(test[:PATHS], test[PATHS : 2 * PATHS], 10)[:, :, 0]
        right.imshow(torch.cat([torch.cat(list(steps[:, i]), 1) for i in range(PATHS)]), cmap="gray_r", vmin=0, vmax=1)
        right.set_title(f"{SIZES[1]} dimensions: between the codes of two test rows", fontsize=10)
        for ax in (middle, right):
            ax.set_axis_off()
    save(figure, path)


if __name__ == "__main__":
    main()
