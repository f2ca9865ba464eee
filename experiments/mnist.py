"""Pyro's own VAE example with its settings: the tutorial's curve on grey pixels, then an honest log p(x).

The tutorial (https://pyro.ai/examples/vae.html) puts a Bernoulli on grey pixels, which is no likelihood; its figure's
test ELBO is repeated here only to be compared. The same network on dynamically binarized pixels then gives a log p(x).

    python experiments/mnist.py --data-root data
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd
import torch

import pyrovae
from pyrovae.training.history import Row

PUBLISHED = {5: -113.0, 10: -108.0, 20: -104.6}
"""Read off the tutorial's figure, by its epochs: they are counted from 0, so epoch 5 is tested after six passes."""
RESULTS = Path(__file__).parent / "results"


def build(likelihood: str, seed: int) -> pyrovae.VAE:
    """z of length 50 and one hidden layer of 400 softplus units each way."""
    network = "mlp(hidden=[400], activation=softplus)"
    torch.manual_seed(seed)
    return pyrovae.VAE((1, 28, 28), 50, likelihood=likelihood, encoder=network, decoder=network)


def grey(data: pyrovae.datasets.Dataset, epochs: int, seed: int, device: str) -> pd.DataFrame:
    """The tutorial's test ELBO after each epoch: one draw a row, trained on all 60,000 training rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a relaxed Bernoulli is what is to be repeated
        vae = build("bernoulli(relaxed=True)", seed)
    figures: list[dict[str, float]] = []

    def test_elbo(vae: pyrovae.VAE, row: Row) -> None:
        summary = pyrovae.evaluate(vae, data.test, num_samples=1, progress=False).summary()
        epoch = int(row["epoch"]) - 1
        figures.append(
            {
                "tutorial_epoch": epoch,
                "passes": epoch + 1,
                "test_elbo": summary["elbo"],
                "standard_error": summary["elbo_standard_error"],
                "published": PUBLISHED.get(epoch, float("nan")),
                "seconds": row["seconds"],
            }
        )

    train = torch.cat([data.train, data.validation])
    pyrovae.fit(vae, train, epochs=epochs, batch_size=256, lr=1e-3, seed=seed, device=device, callbacks=[test_elbo])
    return pd.DataFrame(figures)


def binarized(root: str, epochs: int, num_samples: int, seed: int, device: str) -> dict[str, float]:
    """log p(x) of the same network on dynamically binarized pixels, the best epoch chosen on validation rows."""
    data = pyrovae.datasets.load("mnist", root=root, binarize="dynamic", seed=seed)
    vae = build("bernoulli", seed)
    begin = time.perf_counter()
    history = pyrovae.fit(
        vae, data.train, validation=data.validation, transform=data.transform, epochs=epochs, batch_size=256, lr=1e-3,
        seed=seed, device=device,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    evaluation = pyrovae.evaluate(vae, data.test, num_samples=num_samples, seed=seed)
    print(evaluation)
    return {"epochs": epochs, "best_epoch": history.attrs["best_epoch"], "seconds": seconds, **evaluation.summary()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--epochs", type=int, default=21)
    parser.add_argument("--num-samples", type=int, default=1000, help="importance samples a test row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)

    data = pyrovae.datasets.load("mnist", root=options.data_root, binarize="none")
    curve = grey(data, options.epochs, options.seed, options.device)
    curve.round(4).to_csv(RESULTS / "mnist_grey.csv", index=False)
    print(curve[curve["published"].notna() | (curve["passes"] == options.epochs)].round(2).to_string(index=False))

    honest = binarized(options.data_root, options.epochs, options.num_samples, options.seed, options.device)
    pd.DataFrame([honest]).round(4).to_csv(RESULTS / "mnist_binarized.csv", index=False)


if __name__ == "__main__":
    main()
