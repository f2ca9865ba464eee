"""Draws of p(z | x) of 1,000 digits: Hamiltonian Monte Carlo of all rows at once against Pyro's NUTS, row by row.

A VAE of binarized MNIST, 784-200-16-200-784. `pyrovae.sample_posterior` draws z of the test rows by ``hmc`` and
``mala``, all rows and chains at once, and by Pyro's own NUTS in a loop over the first few of them; the guide's draws
beside. Seconds are of processor time, divided by rows. What counts is what an effective draw costs: bulk effective
sample size (ArviZ) of the unit that mixes worst, median over the rows that all have. Accuracy: R-hat; means against
NUTS's, in Monte Carlo standard errors of the difference, which are z-scores where both samplers are right; sds as
ratios.

    python experiments/samplers.py --data-root data
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import arviz as az
import numpy as np
import pandas as pd
import torch
from _common import RESULTS, random_rows, save
from torch import Tensor

import pyrovae
from pyrovae.plots import plot_posteriors

SIZE, HIDDEN = 16, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for table and figure")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rows", type=int, default=1000, help="for the samplers that take all rows at once")
    parser.add_argument("--nuts-rows", type=int, default=4)
    parser.add_argument("--draws", type=int, default=200, help="of a chain")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    vae, x = trained(arguments)
    runs, seconds = {}, {}
    for method in ("guide", "mala", "hmc", "nuts"):
        rows = x[: arguments.nuts_rows] if method == "nuts" else x
        begin = time.process_time()
        runs[method] = pyrovae.sample_posterior(
            vae, rows, method=method, num_samples=arguments.draws, num_chains=arguments.chains,
            warmup=arguments.warmup, seed=arguments.seed,
        )  # fmt: skip
        seconds[method] = (time.process_time() - begin) / len(rows)
        print(f"{method}: {seconds[method]:.3g} s a row")
    table = pd.DataFrame([row(method, runs, seconds[method], arguments) for method in runs])
    table["times_as_fast_as_nuts"] = table["seconds_an_effective_draw"].iloc[-1] / table["seconds_an_effective_draw"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "samplers.csv", index=False, float_format="%.4g")
    print(table.T.to_string())
    first = {"row": slice(0, arguments.nuts_rows)}
    guide = {"posterior": runs["guide"]["posterior"].isel(first)}
    save(plot_posteriors(guide, runs["nuts"]), arguments.out / "samplers.png")


def trained(arguments: argparse.Namespace) -> tuple[pyrovae.VAE, Tensor]:
    """The VAE, and the rows whose posteriors are drawn from."""
    data = pyrovae.datasets.load("mnist", root=arguments.data_root, binarize="dynamic", seed=arguments.seed)
    torch.manual_seed(arguments.seed)
    network = f"mlp(hidden=[{HIDDEN}])"
    vae = pyrovae.VAE((1, 28, 28), SIZE, encoder=network, decoder=network)
    pyrovae.fit(
        vae, data.train, transform=data.transform, epochs=arguments.epochs, batch_size=128, seed=arguments.seed
    )  # fmt: skip
    return vae, data.test[random_rows(len(data.test), arguments.rows, arguments.seed)]


def row(method: str, runs: dict, seconds: float, arguments: argparse.Namespace) -> dict[str, object]:
    """What a sampler costs, and how near it is to NUTS on the rows of both."""
    z, reference = (runs[name]["posterior"]["z"].isel(row=slice(0, arguments.nuts_rows)) for name in (method, "nuts"))
    worst = float(np.median(az.ess(z)["z"].min("latent")))
    ours, theirs = moments(z), moments(reference)
    score = (ours["mean"] - theirs["mean"]) / np.hypot(ours["mean_error"], theirs["mean_error"])
    ratio = ours["sd"] / theirs["sd"]
    return {
        "method": method,
        "rows": runs[method]["posterior"].sizes["row"],
        "draws": arguments.draws * arguments.chains,
        "seconds_a_row": seconds,
        "effective_draws": worst,
        "seconds_an_effective_draw": seconds / worst,
        "r_hat_most": float(az.rhat(runs[method]["posterior"]["z"])["z"].max()),
        "means_rms_score": np.sqrt(np.mean(score**2)) if method != "nuts" else np.nan,
        "means_most_score": np.abs(score).max() if method != "nuts" else np.nan,
        "means_rms_sds": np.sqrt(np.mean(((ours["mean"] - theirs["mean"]) / theirs["sd"]) ** 2)),
        "sd_ratio_median": np.median(ratio),
        "sd_ratio_least": ratio.min(),
        "sd_ratio_most": ratio.max(),
    }


def moments(z: az.InferenceData) -> dict[str, np.ndarray]:
    """Mean and sd of each unit of each row, and the Monte Carlo standard error of the mean."""
    flat = z.to_numpy().reshape(-1, *z.shape[2:])
    return {"mean": flat.mean(0), "sd": flat.std(0, ddof=1), "mean_error": az.mcse(z, method="mean")["z"].to_numpy()}


if __name__ == "__main__":
    main()
