"""Digits from few labels: the M2 model of Kingma, Rezende, Mohamed & Welling (2014), https://arxiv.org/abs/1406.5298.

The settings of Pyro's tutorial (https://pyro.ai/examples/ss-vae.html): z of length 50, one hidden layer of 500 softplus
units, Adam at 4.2e-4 with beta1 = .95, batches of 200, classifier loss times 46, 50 epochs, grey pixels under a relaxed
Bernoulli, 50,000 training rows. Its test accuracy is .9319 with 100 labels and .9582 with 3,000; without the classifier
loss .2254 and .8932; with classes drawn instead of summed out .20.

Here labelled rows are in the same batches as the others. "M1 + M2" is the paper's stack: M1 is a VAE without labels, of
the same networks, and M2 is trained on draws of its active codes, with z of length 5, 200 units and each labelled row
20 times; the paper has .9667 with 100 labels and .9760 with 3,000, of larger networks and after longer training.

    python experiments/semi_supervised.py --data-root data
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from _common import RESULTS
from torch import Tensor

import pyrovae
from pyrovae.training.batches import Transform

VARIANTS = {
    "summed out, classifier loss": ("enum_elbo", 46.0),
    "summed out": ("enum_elbo", 0.0),
    "drawn": ("elbo", 0.0),
    "M1 + M2": ("enum_elbo", 46.0),
}
NETWORK, SIZE = "mlp(hidden=[500], activation=softplus)", 50
SMALL, SMALL_SIZE, REPEATS = "mlp(hidden=[200], activation=softplus)", 5, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 3000])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=2, help="draws of the labelled rows")
    arguments = parser.parse_args()
    data = pyrovae.datasets.load("mnist", root=arguments.data_root, binarize="none", seed=0)
    path = arguments.out / "semi_supervised.csv"
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    done = {(row["variant"], row["labels"], row["seed"], row["epochs"]) for row in rows}
    for seed in range(arguments.seeds):
        for count in arguments.labels:
            for variant in arguments.variants:
                if (variant, count, seed, arguments.epochs) not in done:
                    rows.append(run(data, variant, count, seed, arguments.epochs))
                    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4g")
    table = (
        pd.DataFrame(rows).groupby(["variant", "labels", "epochs"], sort=False)["accuracy"].agg(["mean", "std", "size"])
    )
    print(table.round(4).to_string())


def run(data: pyrovae.datasets.Dataset, variant: str, count: int, seed: int, epochs: int) -> dict[str, object]:
    elbo, weight = VARIANTS[variant]
    torch.manual_seed(seed)
    training = {
        "epochs": epochs, "batch_size": 200, "lr": 4.2e-4, "seed": seed,
        "optimizer": partial(torch.optim.Adam, betas=(0.95, 0.999)),
    }  # fmt: skip
    network, size, likelihood = NETWORK, SIZE, "bernoulli(relaxed=True)"
    train, test, labels, transform = data.train, data.test, few(data.train_labels, count, seed), None
    begin = time.perf_counter()
    if variant == "M1 + M2":
        m1 = pyrovae.VAE((1, 28, 28), size, likelihood=likelihood, encoder=network, decoder=network)
        pyrovae.fit(m1, train, **training)
        network, size, likelihood = SMALL, SMALL_SIZE, "gaussian(scale=network)"
        train, test, transform = codes(m1, train, test)
        known = (labels >= 0).nonzero()[:, 0].repeat(REPEATS)
        train, labels = torch.cat([train, train[known]]), torch.cat([labels, labels[known]])
    vae = pyrovae.VAE(
        train.shape[1:], size, likelihood=likelihood, label=10, label_weight=weight, classifier=network,
        encoder=network, decoder=network,
    )  # fmt: skip
    pyrovae.fit(vae, train, labels, elbo=elbo, transform=transform, **training)
    minutes = (time.perf_counter() - begin) / 60
    accuracy = float((vae.predict(test) == data.test_labels).float().mean())
    print(f"{variant}, {count} labels, draw {seed}: {accuracy:.4f} in {minutes:.1f} minutes")
    return {
        "variant": variant,
        "labels": count,
        "seed": seed,
        "epochs": epochs,
        "accuracy": accuracy,
        "minutes": minutes,
    }


def codes(m1: pyrovae.VAE, train: Tensor, test: Tensor) -> tuple[Tensor, Tensor, Transform]:
    """Posterior means of the active units, and what makes draws of them, with the mean posterior sd of each."""
    with torch.no_grad():
        ours, theirs = m1.encode(train), m1.encode(test)
    active = ours.mean.var(0) > 0.01
    deviation = ours.stddev.mean(0)[active]

    def draw(batch: Tensor, generator: torch.Generator) -> Tensor:
        return batch + deviation * torch.randn(batch.shape, generator=generator)

    return ours.mean[:, active], theirs.mean[:, active], draw


def few(labels: Tensor, count: int, seed: int) -> Tensor:
    """As many labels of each class, at random, and -1 for the others."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.full_like(labels, -1)
    for k in range(10):
        rows = (labels == k).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)[: count // 10]]
        kept[rows] = k
    return kept


if __name__ == "__main__":
    main()
