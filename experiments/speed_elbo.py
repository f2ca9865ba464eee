"""The test ELBO after equal training: ours compiled, in float32 and bfloat16, beside the loop of Pyro's example.

784-400-50 with softplus, batches of 128, Adam at 1e-3, the same binary pixels for all; what `speed.py` says of their
steps is worth something only if they come out alike.

    python experiments/speed_elbo.py --data-root data
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import _peers as peers
import pandas as pd
import torch
from _common import RESULTS
from _peers import Size
from torch import Tensor
from tqdm import tqdm

import pyrovae

SIZE = Size(784, (400,), 50, 128)
CANDIDATES = ("ours", "ours, bfloat16", "Pyro's example")


def ours(x: Tensor, test: Tensor, seed: int, epochs: int, precision: str) -> float:
    """The test ELBO of our fit, by one draw a row."""
    network = "mlp(hidden=[400], activation=softplus)"
    torch.manual_seed(seed)
    vae = pyrovae.VAE((784,), 50, encoder=network, decoder=network)
    pyrovae.fit(
        vae, x, elbo="mean_field_elbo", epochs=epochs, batch_size=SIZE.batch, lr=peers.LR, seed=seed, compile=True,
        precision=precision,
    )  # fmt: skip
    return pyrovae.evaluate(vae, test, num_samples=1, seed=seed).summary()["elbo"]


def example(x: Tensor, test: Tensor, seed: int, epochs: int) -> float:
    """The test ELBO of Pyro's example, by one draw a row and the KL in closed form."""
    networks = peers.pair(SIZE, seed)
    step = peers.pyro_example(SIZE, x, networks)
    for _ in tqdm(range(epochs * (len(x) // SIZE.batch)), desc="Pyro's example", leave=False):
        step()
    with torch.no_grad():
        return -float(peers.torch_loss(SIZE, *networks)(test)) / len(test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-rows", type=int, help="train on the first rows only, for a quick look")
    arguments = parser.parse_args()
    data = pyrovae.datasets.load("mnist", binarize="threshold", root=arguments.data_root)
    x, test = data.train[: arguments.train_rows].flatten(1), data.test.flatten(1)
    rows = []
    for seed in range(arguments.seeds):
        for name in CANDIDATES:
            begin = time.perf_counter()
            if name == "Pyro's example":
                elbo = example(x, test, seed, arguments.epochs)
            else:
                elbo = ours(x, test, seed, arguments.epochs, "bfloat16" if "bfloat16" in name else "float32")
            rows.append({"seed": seed, "candidate": name, "epochs": arguments.epochs, "test_elbo": elbo})
            print(f"{rows[-1]} in {time.perf_counter() - begin:.0f} s", flush=True)
            pd.DataFrame(rows).to_csv(arguments.out / "speed_elbo.csv", index=False, float_format="%.6g")
    table = pd.DataFrame(rows).pivot(index="seed", columns="candidate", values="test_elbo")[list(CANDIDATES)]
    print(table.agg(["mean", "std"]).round(3).to_string())
    print(table.sub(table["Pyro's example"], axis=0).agg(["mean", "std"]).round(3).to_string())


if __name__ == "__main__":
    main()
