"""Digits of which half the pixels are hidden, or that are blurred: the posterior by NUTS, and what an encoder says.

A VAE of binarized MNIST, 784-200-16-200-784, is trained on digits of which every other one has half of its pixels
hidden (``missing="mask"``). Then it is a prior, `pyrovae.as_prior`, in a Pyro model of what is seen of a digit:

- ``random half``, ``lower half``: x ~ p(x | z), of which the other pixels are seen;
- ``blurred``: y ~ Normal(blur(E[x | z]), 0.1), for a Gaussian blur of two pixels.

z of all rows is drawn from that model by `pyrovae.CompiledNUTS`. The guide of the first two is the VAE's own encoder,
which knows missing pixels; for the third it is a network from y to a normal, trained in the same model by
`pyrovae.CompiledSVI`.

Rows are test digits, and digits that the VAE itself has drawn, for which the model is right and NUTS should cover what
it says: of sums of the pixels in 16 blocks of 7 x 7 (those that are hidden; in ``blurred`` of the digit's grey values),
the share that lies in central 50 and 90 % intervals of the posterior predictive, ties broken at random; of drawn digits
also z. Blocks in which the predictive (NUTS) has an sd below 0.1 pixels are left out.

    python experiments/inverse_problems.py --data-root data
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import arviz as az
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from _common import RESULTS, mean_and_error, random_rows, save
from pyro.infer import MCMC, Trace_ELBO
from torch import Tensor, nn

import pyrovae
from pyrovae.plots.style import new_figure

SIZE, HIDDEN = 16, 200
NOISE, WIDTH = 0.1, 2.0
LEVELS = (0.5, 0.9)
SHOWN = 6
Program = Callable[..., object]


@dataclass(frozen=True)
class Problem:
    """What is seen of digits, ``observe``, and Pyro programs of it: ``model`` draws ``x_z`` and y, ``guide`` x_z."""

    name: str
    observe: Callable[[Tensor, torch.Generator], Tensor]
    model: Program
    guide: Program

    @property
    def hides(self) -> bool:
        """Whether pixels are hidden (NaN), and others seen as they are."""
        return self.name != "blurred"


def random_half(x: Tensor, generator: torch.Generator) -> Tensor:
    """392 pixels of each row hidden, at random."""
    ranks = torch.rand(len(x), 784, generator=generator).argsort(1).reshape(x.shape)
    return x.masked_fill(ranks < 392, torch.nan)


def lower_half(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The lower 14 lines hidden."""
    x = x.clone()
    x[..., 14:, :] = torch.nan
    return x


def blur(x: Tensor) -> Tensor:
    """A Gaussian blur of images, its sd ``WIDTH`` pixels, 0 around them."""
    places = torch.arange(x.shape[-1], dtype=x.dtype)
    line = torch.exp(-0.5 * ((places - places[:, None]) / WIDTH) ** 2) / (WIDTH * (2 * torch.pi) ** 0.5)
    return line @ x @ line


def seen_blurred(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blurred digits, with noise."""
    return blur(x) + NOISE * torch.randn(x.shape, generator=generator)


def hiding(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Training digits, binarized, of which every other one has half of its pixels hidden, in either way."""
    x = torch.bernoulli(batch, generator=generator)
    x[1::4], x[3::4] = random_half(x[1::4], generator), lower_half(x[3::4])
    return x


def problems(vae: pyrovae.VAE, train: Tensor, arguments: argparse.Namespace) -> list[Problem]:
    """The three of them; for the last, a guide is trained."""
    digit, mean = pyrovae.as_prior(vae, gives="likelihood"), pyrovae.as_prior(vae)

    def hidden(y: Tensor) -> None:
        with pyro.plate("rows", len(y)):
            pyro.sample("y", digit("x"), obs=y)

    def encoder(y: Tensor) -> None:
        with pyro.plate("rows", len(y)):
            pyro.sample("x_z", vae.encode(y))

    def blurred(y: Tensor) -> None:
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(blur(mean("x")), NOISE).to_event(3), obs=y)

    torch.manual_seed(arguments.seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * SIZE))

    def trained(y: Tensor) -> None:
        pyro.module("network", network)
        with pyro.plate("rows", len(y)):
            loc, scale = network(y).chunk(2, -1)
            pyro.sample("x_z", dist.Normal(loc, F.softplus(scale)).to_event(1))

    generator = torch.Generator().manual_seed(arguments.seed)
    svi = pyrovae.CompiledSVI(blurred, trained, torch.optim.Adam(network.parameters(), lr=1e-3), Trace_ELBO())
    begin = time.perf_counter()
    for _ in range(arguments.epochs):
        for rows in torch.randperm(len(train), generator=generator).split(200):
            svi.step(seen_blurred(train[rows], generator))
    print(f"blurred: guide trained in {time.perf_counter() - begin:.0f} s")
    return [
        Problem("random half", random_half, hidden, encoder),
        Problem("lower half", lower_half, hidden, encoder),
        Problem("blurred", seen_blurred, blurred, trained),
    ]


def draw_nuts(problem: Problem, y: Tensor, arguments: argparse.Namespace) -> tuple[Tensor, dict[str, float]]:
    """z ``(chains, draws, rows, SIZE)`` by NUTS, and how it went. Chains start from draws of the guide."""
    chains, diverging, begin = [], 0, time.process_time()
    for chain in range(arguments.chains):
        pyro.set_rng_seed(arguments.seed + chain)
        start = draw_guide(problem, y, 1)[0]
        kernel = pyrovae.CompiledNUTS(problem.model)
        mcmc = MCMC(kernel, num_samples=arguments.draws, warmup_steps=arguments.warmup, initial_params={"x_z": start})
        mcmc.run(y)
        chains.append(mcmc.get_samples()["x_z"].detach())
        diverging += len(mcmc.diagnostics()["divergences"]["chain 0"])
    z = torch.stack(chains)
    r_hat = az.rhat(az.convert_to_dataset(z.numpy()))["x"].to_numpy()
    how = {
        "seconds": time.process_time() - begin,
        "diverging": diverging,
        "r_hat_median": np.median(r_hat),
        "r_hat_95": np.quantile(r_hat, 0.95),
        "ess_median": float(np.median(az.ess(az.convert_to_dataset(z.numpy()))["x"])),
    }
    return z, how


@torch.no_grad()
def draw_guide(problem: Problem, y: Tensor, count: int) -> Tensor:
    """Draws of the guide, ``(count, rows, SIZE)``."""
    draws = [pyro.poutine.trace(problem.guide).get_trace(y).nodes["x_z"]["value"] for _ in range(count)]
    return torch.stack(draws)


@torch.no_grad()
def coverage(problem: Problem, vae: pyrovae.VAE, truth: Tensor, y: Tensor, draws: dict[str, Tensor]) -> pd.DataFrame:
    """Of each method's draws of z, how often their predictive intervals hold sums of blocks, and how far means are."""
    unseen = torch.isnan(y) if problem.hides else torch.ones_like(y, dtype=torch.bool)
    target, blocks, rmse = sums(truth * unseen), {}, {}
    for method, z in draws.items():
        p = torch.cat([vae.decode(part).base_dist.mean for part in z.split(50)])
        x = torch.bernoulli(p) if problem.hides else p
        blocks[method] = sums(x * unseen)
        rmse[method] = float(((p.mean(0) - truth)[unseen]).square().mean().sqrt())
    free = blocks["nuts"].std(0) > 0.1
    rows = []
    for method in draws:
        pit = rank(blocks[method], target)
        row = {"method": method, "rmse": rmse[method]}
        for level in LEVELS:
            inside = ((pit - 0.5).abs() <= level / 2).float()
            share = (inside * free).sum(1) / free.sum(1)
            row[f"blocks_{level:.0%}"], row[f"blocks_{level:.0%}_error"] = mean_and_error(share[free.any(1)])
        rows.append(row)
    return pd.DataFrame(rows).set_index("method")


def sums(x: Tensor) -> Tensor:
    """Of images, sums over 16 blocks of 7 x 7."""
    return x.unflatten(-1, (4, 7)).unflatten(-3, (4, 7)).sum((-1, -3)).flatten(-3)


def rank(draws: Tensor, value: Tensor) -> Tensor:
    """Where a value lies among draws, from 0 to 1, at random among those that it equals; uniform if it is one of
    them."""
    below, equal = (draws < value).sum(0), (draws == value).sum(0)
    return (below + torch.rand(value.shape) * (equal + 1)) / (len(draws) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for table and figure")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=40, help="of each kind and problem")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--draws", type=int, default=300, help="of a chain")
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = pyrovae.datasets.load("mnist", root=arguments.data_root, binarize="none", seed=arguments.seed)
    torch.manual_seed(arguments.seed)
    network = f"mlp(hidden=[{HIDDEN}])"
    vae = pyrovae.VAE((1, 28, 28), SIZE, encoder=network, decoder=network, missing="mask")
    pyrovae.fit(vae, data.train, transform=hiding, epochs=arguments.epochs, batch_size=200, seed=arguments.seed)
    vae.eval().requires_grad_(False)

    generator = torch.Generator().manual_seed(arguments.seed)
    grey = data.test[random_rows(len(data.test), arguments.rows, arguments.seed)]
    torch.manual_seed(arguments.seed)
    z = vae.sample_latent(arguments.rows)
    own = vae.decode(z).base_dist.mean
    rows, pictures = [], {}
    for problem in problems(vae, data.train, arguments):
        for kind, images in (("test digits", grey), ("drawn digits", own)):
            truth = torch.bernoulli(images, generator=generator) if problem.hides else images
            y = problem.observe(truth, generator)
            chains, how = draw_nuts(problem, y, arguments)
            torch.manual_seed(arguments.seed)
            draws = {"nuts": chains.flatten(0, 1), "guide": draw_guide(problem, y, arguments.draws * arguments.chains)}
            table = coverage(problem, vae, truth, y, draws)
            if kind == "drawn digits":
                for method, values in draws.items():
                    for level in LEVELS:
                        inside = ((rank(values, z) - 0.5).abs() <= level / 2).float().mean(1)
                        names = f"z_{level:.0%}", f"z_{level:.0%}_error"
                        table.loc[method, names] = mean_and_error(inside)
            mean, sd = (getattr(draws["nuts"], name)(0) for name in ("mean", "std"))
            table.loc["guide", "shift_rms_sds"] = float(((draws["guide"].mean(0) - mean) / sd).square().mean().sqrt())
            table.loc["guide", "sd_ratio_median"] = float((draws["guide"].std(0) / sd).median())
            table.loc["nuts", [*how]] = [*how.values()]
            table.insert(0, "rows", kind)
            table.insert(0, "problem", problem.name)
            print(table.T.to_string())
            rows.append(table.reset_index())
            if kind == "test digits":
                pictures[problem.name] = picture(vae, truth, y, draws)
    arguments.out.mkdir(parents=True, exist_ok=True)
    pd.concat(rows).to_csv(arguments.out / "inverse_problems.csv", index=False, float_format="%.4g")
    draw_figure(pictures, arguments.out / "inverse_problems.png")


@torch.no_grad()
def picture(vae: pyrovae.VAE, truth: Tensor, y: Tensor, draws: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first digits: truth, what is seen, and of each method the mean, a draw and the sd of the mean image."""
    shown = {"truth": truth[:SHOWN], "seen": y[:SHOWN]}
    for method in ("guide", "nuts"):
        p = vae.decode(draws[method][:, :SHOWN]).base_dist.mean
        name = {"guide": "guide", "nuts": "NUTS"}[method]
        shown |= {f"{name}: mean": p.mean(0), f"{name}: draw": p[0], f"{name}: sd": p.std(0)}
    return shown


def draw_figure(pictures: dict[str, dict[str, Tensor]], path: Path) -> None:
    """A column of panels for each problem, digits side by side in each."""
    names = list(next(iter(pictures.values())))
    figure = new_figure(4.2 * len(pictures), 0.75 * len(names) + 0.4)
    axes = figure.subplots(len(names), len(pictures), squeeze=False)
    for column, (problem, images) in enumerate(pictures.items()):
        axes[0, column].set_title(problem, fontsize=11)
        for ax, name in zip(axes[:, column], names, strict=True):
            strip = torch.cat([*F.pad(images[name][:, 0], (1, 1, 1, 1), value=torch.nan)], 1).numpy()
            ax.set_facecolor("#dfe8f3")
            ax.imshow(strip, cmap="Greys", vmin=0, vmax=0.5 if name.endswith("sd") else 1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if column == 0:
                ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    save(figure, path)


if __name__ == "__main__":
    main()
