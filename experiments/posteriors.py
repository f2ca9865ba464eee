"""Posteriors: a published table of planar flows, and all of them at equal wall time.

a. The test ELBO without a flow and with 20 planar steps, with the settings of
   https://github.com/abdulfatir/planar-flow-pytorch: 784-512-256-20-256-512-784, ReLU, pixels thresholded at one half,
   Adam at 1e-3, batches of 128, 10 epochs of all 60,000 training rows, one draw for each of the 10,000 test rows. Its
   flow is the same for all rows ("shared"); that of Rezende & Mohamed (2015), https://arxiv.org/abs/1505.05770, comes
   from the encoder ("amortised"). Both are run. Not as there: first weights (there torch's own; here He's, the
   decoder's last layer multiplied by 0.3 and its bias at the data mean), and m in the planar step (see
   `pyrovae.distributions.Planar`).
b. Every posterior with the prior N(0, I) on static MNIST, each trained for the same time: a posterior that is nearer to
   the truth has to make up for its dearer steps. On a CPU these are seconds of one thread of the process, which what
   else the machine does leaves alone; on a GPU, seconds on the wall.

    python experiments/posteriors.py --data-root data
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from _common import Table, dots, mean_and_error, name_rows, options, random_rows, save, scores
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor, nn
from torch.distributions import Transform
from tqdm import tqdm

import pyrovae
from pyrovae import posteriors
from pyrovae.plots.style import FIRST, PALETTE, QUIET, SECOND, new_figure
from pyrovae.training.history import Row

BATCH = 128
STEPS = 5
"""Between two looks at the clock."""
PUBLISHED = {"none": 84.60, "shared": 81.83}
GOALS = {"none": 84.9, "shared": 82.1}


class SharedPlanar(posteriors.Planar):
    """A planar flow whose steps are the same for all rows: parameters, and no numbers from the encoder."""

    def extra(self, size: int) -> int:
        self.steps = nn.Parameter(torch.randn(super().extra(size)) / math.sqrt(size))
        return 0

    def bend(self, numbers: Tensor) -> Sequence[Transform]:
        return super().bend(self.steps)


FLOWS = {
    "none": lambda: "normal",
    "shared": lambda: SharedPlanar(transforms=20),
    "amortised": lambda: "planar(transforms=20)",
}
BOARD = {
    name: name
    for name in (
        "normal", "full_rank", "low_rank", "laplace", "student_t", "mixture", "planar", "sylvester", "householder",
        "coupling", "iaf", "maf", "nsf", "refined", "delta",
    )
}  # fmt: skip


def main() -> None:
    parser = options(__doc__, [*FLOWS, *BOARD])
    parser.add_argument("--part", nargs="+", choices=["a", "b"], default=["a", "b"])
    parser.add_argument("--epochs", type=int, default=10, help="of part a")
    parser.add_argument("--seconds", type=float, default=60, help="of training for each posterior of part b")
    parser.add_argument("--test-rows", type=int, default=1000, help="random test rows for log p(x) in part b")
    parser.add_argument("--num-samples", type=int, default=500, help="importance samples a test row in part b")
    arguments = parser.parse_args()
    if "a" in arguments.part:
        planar(arguments)
    if "b" in arguments.part:
        equal_time(arguments)


def planar(arguments: argparse.Namespace) -> None:
    """Part a."""
    data = pyrovae.datasets.load("mnist", root=arguments.data_root, binarize="threshold")
    train = torch.cat([data.train, data.validation])[: arguments.train_rows]
    settings = {"epochs": arguments.epochs, "train_rows": len(train), "seed": arguments.seed}
    table = Table(arguments.out / "posteriors_planar.csv", settings, arguments.restart)
    for name in _chosen(FLOWS, arguments):
        if name not in table:
            print(f"20 planar steps, {name}", flush=True)
            curve, last, seconds = planar_curve(name, train, data.test, arguments)
            value, error = mean_and_error(last)
            row = {
                "negative_elbo": -value, "standard_error": error, "published": PUBLISHED.get(name, math.nan),
                "goal": GOALS.get(name, math.nan), "seconds": seconds,
                **{f"epoch_{i}": -value for i, value in enumerate(curve, 1)},
            }  # fmt: skip
            table.add(name, row, elbo=last, curve=np.array(curve))
    table.compare("none", "elbo")
    columns = ["name", "negative_elbo", "standard_error", "published", "goal", "seconds"]
    print(table.frame()[columns].round(2).to_string(index=False))
    for name in [name for name in FLOWS if name != "none" and name in table and "none" in table]:
        gain, error = table.rows[name]["minus_none"], table.rows[name]["minus_none_standard_error"]
        print(
            f"20 planar steps, {name}: {gain:+.2f} +- {error:.2f} nats of ELBO (paired); at least 2 wanted: "
            f"{'met' if gain >= 2 else 'missed'}; published 2.77"
        )
    figure = new_figure(6.5, 4.2)
    ax = figure.subplots()
    for name, colour in zip(FLOWS, PALETTE, strict=False):
        if name in table:
            curve = table.array(name, "curve")
            text = "no flow" if name == "none" else f"20 planar steps, {name}"
            ax.plot(range(1, len(curve) + 1), -curve, "o-", color=colour, markersize=4, label=text)
            if name in PUBLISHED:
                ax.axhline(PUBLISHED[name], color=colour, linestyle=":", label=f"published, {text}")
    ax.set(title="Test rows of thresholded MNIST", xlabel="epoch", ylabel="-ELBO, nats a row")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    save(figure, table.path.with_suffix(".png"))


def planar_curve(
    name: str, train: Tensor, test: Tensor, arguments: argparse.Namespace
) -> tuple[list[float], np.ndarray, float]:
    """Mean test ELBO after each epoch, that of each test row after the last, and the seconds that training took."""
    torch.manual_seed(arguments.seed)
    vae = pyrovae.VAE(
        (1, 28, 28), 20, posterior=FLOWS[name](), encoder="mlp(hidden=[512, 256])", decoder="mlp(hidden=[256, 512])"
    )
    rows: list[np.ndarray] = []

    def test_elbo(vae: pyrovae.VAE, row: Row) -> None:
        rows.append(pyrovae.evaluate(vae, test, num_samples=1, progress=False).rows["elbo"].to_numpy())

    history = pyrovae.fit(
        vae, train, epochs=arguments.epochs, batch_size=BATCH, lr=1e-3, seed=arguments.seed, device=arguments.device,
        callbacks=[test_elbo],
    )  # fmt: skip
    return [float(elbo.mean()) for elbo in rows], rows[-1], history["seconds"].sum()


def equal_time(arguments: argparse.Namespace) -> None:
    """Part b."""
    torch.set_num_threads(1)
    data = pyrovae.datasets.load("static_mnist", root=arguments.data_root)
    train = data.train[: arguments.train_rows]
    test = data.test[random_rows(len(data.test), arguments.test_rows, arguments.seed)]
    keys = ("seconds", "test_rows", "num_samples", "seed")
    settings = {**{key: getattr(arguments, key) for key in keys}, "train_rows": len(train)}
    table = Table(arguments.out / "posteriors.csv", settings, arguments.restart)
    for name in _chosen(BOARD, arguments):
        if name not in table:
            row, log_p = timed(BOARD[name], train, test, arguments)
            table.add(name, row, log_p=log_p)
            print(
                f"{name}: log p(x) {row['log_p']:.2f}, ELBO {row['elbo']:.2f}, {row['epochs']:.1f} epochs", flush=True
            )
    table.compare("normal")
    frame = table.frame().sort_values("log_p", ascending=False)
    columns = [
        "name", "log_p", "log_p_monte_carlo_error", "minus_normal", "minus_normal_standard_error", "elbo", "kl",
        "reconstruction", "share_k_hat_above_0.7", "epochs", "milliseconds_a_step", "trained_seconds",
    ]  # fmt: skip
    print(frame[columns].round(2).to_string(index=False))
    labels = [name.replace("_", " ") + (" (no density)" if name == "delta" else "") for name in frame["name"]]
    figure = new_figure(11, 0.3 * len(labels) + 1.9)
    axes = figure.subplots(1, 3, sharey=True)
    places = np.arange(len(labels))
    dots(axes[0], places, frame["elbo"], color=SECOND, marker="D", label="ELBO")
    dots(axes[0], places, frame["log_p"], frame["log_p_standard_error"], color=FIRST, label="log p(x)")
    axes[0].set_title(f"{arguments.test_rows:,} test rows after {arguments.seconds:g} s of training", fontsize=10)
    axes[0].set_xlabel("nats a row, ± 2 standard errors over rows", fontsize=9)
    dots(axes[1], places, frame["minus_normal"], frame["minus_normal_standard_error"], color=FIRST)
    axes[1].axvline(0, color=QUIET, linewidth=1, zorder=0)
    axes[1].set_title("log p(x) less that with the normal posterior", fontsize=10)
    axes[1].set_xlabel("nats a row, ± 2 paired standard errors", fontsize=9)
    dots(axes[2], places, frame["milliseconds_a_step"], color=FIRST)
    axes[2].set_xscale("log")
    axes[2].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[2].xaxis.set_major_formatter("{x:g}")
    axes[2].xaxis.set_minor_formatter(NullFormatter())
    axes[2].set_title(f"A training step of {BATCH} rows", fontsize=10)
    axes[2].set_xlabel("milliseconds", fontsize=9)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    name_rows(axes, labels)
    save(figure, table.path.with_suffix(".png"))


class Stream:
    """Batches for `pyrovae.fit` whose epochs are a few steps long: rows come in one shuffled order after the other.

    As the ``transform`` of `fit` it gives the next rows in place of those it is handed, so that the clock can be looked
    at between any few steps, with one optimizer throughout.
    """

    def __init__(self, x: Tensor) -> None:
        self.x, self.order = x, torch.empty(0, dtype=torch.long)

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        while len(self.order) < len(batch):
            self.order = torch.cat([self.order, torch.randperm(len(self.x), generator=generator)])
        rows, self.order = self.order[: len(batch)], self.order[len(batch) :]
        return self.x[rows].to(batch.device)


def timed(
    posterior: str, train: Tensor, test: Tensor, arguments: argparse.Namespace
) -> tuple[dict[str, float], np.ndarray]:
    """Train for the given seconds and evaluate: figures, and log p(x) of each row."""
    torch.manual_seed(arguments.seed)
    network = "mlp(hidden=[300, 300])"
    vae = pyrovae.VAE((1, 28, 28), 20, posterior=posterior, encoder=network, decoder=network)
    settings = {"batch_size": BATCH, "lr": 1e-3, "seed": arguments.seed, "device": arguments.device, "progress": False}
    some = train[: STEPS * BATCH]
    pyrovae.fit(copy.deepcopy(vae), some, transform=Stream(train), epochs=1, **settings)
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    spent, begin = 0.0, clock()
    # A bar that is full at the last look at the clock, which comes late by a few steps.
    with tqdm(total=arguments.seconds, desc=posterior, bar_format="{l_bar}{bar}| {n:.0f} s") as bar:

        def until(vae: pyrovae.VAE, row: Row) -> bool:
            nonlocal spent
            spent = clock() - begin
            bar.update(min(spent, bar.total) - bar.n)
            return spent >= arguments.seconds

        stop = 10**9
        history = pyrovae.fit(vae, some, transform=Stream(train), epochs=stop, callbacks=[until], **settings)
    steps = len(history) * math.ceil(len(some) / BATCH)
    evaluation = pyrovae.evaluate(vae, test, num_samples=arguments.num_samples, seed=arguments.seed)
    row = {
        **scores(evaluation),
        "epochs": len(history) * len(some) / len(train),
        "steps": steps,
        "milliseconds_a_step": 1000 * spent / steps,
        "trained_seconds": spent,
    }
    return row, evaluation.rows["log_marginal"].to_numpy()


def _chosen(board: Iterable[str], arguments: argparse.Namespace) -> list[str]:
    return [name for name in board if arguments.only is None or name in arguments.only]


if __name__ == "__main__":
    main()
