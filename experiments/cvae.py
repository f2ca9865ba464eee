"""The hidden quadrants of a digit from those that are seen: a conditional VAE beside a network that predicts pixels.

The table of Pyro's CVAE tutorial (https://pyro.ai/examples/cvae.html; Sohn, Lee & Yan 2015): 1, 2 or 3 quadrants of
MNIST are seen; p(z | seen), q(z | seen, hidden) and p(hidden | z) are MLPs of 500-500 ReLU units, the first of which
sees the baseline's guess at the hidden pixels, too; z has size 200, Adam at 1e-3, batches of 128, at most 50 epochs,
patience 3. The tutorial's "negative CLL" is minus the ELBO at 10 draws of the hidden pixels, grey ones under a relaxed
Bernoulli, which is no likelihood; it stops early on the test rows. Here training stops early on 10,000 rows of its own,
and log p(hidden | seen) by importance sampling stands beside it. The KL term warms up over 5 epochs, as the tutorial's
does not: without it the posterior collapses onto the prior here.

The hidden pixels are x, a row of them; the condition is the digit with the guess in their place.

    python experiments/cvae.py --data-root data
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import pandas as pd
import torch
from _common import RESULTS, random_rows, save
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

import pyrovae
from pyrovae.plots.style import new_figure

PUBLISHED = {1: (71.8, 100.4), 2: (51.0, 61.9), 3: (24.2, 25.4)}
"""By quadrants seen: minus the ELBO of the tutorial's CVAE, and the loss of its baseline network."""
HIDDEN = -1.0
"""What stands for a hidden pixel in the condition, as in the tutorial."""
NETWORK = "mlp(hidden=[500, 500])"
BATCH, PATIENCE, WARMUP = 128, 3, 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table and the figure")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--rows", type=int, default=2000, help="random test rows for log p(hidden | seen)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = pyrovae.datasets.load("mnist", root=arguments.data_root, binarize="none", seed=arguments.seed)
    rows, pictures = [], {}
    for quadrants in PUBLISHED:
        row, pictures[quadrants] = run(data, quadrants, arguments)
        rows.append(row)
        table = pd.DataFrame(rows).set_index("quadrants")
        table.to_csv(arguments.out / "cvae.csv", float_format="%.5g")
        print(table.round(2).to_string())
    draw(pictures, arguments.out / "cvae.png")


def run(data: pyrovae.datasets.Dataset, quadrants: int, arguments: argparse.Namespace) -> tuple[dict, list[Tensor]]:
    """Both models with so many quadrants seen: their figures, and pictures of five digits and their completions."""
    hidden = hide(quadrants)
    (x, seen), (validation, validation_seen), (test, test_seen) = (
        split(images, hidden) for images in (data.train, data.validation, data.test)
    )
    torch.manual_seed(arguments.seed)
    baseline = train_baseline(x, seen, validation, validation_seen, arguments.epochs)
    given, validation_given, test_given = (guess(baseline, each, hidden) for each in (seen, validation_seen, test_seen))
    vae = pyrovae.VAE(
        x.shape[1:], 200, prior=f"conditional(network='{NETWORK}')", likelihood="bernoulli(relaxed=True)",
        encoder=NETWORK, decoder=NETWORK, condition_dim=784, condition_on=["encoder"],
    )  # fmt: skip
    begin = time.perf_counter()
    history = pyrovae.fit(
        vae, x, given, validation=validation, validation_condition=validation_given, epochs=arguments.epochs,
        batch_size=BATCH, patience=PATIENCE, warmup=WARMUP, seed=arguments.seed, compile=True,
    )  # fmt: skip
    minutes = (time.perf_counter() - begin) / 60
    few = random_rows(len(test), arguments.rows, arguments.seed)
    weighted = pyrovae.log_marginal(vae, test[few], test_given[few], num_samples=1000)
    ours, theirs = PUBLISHED[quadrants]
    row = {
        "quadrants": quadrants,
        "baseline": loss_of(baseline, test, test_seen),
        "baseline_published": theirs,
        "minus_elbo": -elbo_of(vae, test, test_given),
        "minus_elbo_published": ours,
        "minus_log_p": -float(weighted.value.mean()),
        "minus_log_p_standard_error": float(weighted.value.std()) / len(few) ** 0.5,
        "best_epoch": history.attrs["best_epoch"],
        "minutes": minutes,
    }
    return row, complete(vae, data.test[:5].flatten(1), test_given[:5], hidden)


def hide(quadrants: int) -> Tensor:
    """Which of the 784 pixels are hidden; the first quadrant seen is the lower left, then clockwise."""
    hidden = torch.ones(28, 28, dtype=torch.bool)
    low, high = slice(0, 14), slice(14, 28)
    for rows, columns in ((high, low), (low, low), (low, high))[:quadrants]:
        hidden[rows, columns] = False
    return hidden.flatten()


def split(images: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden pixels, and the digits ``(N, 784)`` without them."""
    pixels = images.flatten(1)
    return pixels[:, hidden], pixels.masked_fill(hidden, HIDDEN)


@torch.no_grad()
def guess(baseline: nn.Module, seen: Tensor, hidden: Tensor) -> Tensor:
    """The digits ``(N, 784)`` with the baseline's guess at what is hidden."""
    return seen.masked_scatter(hidden, baseline(seen).sigmoid())


def elbo_of(vae: pyrovae.VAE, x: Tensor, given: Tensor) -> float:
    """The mean over rows of the ELBO at 10 draws each."""
    torch.manual_seed(0)
    total = 0.0
    with torch.no_grad(), pyrovae.modes.evaluating(vae):
        for part, c in zip(x.split(500), given.split(500), strict=True):
            terms = pyrovae.elbos.terms(vae.model, vae.guide, part, c, num_particles=10)
            total += float(terms.log_weights.mean(0).sum())
    return total / len(x)


def train_baseline(x: Tensor, seen: Tensor, validation: Tensor, validation_seen: Tensor, epochs: int) -> nn.Module:
    """An MLP from what is seen to the pixels, by cross-entropy of the hidden ones."""
    net = nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, x.shape[1]))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    best, kept, since = float("inf"), None, 0
    for _ in tqdm(range(epochs), desc="baseline", unit="epoch"):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            (cross_entropy(net(seen[batch]), x[batch]) / len(batch)).backward()
            optimizer.step()
        loss = loss_of(net, validation, validation_seen)
        since = 0 if loss < best else since + 1
        if since == 0:
            best, kept = loss, copy.deepcopy(net.state_dict())
        if since == PATIENCE:
            break
    net.load_state_dict(kept)
    return net


@torch.no_grad()
def loss_of(net: nn.Module, x: Tensor, seen: Tensor) -> float:
    """The mean over rows of the cross-entropy of the hidden pixels, in nats."""
    return float(cross_entropy(net(seen), x)) / len(x)


def cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, x, reduction="sum")


@torch.no_grad()
def complete(vae: pyrovae.VAE, digits: Tensor, given: Tensor, hidden: Tensor) -> list[Tensor]:
    """Rows of pictures: the digits, what is seen, the baseline, and four completions from the CVAE."""
    torch.manual_seed(1)
    means = [vae.sample(len(digits), given, mean=True) for _ in range(4)]
    pictures = [digits, digits.masked_fill(hidden, 0.5), given]
    pictures += [digits.masked_scatter(hidden, made) for made in means]
    return [picture.reshape(-1, 28, 28) for picture in pictures]


def draw(pictures: dict[int, list[Tensor]], path: Path) -> None:
    figure = new_figure(9, 4.6)
    for axes, (quadrants, rows) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
        axes.imshow(torch.cat([torch.cat(list(row), 1) for row in rows]), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(f"{quadrants} seen", fontsize=10)
        names = ["digit", "seen", "baseline", "CVAE", "", "", ""] if axes is figure.axes[0] else [""] * len(rows)
        axes.set(xticks=[], yticks=[14 + 28 * i for i in range(len(rows))], yticklabels=names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    save(figure, path)


if __name__ == "__main__":
    main()
