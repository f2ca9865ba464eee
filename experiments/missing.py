"""Half of the cells of a table are gone: a VAE trained on what is left fills them in, beside scikit-learn's imputers.

The 569 rows and 30 columns of the breast cancer data, standardized, each cell missing with probability 1/2, as in the
notebook of MIWAE (Mattei & Frellsen 2019, https://arxiv.org/abs/1812.02633; https://github.com/pamattei/miwae): 10
latent dimensions, two hidden layers of 128 ReLU units, Student's t likelihood and posterior, 20 draws in training and
10,000 importance samples in imputation. Its mean squared error over the missing cells is .287.

    python experiments/missing.py
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import RESULTS, save
from sklearn.datasets import load_breast_cancer
from tqdm import tqdm

import pyrovae
from pyrovae.plots.style import PALETTE, QUIET, new_figure

SHARE = 0.5
NETWORK = "mlp(hidden=[128, 128])"
LEVELS = (0.5, 0.8, 0.9, 0.95)
VAES = {"MIWAE": ("iwae", 20), "VAE, plain ELBO": ("elbo", 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table and the figure")
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2, help="masks, and first weights")
    parser.add_argument("--num-samples", type=int, default=10_000)
    arguments = parser.parse_args()
    x = load_breast_cancer().data
    x = (x - x.mean(0)) / x.std(0)
    methods: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "mean": by_mean, "KNNImputer": by_neighbours, "IterativeImputer": by_regression,
    }  # fmt: skip
    rows, coverage = [], []
    for seed in tqdm(range(arguments.seeds), desc="masks"):
        gone = np.random.default_rng(seed).random(x.shape) < SHARE
        holes = np.where(gone, np.nan, x)
        for name, method in methods.items():
            begin = time.perf_counter()
            filled = method(holes, seed)
            rows.append(row(name, seed, filled, x, gone, begin))
        for name, (elbo, k) in VAES.items():
            begin = time.perf_counter()
            vae = train(holes, seed, elbo, k, arguments.epochs)
            kept = torch.as_tensor(holes, dtype=torch.float32)
            filled = pyrovae.impute(vae, kept, num_samples=arguments.num_samples, seed=seed, progress=False).numpy()
            rows.append(row(name, seed, filled, x, gone, begin))
            if name == "MIWAE":
                draws = pyrovae.impute(
                    vae, kept, num_samples=arguments.num_samples, draws=400, seed=seed, progress=False
                )
                coverage.append(covered(draws.numpy(), x, gone))
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "missing.csv", index=False, float_format="%.4g")
    summary = table.groupby("method", sort=False)[["mse", "seconds"]].agg(["mean", "std"])
    print(summary.round(3).to_string())
    share = pd.DataFrame(coverage, columns=list(LEVELS))
    share.to_csv(arguments.out / "missing_coverage.csv", index_label="seed", float_format="%.4g")
    print("share of missing cells inside of MIWAE's central intervals:")
    print(share.agg(["mean", "std"]).round(3).to_string())
    draw(summary, share, arguments.out / "missing.png")


# The imputers: from a table with NaN in the missing cells to one without


def by_mean(x: np.ndarray, seed: int) -> np.ndarray:
    return np.where(np.isnan(x), np.nanmean(x, 0), x)


def by_neighbours(x: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.impute import KNNImputer

    return KNNImputer().fit_transform(x)


def by_regression(x: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - importing it allows the next
    from sklearn.impute import IterativeImputer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return IterativeImputer(max_iter=20, random_state=seed).fit_transform(x)


def train(x: np.ndarray, seed: int, elbo: str, num_particles: int, epochs: int) -> pyrovae.VAE:
    torch.manual_seed(seed)
    vae = pyrovae.VAE(
        (x.shape[1],), 10, likelihood="student_t(df=shared, scale=network, floor=0.001)", posterior="student_t",
        encoder=NETWORK, decoder=NETWORK, missing="zero",
    )  # fmt: skip
    pyrovae.fit(
        vae, x, elbo=elbo, num_particles=num_particles, epochs=epochs, batch_size=32, lr=2e-4, seed=seed, progress=False
    )
    return vae


# What is measured


def row(name: str, seed: int, filled: np.ndarray, x: np.ndarray, gone: np.ndarray, begin: float) -> dict[str, object]:
    """The mean squared error over the missing cells, in units of the columns' variances."""
    mse = float(np.square(filled - x)[gone].mean())
    return {"method": name, "seed": seed, "mse": mse, "seconds": time.perf_counter() - begin}


def covered(draws: np.ndarray, x: np.ndarray, gone: np.ndarray) -> list[float]:
    """Of each level, the share of missing cells that lie in the central interval of their draws."""
    shares = []
    for level in LEVELS:
        low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        shares.append(float(((low <= x) & (x <= high))[gone].mean()))
    return shares


def draw(summary: pd.DataFrame, share: pd.DataFrame, path: Path) -> None:
    figure = new_figure(9, 3.4)
    left, right = figure.subplots(1, 2)
    mse = summary["mse"].drop("mean")[::-1]
    left.barh(mse.index, mse["mean"], xerr=mse["std"], color=PALETTE[0], height=0.6)
    left.axvline(0.287, color=QUIET, linestyle="--", linewidth=1)
    left.text(0.292, len(mse) - 0.55, "published MIWAE .287", fontsize=8, color=QUIET)
    left.set_title(
        f"mean squared error of missing cells (of the mean: {summary['mse', 'mean']['mean']:.2f})", fontsize=10
    )
    right.plot([0, 1], [0, 1], color=QUIET, linewidth=1)
    right.errorbar(LEVELS, share.mean(), yerr=share.std(), fmt="o", color=PALETTE[0])
    right.set(xlim=(0.4, 1), ylim=(0.4, 1), xlabel="level of MIWAE's interval", ylabel="share of cells inside")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    save(figure, path)


if __name__ == "__main__":
    main()
