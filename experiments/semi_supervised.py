"""Digits from few labels: M1 + M2 of Kingma, Rezende, Mohamed & Welling (2014), https://arxiv.org/abs/1406.5298.

M1 is a VAE of grey pixels without labels (784-500-50-500-784, 30 epochs); M2, p(y) p(z) p(x | y, z) with a classifier
q(y | x), has draws of M1's active codes as x (22 or so of them), z of length 5 and networks of 200 units. Labelled rows
are in the same batches as the others, 100 of them as if each were there 21 times, 3,000 twice. Variants of training:

- the class summed out where it is not known (``TraceEnum_ELBO``), with the classifier's own loss on labelled rows,
  times 5; or without that loss;
- the class drawn (``Trace_ELBO``, a score-function gradient), with and without that loss.

M1 does not see labels and is trained once. The paper has .9667 with 100 labels and .9760 with 3,000, of larger networks
and after longer training; Pyro's tutorial (https://pyro.ai/examples/ss-vae.html), of M2 alone on pixels, .9319 and
.9582, without the classifier's loss .2254 and .8932, and .20 with classes drawn.

    python experiments/semi_supervised.py --data-root data
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from _common import RESULTS
from torch import Tensor

import pyrovae

VARIANTS = {
    "summed out, classifier loss": ("enum_elbo", 5.0),
    "summed out": ("enum_elbo", 0.0),
    "drawn, classifier loss": ("elbo", 5.0),
    "drawn": ("elbo", 0.0),
}
M1_NETWORK, M1_SIZE, M1_EPOCHS = "mlp(hidden=[500])", 50, 30
NETWORK, SIZE = "mlp(hidden=[200])", 5
ACTIVE = 0.05
"""Variance of the means of a unit that is a column of M2's data."""
REPEATS = 20


@dataclass(frozen=True)
class Codes:
    """Posterior means of M1's active units, and the mean posterior sd of each."""

    train: Tensor
    test: Tensor
    deviation: Tensor

    def draw(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of codes of these means."""
        return batch + self.deviation * torch.randn(batch.shape, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 3000])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=25, help="of M2")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the labelled rows; one for variants that fail")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = pyrovae.datasets.load("mnist", root=arguments.data_root, binarize="none", seed=0)
    codes = encode(data)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for variant in arguments.variants:
        for count in arguments.labels:
            for seed in range(arguments.seeds if variant == next(iter(VARIANTS)) else 1):
                rows.append(run(data, codes, variant, count, seed, arguments.epochs))
                pd.DataFrame(rows).to_csv(arguments.out / "semi_supervised.csv", index=False, float_format="%.4g")
    table = pd.DataFrame(rows).groupby(["variant", "labels"], sort=False)["accuracy"].agg(["mean", "std", "size"])
    print(table.round(4).to_string())


def encode(data: pyrovae.datasets.Dataset) -> Codes:
    """Train M1, and what it says of all rows."""
    torch.manual_seed(0)
    m1 = pyrovae.VAE(
        (1, 28, 28), M1_SIZE, likelihood="bernoulli(relaxed=True)", encoder=M1_NETWORK, decoder=M1_NETWORK
    )  # fmt: skip
    pyrovae.fit(m1, data.train, epochs=M1_EPOCHS, batch_size=200, seed=0)
    with torch.no_grad():
        train, test = m1.encode(data.train), m1.encode(data.test)
    active = train.mean.var(0) > ACTIVE
    print(f"M1 has {int(active.sum())} active units of {M1_SIZE}")
    return Codes(train.mean[:, active], test.mean[:, active], train.stddev.mean(0)[active])


def run(
    data: pyrovae.datasets.Dataset, codes: Codes, variant: str, count: int, seed: int, epochs: int
) -> dict[str, object]:
    """Train M2 with as many labels, and how often it is right on the test rows."""
    elbo, weight = VARIANTS[variant]
    labels = few(data.train_labels, count, seed)
    known = (labels >= 0).nonzero()[:, 0].repeat(max(1, REPEATS * 100 // count))
    train, labels = torch.cat([codes.train, codes.train[known]]), torch.cat([labels, labels[known]])
    begin = time.process_time()
    torch.manual_seed(seed)
    vae = pyrovae.VAE(
        train.shape[1:], SIZE, likelihood="gaussian(scale=network)", label=10, label_weight=weight,
        classifier=NETWORK, encoder=NETWORK, decoder=NETWORK,
    )  # fmt: skip
    pyrovae.fit(
        vae, train, labels, elbo=elbo, transform=codes.draw, epochs=epochs, batch_size=500, lr=3e-3,
        schedule="cosine", seed=seed,
    )  # fmt: skip
    minutes = (time.process_time() - begin) / 60
    accuracy = float((vae.predict(codes.test) == data.test_labels).float().mean())
    print(f"{variant}, {count} labels, draw {seed}: {accuracy:.4f} in {minutes:.1f} minutes")
    return {
        "variant": variant,
        "labels": count,
        "seed": seed,
        "epochs": epochs,
        "accuracy": accuracy,
        "minutes": minutes,
    }


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
