"""Cells above their column's mean are gone: a VAE that models how they went fills them in, beside one that does not.

In half of the columns of a standardized table every cell above the mean is missing, as in the experiments of not-MIWAE
(Ipsen, Mattei & Frellsen 2021, https://arxiv.org/abs/2006.12871): networks of two layers of 128 tanh units, one latent
dimension fewer than there are columns, one noise scale, 20 draws in training and 10,000 importance samples in
imputation; far fewer steps of training, and data sets of scikit-learn's own, so that its table does not compare. What
is reported is the root mean squared error of the missing cells.

    python experiments/mnar.py
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import RESULTS
from missing import by_mean, by_regression
from sklearn.datasets import load_breast_cancer, load_wine
from tqdm import tqdm

import pyrovae

DATASETS = {"breast_cancer": load_breast_cancer, "wine": load_wine}
NETWORK = "mlp(hidden=[128, 128], activation=tanh)"
MECHANISMS = {
    "MIWAE": None,
    "not-MIWAE, sign not known": "self_masking",
    "not-MIWAE, sign known": "self_masking(sign=1)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
    parser.add_argument("--steps", type=int, default=2000, help="of training, 16 rows each")
    parser.add_argument("--seeds", type=int, default=3, help="first weights, and draws")
    parser.add_argument("--num-samples", type=int, default=10_000)
    arguments = parser.parse_args()
    rows = []
    for name, load in DATASETS.items():
        x = load().data
        x = (x - x.mean(0)) / x.std(0)
        gone = (x > 0) & (np.arange(x.shape[1]) < x.shape[1] // 2)
        holes = np.where(gone, np.nan, x)
        for seed in tqdm(range(arguments.seeds), desc=name):
            for method, fill in {"mean": by_mean, "IterativeImputer": by_regression}.items():
                begin = time.perf_counter()
                rows.append(row(name, method, seed, fill(holes, seed), x, gone, begin))
            for method, mechanism in MECHANISMS.items():
                begin = time.perf_counter()
                vae = train(holes, mechanism, seed, arguments.steps)
                filled = pyrovae.impute(
                    vae, holes, num_samples=arguments.num_samples, seed=seed, progress=False
                ).numpy()
                rows.append(row(name, method, seed, filled, x, gone, begin))
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "mnar.csv", index=False, float_format="%.4g")
    summary = table.groupby(["dataset", "method"], sort=False)[["rmse", "seconds"]].agg(["mean", "std"])
    print(summary.round(3).to_string())


def train(x: np.ndarray, mechanism: str | None, seed: int, steps: int) -> pyrovae.VAE:
    torch.manual_seed(seed)
    columns = x.shape[1]
    vae = pyrovae.VAE(
        (columns,), columns - 1, likelihood="gaussian", encoder=NETWORK, decoder=NETWORK, missing="zero",
        mechanism=mechanism,
    )  # fmt: skip
    epochs = max(1, steps // (len(x) // 16))
    pyrovae.fit(vae, x, elbo="iwae", num_particles=20, epochs=epochs, batch_size=16, lr=1e-3, seed=seed, progress=False)
    return vae


def row(
    dataset: str, method: str, seed: int, filled: np.ndarray, x: np.ndarray, gone: np.ndarray, begin: float
) -> dict[str, object]:
    """The root mean squared error over the missing cells, in units of the columns' standard deviations."""
    rmse = float(np.sqrt(np.square(filled - x)[gone].mean()))
    return {"dataset": dataset, "method": method, "seed": seed, "rmse": rmse, "seconds": time.perf_counter() - begin}


if __name__ == "__main__":
    main()
