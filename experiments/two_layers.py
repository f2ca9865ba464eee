"""Two layers of latents: the VAE and the IWAE of Burda, Grosse & Salakhutdinov (2015), https://arxiv.org/abs/1509.00519.

x - 200 - 200 - z1 (100) - 100 - 100 - z2 (50) and back, tanh, normals with a scale of their own from the network; MNIST
binarized anew at each batch, batches of 20, Adam (eps = 1e-4), first weights as of Glorot & Bengio (2010), 3^i passes
at a learning rate of 1e-3 x 10^(-i/7). The published run has i = 0, ..., 7, which is 3,280 passes; here are the first
three stages, 13 passes. After all of them the paper has -log p(x) of 85.01 (VAE) and 83.89 (IWAE) for k = 5, with
17 + 5 and 21 + 5 active units.

    python experiments/two_layers.py --data-root data
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from _common import RESULTS, random_rows
from torch import nn

import pyrovae

STAGES = 3
DIMS = (100, 50)
BATCH = 20
# The paper's eps of 1e-4 is for a loss that is averaged over the batch; here it is summed.
ADAM = partial(torch.optim.Adam, eps=1e-4 * BATCH)
NETWORKS = ["mlp(hidden=[200, 200], activation=tanh)", "mlp(hidden=[100, 100], activation=tanh)"]


BOUNDS = {"VAE": "elbo", "IWAE": "iwae"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
    parser.add_argument("--k", type=int, nargs="+", default=[5], help="draws a step")
    parser.add_argument("--rows", type=int, default=1000, help="random test rows for log p(x)")
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = pyrovae.datasets.load("mnist", root=arguments.data_root, binarize="dynamic", seed=arguments.seed)
    rows = []
    for k in arguments.k:
        log_p = {}
        for name in BOUNDS:
            row, log_p[name] = run(data, name, k, arguments)
            rows.append(row)
        ahead = log_p["IWAE"] - log_p["VAE"]
        rows[-1] |= {"ahead": ahead.mean(), "ahead_error": ahead.std() / math.sqrt(len(ahead))}
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "two_layers.csv", index=False, float_format="%.5g")
    print(table.round(2).to_string(index=False))


def run(
    data: pyrovae.datasets.Dataset, name: str, k: int, arguments: argparse.Namespace
) -> tuple[dict[str, object], pd.Series]:
    """Train one of the two; a row of the table, and log p(x) of each test row."""
    x = data.test[random_rows(len(data.test), arguments.rows, arguments.seed)]
    stages = [stage for stage in range(STAGES) for _ in range(3**stage)]
    torch.manual_seed(arguments.seed)
    vae = pyrovae.VAE((1, 28, 28), DIMS, encoder=NETWORKS, decoder=NETWORKS)
    for layer in vae.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    begin = time.perf_counter()
    pyrovae.fit(
        vae, data.train, transform=data.transform, elbo=BOUNDS[name], num_particles=k, epochs=len(stages),
        batch_size=BATCH, lr=1e-3, schedule=lambda epoch, epochs: 10 ** (-stages[epoch] / 7), seed=arguments.seed,
        optimizer=ADAM,
    )  # fmt: skip
    minutes = (time.perf_counter() - begin) / 60
    evaluation = pyrovae.evaluate(vae, x, num_samples=arguments.num_samples)
    print(f"{name}, k = {k}\n{evaluation}")
    summary = evaluation.summary()
    row = {
        "model": name, "k": k, "passes": len(stages), "minus_log_p": -summary["log_marginal"],
        "standard_error": summary["log_marginal_standard_error"],
        "monte_carlo_error": summary["log_marginal_monte_carlo_error"], "minus_elbo": -summary["elbo"],
        **{f"active_{site}": summary[f"active_units_{site}"] for site in vae.sites}, "minutes": minutes,
    }  # fmt: skip
    return row, evaluation.rows["log_marginal"]


if __name__ == "__main__":
    main()
