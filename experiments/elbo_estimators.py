"""ELBO estimators compared: signal of the gradients, tightness of the bounds, what they reach in the same time.

Part snr: the toy of Rainforth et al. (2018), https://arxiv.org/abs/1802.04537: p(z) = N(mu, I), p(x | z) = N(z, I) and
q(z | x) = N(A x + b, 2/3 I) in 20 dimensions, 1,024 rows, parameters moved by 0.01 from their optimum. The
signal-to-noise ratio of the importance-weighted bound's gradient rises as K^(1/2) for mu and falls as K^(-1/2) for b;
with M independent estimates averaged both rise as M^(1/2). With DReG (Tucker et al. 2018) b rises as K^(1/2), too.
These are the leading orders: slopes are fitted where K is at least 64. At small K the gradient of mu is mostly what the
displaced guide does to the bound, which shrinks with K before the gradient of log p(x) shows.

Part bounds: every estimator at the weights of one VAE trained on binarized MNIST, K up to 256.

Part cost: time and memory of a step by K, whole and in chunks, at batch 128.

Part training: the same first weights and the same seconds of training for each of them; log p(x) of test rows.

    python experiments/elbo_estimators.py --data-root data
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from _common import RESULTS, random_rows, save
from torch import Tensor
from tqdm import tqdm

import pyrovae
from pyrovae import elbos
from pyrovae.evaluation.memory import PeakMemory
from pyrovae.plots import plot_elbos, plot_training
from pyrovae.plots.style import MARKERS, PALETTE, QUIET, new_figure

PARTS = ("snr", "bounds", "cost", "training")
NETWORK = "mlp(hidden=[400])"
ASYMPTOTIC = 64
"""Least K at which the leading order of the signal-to-noise ratio is seen."""
TOY = {"iwae": elbos.IWAE, "stl": elbos.STL, "dreg": elbos.DReG}
BOUNDS = (
    "elbo", "stl", "iwae", "dreg", "miwae(groups=4)", "ciwae(beta=0.5)", "piwae(groups=4)", "renyi(alpha=0.5)",
    "tvo(partitions=5)", "vimco", "rws", "tail_adaptive", "jackknife", "cubo",
)  # fmt: skip
TRAINING = (("elbo", 1), ("stl", 1), ("iwae", 5), ("dreg", 5), ("iwae", 50), ("dreg", 50), ("vimco", 50), ("rws", 50))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for tables and figures")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=40, help="of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each estimator")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        globals()[f"part_{part}"](arguments)


def part_snr(arguments: argparse.Namespace) -> None:
    """Signal-to-noise ratio on the toy, by K and by the number M of estimates that are averaged."""
    torch.manual_seed(arguments.seed)
    toy = Toy()
    rows = []
    for name, k, m in tqdm(
        [(name, k, 1) for name in TOY for k in (1, 4, 16, 64, 256)] + [("iwae", 1, m) for m in (4, 16, 64)]
    ):
        gradients = torch.stack([toy.gradient(TOY[name](k, max_plate_nesting=1), m) for _ in range(200)])
        for parameter, values in zip(("mu", "b"), gradients.unbind(1), strict=True):
            rows.append({"estimator": name, "K": k, "M": m, "parameter": parameter, "snr": snr(values)})
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "elbo_snr.csv", index=False, float_format="%.4g")
    figure = new_figure(11, 4)
    axes = figure.subplots(1, 3, sharey=True)
    by_k, by_m = table[table["M"] == 1], table[(table["estimator"] == "iwae") & (table["K"] == 1)]
    panels = (
        ("mu, by draws K", "K", by_k[by_k["parameter"] == "mu"].groupby("estimator", sort=False)),
        ("b, by draws K", "K", by_k[by_k["parameter"] == "b"].groupby("estimator", sort=False)),
        ("iwae, K = 1, by estimates M averaged", "M", by_m.groupby("parameter", sort=False)),
    )
    for ax, (title, by, lines) in zip(axes, panels, strict=True):
        for i, (name, part) in enumerate(lines):
            fitted = part[part[by] >= ASYMPTOTIC] if by == "K" else part
            slope = np.polyfit(np.log(fitted[by]), np.log(fitted["snr"]), 1)[0]
            print(f"{title}: {name}, slope {slope:+.2f}")
            label = f"{name}, slope {slope:+.2f}"
            ax.loglog(part[by], part["snr"], color=PALETTE[i], marker=MARKERS[i], markersize=5, label=label)
        ax.set(title=title, xlabel=by)
        ax.legend(frameon=False, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("|E g| / sd g")
    save(figure, arguments.out / "elbo_snr.png")


class Toy:
    """The toy's model and guide, and data from the model."""

    def __init__(self, rows: int = 1024, size: int = 20, jitter: float = 0.01) -> None:
        mu = torch.randn(size)
        self.x = mu + math.sqrt(2) * torch.randn(rows, size)
        # The best guide has A = I/2 and b = mu/2.
        self.mu = (self.x.mean(0) + jitter * torch.randn(size)).requires_grad_()
        self.b = (self.x.mean(0) / 2 + jitter * torch.randn(size)).requires_grad_()
        self.a = torch.eye(size) / 2 + jitter * torch.randn(size, size)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.a.T + self.b, math.sqrt(2 / 3)).to_event(1))

    def gradient(self, elbo: elbos.Bound, averaged: int) -> Tensor:
        """By mu and by b, ``(2, size)``."""
        total = torch.zeros(2, len(self.b))
        for _ in range(averaged):
            loss = elbo.differentiable_loss(self.model, self.guide, self.x)
            total += torch.stack(torch.autograd.grad(loss, [self.mu, self.b]))
        return total


def snr(values: Tensor) -> float:
    """|E g| / sd g of draws ``(R, size)``, without what R draws leave of noise in the mean."""
    variance = values.var(0).sum()
    return math.sqrt(max(float(values.mean(0).square().sum() - variance / len(values)), 0.0) / float(variance))


def mnist(arguments: argparse.Namespace) -> pyrovae.datasets.Dataset:
    return pyrovae.datasets.load("mnist", root=arguments.data_root, binarize="dynamic", seed=arguments.seed)


def new_vae() -> pyrovae.VAE:
    return pyrovae.VAE((1, 28, 28), 40, encoder=NETWORK, decoder=NETWORK)


def part_bounds(arguments: argparse.Namespace) -> None:
    """Bounds, gradients, time and memory at the weights of one VAE, by K."""
    data = mnist(arguments)
    torch.manual_seed(arguments.seed)
    vae = new_vae()
    pyrovae.fit(
        vae, data.train, validation=data.validation[:2000], transform=data.transform, epochs=10, batch_size=256,
        seed=arguments.seed,
    )  # fmt: skip
    rows = random_rows(len(data.test), 50, arguments.seed)
    comparison = pyrovae.compare_elbos(
        vae, data.test[rows], BOUNDS, num_particles=[1, 4, 16, 64, 256], num_repeats=40, annealed=True, chunk=2**14,
        seed=arguments.seed,
    )  # fmt: skip
    print(comparison)
    table = comparison.table
    for name, (value, error) in comparison.references.items():
        table[f"log_marginal_{name}"], table[f"log_marginal_{name}_error"] = value, error
    table.to_csv(arguments.out / "elbo_bounds.csv", float_format="%.5g")
    save(plot_elbos(comparison), arguments.out / "elbo_bounds.png")


def part_cost(arguments: argparse.Namespace) -> None:
    """Time and memory of a step of IWAE and DReG at batch 128, whole and with chunks of 10 draws."""
    data = mnist(arguments)
    torch.manual_seed(arguments.seed)
    vae, x = new_vae(), data.test[:128]
    members = {
        "iwae": lambda k: elbos.IWAE(k, max_plate_nesting=1),
        "dreg": lambda k: elbos.DReG(k, max_plate_nesting=1),
        "dreg, chunks of 10": lambda k: elbos.DReG(k, chunk=10, max_plate_nesting=1),
    }
    seconds: dict[tuple[str, int], list[float]] = {}
    memory = {}
    with pyro.validation_enabled(False):
        for k in (10, 20, 50, 100, 200):
            for repeat in range(21):
                for name, make in members.items():
                    vae.zero_grad()
                    if repeat == 0:
                        with PeakMemory() as peak:
                            make(k).loss_and_grads(vae.model, vae.guide, x)
                        memory[name, k] = peak.peak / 1e6
                        continue
                    begin = time.perf_counter()
                    make(k).loss_and_grads(vae.model, vae.guide, x)
                    seconds.setdefault((name, k), []).append(1e3 * (time.perf_counter() - begin))
    table = pd.DataFrame(
        [
            {"estimator": name, "K": k, "ms": np.median(values), "ms_low": np.quantile(values, 0.25),
             "ms_high": np.quantile(values, 0.75), "MB": memory[name, k]}
            for (name, k), values in seconds.items()
        ]
    )  # fmt: skip
    table.to_csv(arguments.out / "elbo_cost.csv", index=False, float_format="%.4g")
    print(table.round(1).to_string(index=False))
    ratio = np.asarray(seconds["dreg", 50]) / np.asarray(seconds["iwae", 50])
    print(f"K = 50: dreg / iwae {np.median(ratio):.2f} (quartiles {np.quantile(ratio, [0.25, 0.75]).round(2)})")
    figure = new_figure(8, 3.6)
    axes = figure.subplots(1, 2)
    for ax, column, label in zip(axes, ("ms", "MB"), ("ms a step, median and quartiles", "MB"), strict=True):
        for i, (name, part) in enumerate(table.groupby("estimator", sort=False)):
            style = {"color": PALETTE[i], "marker": MARKERS[i], "markersize": 5, "label": name}
            bars = None if column == "MB" else [part["ms"] - part["ms_low"], part["ms_high"] - part["ms"]]
            ax.errorbar(part["K"], part[column], yerr=bars, **style)
        ax.set(xlabel="draws K", ylabel=label, xlim=(0, None), ylim=(0, None))
        ax.grid(color=QUIET, alpha=0.2)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    save(figure, arguments.out / "elbo_cost.png")


def part_training(arguments: argparse.Namespace) -> None:
    """log p(x) after the same seconds."""
    data = mnist(arguments)
    rows = random_rows(len(data.test), 500, arguments.seed)
    comparison = pyrovae.compare_training(
        new_vae, data.train, data.test[rows], TRAINING, seconds=arguments.seconds, seeds=range(arguments.seeds),
        num_samples=1000, transform=data.transform, batch_size=128, lr=1e-3,
    )  # fmt: skip
    print(comparison)
    comparison.table.to_csv(arguments.out / "elbo_training.csv", float_format="%.5g")
    save(plot_training(comparison), arguments.out / "elbo_training.png")


if __name__ == "__main__":
    main()
