"""What a training step costs: ours beside Pyro's SVI, Pyro's example, hand-written torch, pythae and NumPyro.

All candidates take turns, a burst of steps each, so that whatever else the machine does meets all of them, and each has
a process of its own, as it would have elsewhere; medians of bursts, with quartiles. `floor` is the time of the matrix
products of a step alone. Then how the cost grows with rows, batch and draws, and how near importance sampling is to its
matrix products. pythae and NumPyro take part where they are installed.

    python experiments/speed.py
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from timeit import timeit

import _peers as peers
import numpy as np
import pandas as pd
import torch
from _common import RESULTS, save
from _peers import Size, Step
from _turns import Make, in_turns
from torch import Tensor
from tqdm import tqdm

import pyrovae
from pyrovae.evaluation import importance

SIZES = {
    "digits": Size(64, (32,), 8, 64),
    "MNIST, 128 rows": Size(784, (400,), 50, 128),
    "MNIST, 256 rows": Size(784, (400,), 50, 256),
    "large": Size(784, (1000, 1000), 100, 512),
    "IWAE, 50 draws": Size(784, (400,), 50, 128, particles=50),
    "convolutions": Size(784, (), 20, 64),
}
TURN = 300
"""Rows whose matrix products are timed at once: two seconds."""
FEW = 26
"""Rows whose log p(x) is estimated first."""
EPOCH = 20
"""Steps of NumPyro's jitted loop."""


def ours(size: Size, x: Tensor, *, compiled: bool, precision: str = "float32") -> Step:
    """Our VAE by our step."""
    torch.manual_seed(0)
    names = [f"mlp(hidden={list(h)}, activation=softplus)" for h in (size.hidden, size.hidden[::-1])]
    encoder, decoder = names if size.hidden else ("conv", "conv")
    vae = pyrovae.VAE(size.event_shape, size.latent_dim, encoder=encoder, decoder=decoder)
    name = "mean_field_elbo" if size.particles == 1 else "iwae"
    elbo = pyrovae.elbos.for_fit(pyrovae.elbos.make(name, size.particles))
    adam = torch.optim.Adam(vae.parameters(), lr=peers.LR, fused=True)
    rows = peers.batches(size, x)
    svi = pyrovae.CompiledSVI(vae.model, vae.guide, adam, elbo, precision=precision, worth=lambda *_: compiled)
    return lambda: svi.step(next(rows))


def candidates(size: Size) -> dict[str, Make]:
    """How each step is made."""
    makes: dict[str, tuple[Callable[..., Step], int]] = {
        "ours, compiled": (partial(ours, compiled=True), 1),
        "ours, eager": (partial(ours, compiled=False), 1),
        "Pyro's SVI": (peers.pyro_svi, 1),
        "torch by hand": (partial(peers.by_hand, compiled=False), 1),
        "torch by hand, torch.compile": (partial(peers.by_hand, compiled=True), 1),
    }
    if size.pixels == 784:
        makes["ours, compiled, bfloat16"] = (partial(ours, compiled=True, precision="bfloat16"), 1)
    if size.hidden:
        makes["floor"] = (peers.floor, 1)
        if find_spec("numpyro"):
            makes["NumPyro"] = (partial(peers.numpyro_epoch, steps=EPOCH), EPOCH)
    if size.hidden and size.particles == 1:
        if find_spec("pythae"):
            makes["pythae"] = (peers.pythae_trainer, 1)
        if size.pixels == 784:
            makes["Pyro's example"] = (peers.pyro_example, 1)
    return {name: partial(made, size, *make) for name, make in makes.items()}


def made(size: Size, make: Callable[..., Step], each: int) -> tuple[Step, int]:
    """A step, of data that are the same for all, and how many training steps it takes."""
    x = (torch.rand(size.batch * EPOCH, *size.event_shape) > 0.7).float()
    return make(size, x), each


def summary(title: str, times: pd.DataFrame, run: int) -> pd.DataFrame:
    """Medians and quartiles, and how many times as fast as each other candidate ours is, compiled."""
    ratio = times.div(times["ours, compiled"], axis=0)
    return pd.DataFrame(
        {
            "size": title,
            "candidate": times.columns,
            "ms": times.median().to_numpy(),
            "ms_25": times.quantile(0.25).to_numpy(),
            "ms_75": times.quantile(0.75).to_numpy(),
            "times_ours": ratio.median().to_numpy(),
            "times_ours_25": ratio.quantile(0.25).to_numpy(),
            "times_ours_75": ratio.quantile(0.75).to_numpy(),
            "run": run,
        }
    )


def scaling(bursts: int) -> pd.DataFrame:
    """Seconds against rows of an epoch, rows of a batch and draws, 1 to 64 times as many; compiled, in turns."""
    x = (torch.rand(64 * 64, 784) > 0.7).float()
    times = []
    for what in ("rows", "batch", "draws"):
        steps: dict[int, tuple[Step, int]] = {}
        for factor in (1, 4, 16, 64):
            size, count = Size(784, (400,), 50, 64), 1
            if what == "rows":
                count = factor
            elif what == "batch":
                size = Size(784, (400,), 50, 64 * factor)
            else:
                size = Size(784, (400,), 50, 16, particles=factor)
            steps[factor] = ours(size, x, compiled=True), count
            for _ in range(3):
                steps[factor][0]()
        for _ in tqdm(range(bursts), desc=what, leave=False):
            for factor, (step, count) in steps.items():
                # A burst of as much work for each, so that none meets caches that another one filled.
                repeats = 64 // factor
                begin = time.perf_counter()
                for _ in range(repeats * count):
                    step()
                times.append({"of": what, "factor": factor, "seconds": (time.perf_counter() - begin) / repeats})
    return pd.DataFrame(times).groupby(["of", "factor"], sort=False)["seconds"].median().reset_index()


def slopes(table: pd.DataFrame) -> pd.Series:
    """Log-log slopes: 1 is linear."""

    def slope(part: pd.DataFrame) -> float:
        return float(np.polyfit(np.log(part["factor"]), np.log(part["seconds"]), 1)[0])

    return table.groupby("of", sort=False)[["factor", "seconds"]].apply(slope)


def evaluation(rows: int) -> pd.DataFrame:
    """Milliseconds a row of log p(x) by 5,000 importance samples: by threads, after a few rows for which it is compiled
    (`first_s`), of fewer rows where it is not compiled, and by a process on each core, their start included. Beside
    them its matrix products alone, the median of what they took before, between and after."""
    size = Size(784, (200, 200), 50, 5000)
    network = "mlp(hidden=[200, 200], activation=tanh)"
    vae = pyrovae.VAE((784,), 50, encoder=network, decoder=network)
    x = (torch.rand(rows, 784) > 0.7).float()
    weights = [torch.randn(i, o) for i, o in ((50, 200), (200, 200), (200, 784))]
    outputs = [torch.empty(size.batch, w.shape[1]) for w in weights]
    start = torch.randn(size.batch, 50)

    def products() -> float:
        def once() -> None:
            z = start
            for weight, output in zip(weights, outputs, strict=True):
                z = torch.mm(z, weight, out=output)

        return timeit(once, number=TURN) / TURN

    def seconds(count: int, worth: float, n_jobs: int = 1) -> float:
        importance.WORTH = worth
        estimate = partial(pyrovae.log_marginal, num_samples=size.batch, n_jobs=n_jobs, progress=False)
        return timeit(lambda: estimate(vae, x[:count]), number=1)

    products()
    table, floors = [], []
    for name, count, worth, n_jobs in (
        ("compiled", rows, 0.0, 1),
        ("eager", rows // 10, math.inf, 1),
        ("processes", rows, 0.0, -1),
    ):
        first = seconds(FEW, worth) if name == "compiled" else math.nan
        floors.extend(products() for _ in range(3))
        ours = seconds(count, worth, n_jobs)
        floors.extend(products() for _ in range(3))
        table.append({"by": name, "rows": count, "ms_a_row": ours / count * 1e3, "first_s": first})
    return pd.DataFrame(table).assign(
        products_ms_a_row=np.median(floors) * 1e3, times_floor=lambda t: t["ms_a_row"] / t["products_ms_a_row"]
    )


def figure(steps: pd.DataFrame, growth: pd.DataFrame) -> object:
    from matplotlib.figure import Figure

    fig = Figure(figsize=(13, 5), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=[2.2, 1])
    sizes, names = list(steps["size"].unique()), list(steps["candidate"].unique())
    steps = steps.groupby(["size", "candidate"], sort=False).median().reset_index()
    for i, name in enumerate(names):
        part = steps[steps["candidate"] == name].set_index("size").reindex(sizes)
        position = np.arange(len(sizes)) + (i - len(names) / 2) * 0.8 / len(names)
        spread = np.abs(part[["ms_25", "ms_75"]].to_numpy().T - part["ms"].to_numpy())
        colour = "black" if name == "floor" else f"C{i}"
        left.errorbar(position, part["ms"], spread, fmt="_" if name == "floor" else "o", ms=5, color=colour, label=name)
    left.set(yscale="log", ylabel="milliseconds a step", xticks=range(len(sizes)))
    left.set_xticklabels(sizes)
    left.legend(fontsize=8, ncols=2)
    for what, part in growth.groupby("of", sort=False):
        right.plot(part["factor"], part["seconds"] / part["seconds"].iloc[0], "o-", label=what)
    right.axline((1, 1), slope=1, color="0.7", lw=1, zorder=0)
    right.set(xscale="log", yscale="log", xlabel="times as many", ylabel="times as long")
    right.legend()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for tables and the figure")
    parser.add_argument("--bursts", type=int, default=15)
    parser.add_argument("--runs", type=int, default=1, help="of all bursts, one after the other")
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE")
    parser.add_argument("--rows", type=int, default=10_000, help="of which to estimate log p(x)")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="candidates to leave out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    # First steps are those of somebody who has compiled none of it before.
    with TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save what is asked for."""
    parts = []
    for title in arguments.only:
        makes = {name: make for name, make in candidates(SIZES[title]).items() if name not in arguments.without}
        first, tables = in_turns(makes, arguments.bursts, arguments.runs, title)
        for number, times in enumerate(tables, 1):
            # Compiling is measured once.
            seconds = first.to_numpy() if number == 1 else np.nan
            parts.append(summary(title, times, number).assign(first_seconds=seconds))
            print(parts[-1].drop(columns="size").round(3).to_string(index=False), flush=True)
        # What was measured is kept, whatever becomes of the rest.
        steps = pd.concat(parts)
        steps.to_csv(arguments.out / "speed_steps.csv", index=False, float_format="%.4g")
    growth = scaling(arguments.bursts)
    growth.to_csv(arguments.out / "speed_scaling.csv", index=False, float_format="%.4g")
    print(slopes(growth).round(3).to_string())
    near = evaluation(arguments.rows)
    near.to_csv(arguments.out / "speed_evaluation.csv", index=False, float_format="%.4g")
    print(near.round(2).to_string(index=False))
    save(figure(steps, growth), arguments.out / "speed.png")


if __name__ == "__main__":
    main()
