"""Likelihoods of pixels, compared where they are densities over the same values; what a Bernoulli of grey ones hides.

a. Binary pixels (thresholded at one half): probabilities of 0 and 1.
b. Grey pixels as whole numbers k = 0 .. L-1 (digits: L = 17, MNIST: 256): probabilities of the same k, whether a
   likelihood is told k or k / (L - 1). Counts give some of their probability to numbers that no pixel has.
c. Grey pixels as continuous values: x' = (k + u) / L in (0, 1), with u uniform and drawn anew at each step, so that
   every likelihood of real, positive or bounded numbers is a density over the same x'. Since
   log P(k) = log of the integral of p(x') over the cell >= E_u[log p(x')] - D log L, that is a lower bound on the
   log-probability of the pixels (Theis, van den Oord & Bethge 2016, https://arxiv.org/abs/1511.01844), and c compares
   with b: bits/dim of c are upper bounds.
d. A Bernoulli trained on grey pixels of MNIST reports an "ELBO". Its decoder is a continuous Bernoulli's decoder whose
   normalising constant C was forgotten (Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845): the same
   weights are evaluated as what they are, and beside a model that was trained so.

One small network for all; a likelihood may show its data to the encoder in its own way (counts as log(1 + k), classes
as indicators), which is part of it.

    python experiments/likelihoods.py --data-root data
"""

from __future__ import annotations

import argparse
import math
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from _common import Table, dots, name_rows, options, random_rows, save, scores
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

import pyrovae
from pyrovae.distributions import ContinuousBernoulli
from pyrovae.modes import evaluating
from pyrovae.plots.style import FIRST, QUIET, SECOND, new_figure

EDGE = 1e-7
"""How near x' comes to 0 and 1, which float32 would round it to now and then."""


class Source(NamedTuple):
    """Grey pixels, their number of levels, and a model and a budget that suit them."""

    name: str
    levels: int
    latent_dim: int
    hidden: int
    batch_size: int


SOURCES = {
    "digits": Source("digits", 17, latent_dim=8, hidden=128, batch_size=64),
    "mnist": Source("mnist", 256, latent_dim=20, hidden=200, batch_size=256),
}
PANELS = {
    "a": ("bernoulli", "categorical(classes=2)", "ordinal(classes=2)", "discretised_logistic(levels=2)"),
    "b": (
        "discretised_logistic(levels=LEVELS)", "discretised_logistic_mixture(levels=LEVELS)",
        "categorical(classes=LEVELS)", "ordinal(classes=LEVELS)", "poisson", "zero_inflated_poisson",
        "negative_binomial(dispersion=network)", "zero_inflated_negative_binomial(dispersion=network)",
    ),
    "c": (
        "gaussian(scale=0.1)", "gaussian(scale=shared)", "gaussian(scale=per_dimension)", "gaussian(scale=network)",
        "gaussian(scale=optimal)", "laplace(scale=shared)", "laplace(scale=network)", "student_t(scale=network)",
        "log_normal(scale=network)", "gamma", "beta", "continuous_bernoulli",
    ),
}  # fmt: skip
TITLES = {
    "a": "binary pixels",
    "b": "grey pixels, probabilities",
    "c": "grey pixels, dequantised: upper bounds",
}
GREY = {
    "relaxed": 'Bernoulli on grey pixels, its "ELBO"',
    "the same decoder": "the same decoder, as continuous Bernoulli",
    "continuous_bernoulli": "trained as continuous Bernoulli",
}


class Member(NamedTuple):
    source: Source
    panel: str
    likelihood: str


def _board() -> dict[str, Member]:
    board = {}
    for source in SOURCES.values():
        for panel, likelihoods in PANELS.items():
            for likelihood in likelihoods:
                # 784 pixels of 256 logits each are a head of 40 million weights.
                if not (source.levels > 100 and likelihood.startswith(("categorical(classes=L", "ordinal(classes=L"))):
                    member = Member(source, panel, likelihood.replace("LEVELS", str(source.levels)))
                    board[f"{source.name} {panel} {member.likelihood}"] = member
    return board


BOARD = _board()


def main() -> None:
    parser = options(__doc__, SOURCES)
    parser.add_argument("--digits-epochs", type=int, default=100)
    parser.add_argument("--mnist-epochs", type=int, default=5)
    parser.add_argument("--test-rows", type=int, default=500, help="random test rows, at most")
    parser.add_argument("--num-samples", type=int, default=200, help="importance samples a test row")
    arguments = parser.parse_args()
    keys = ("digits_epochs", "mnist_epochs", "test_rows", "num_samples", "seed")
    settings = {key: getattr(arguments, key) for key in keys} | {"train_rows": arguments.train_rows or "all"}

    table = Table(arguments.out / "likelihoods.csv", settings, arguments.restart)
    sources = arguments.only or list(SOURCES)
    for name, member in BOARD.items():
        if member.source.name in sources and name not in table:
            row, log_p = run(member, arguments)
            table.add(name, row, log_p=log_p)
            print(f"{name}: {row['bits_per_dim']:.4f} bits/dim, {row['seconds']:.0f} s", flush=True)
    report(table)
    if "mnist" in sources:
        grey(Table(arguments.out / "likelihoods_grey.csv", settings, arguments.restart), arguments)


def load(source: Source, arguments: argparse.Namespace) -> tuple[list[Tensor], list[Tensor]]:
    """Training, validation and test pixels as whole numbers; for the last two, the place of each pixel in its cell."""
    root = {} if source.name == "digits" else {"root": arguments.data_root}
    data = pyrovae.datasets.load(source.name, **root)
    chosen = random_rows(len(data.test), arguments.test_rows, arguments.seed)
    judged = random_rows(len(data.validation), 2000, arguments.seed)
    parts = [data.train[: arguments.train_rows], data.validation[judged], data.test[chosen]]
    generator = torch.Generator().manual_seed(arguments.seed)
    return [(part * (source.levels - 1)).round() for part in parts], [
        torch.rand(part.shape, generator=generator) for part in parts[1:]
    ]


def run(member: Member, arguments: argparse.Namespace) -> tuple[dict[str, float], np.ndarray]:
    """Train and evaluate one likelihood: figures, and log p of the pixels of each test row."""
    source = member.source
    (train, validation, test), cells = load(source, arguments)
    transform, shift = None, 0.0
    if member.panel == "c":

        def transform(k: Tensor, generator: torch.Generator) -> Tensor:
            u = torch.rand(k.shape, generator=generator, device=generator.device).to(k.device)
            return dequantised(k, u, source.levels)

        validation, test = (dequantised(k, u, source.levels) for k, u in zip((validation, test), cells, strict=True))
        shift = -train[0].numel() * math.log(source.levels)
    elif member.panel == "a":
        train, validation, test = ((k > (source.levels - 1) / 2).float() for k in (train, validation, test))
    elif member.likelihood.startswith("discretised"):
        train, validation, test = (k / (source.levels - 1) for k in (train, validation, test))
    vae, history = fit(member.likelihood, train, validation, source, arguments, transform)
    evaluation = pyrovae.evaluate(vae, test, num_samples=arguments.num_samples, seed=arguments.seed)
    row = {
        "dataset": source.name,
        "panel": member.panel,
        "likelihood": member.likelihood,
        "is_bound": member.panel == "c",
    }
    row |= scores(evaluation)
    for key in ("log_p", "elbo", "reconstruction"):
        row[key] += shift
    bits = -train[0].numel() * math.log(2)
    row["bits_per_dim"] = row["log_p"] / bits
    row["bits_per_dim_standard_error"] = abs(row["log_p_standard_error"] / bits)
    row["best_epoch"], row["seconds"] = history.attrs["best_epoch"], history["seconds"].sum()
    return row, evaluation.rows["log_marginal"].to_numpy() + shift


def dequantised(k: Tensor, u: Tensor, levels: int) -> Tensor:
    """Whole numbers spread over their cells of (0, 1)."""
    return ((k + u) / levels).clamp(EDGE, 1 - EDGE)


def fit(
    likelihood: str,
    train: Tensor,
    validation: Tensor,
    source: Source,
    arguments: argparse.Namespace,
    transform: pyrovae.training.batches.Transform | None = None,
) -> tuple[pyrovae.VAE, pd.DataFrame]:
    """The model and its history."""
    vae = build(likelihood, train.shape[1:], source, arguments.seed)
    epochs = arguments.digits_epochs if source.name == "digits" else arguments.mnist_epochs
    history = pyrovae.fit(
        vae, train, validation=validation, transform=transform, epochs=epochs, batch_size=source.batch_size, lr=1e-3,
        seed=arguments.seed, device=arguments.device,
    )  # fmt: skip
    return vae, history


def build(likelihood: str, event_shape: torch.Size, source: Source, seed: int) -> pyrovae.VAE:
    network = f"mlp(hidden=[{source.hidden}, {source.hidden}])"
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a relaxed Bernoulli, which part d is about
        return pyrovae.VAE(event_shape, source.latent_dim, likelihood=likelihood, encoder=network, decoder=network)


def report(table: Table) -> None:
    """The table, and a figure of bits/dim."""
    frame = table.frame()
    columns = [
        "dataset", "panel", "likelihood", "bits_per_dim", "bits_per_dim_standard_error", "log_p", "elbo", "kl",
        "best_epoch", "seconds",
    ]  # fmt: skip
    frame = frame.sort_values(["dataset", "panel", "bits_per_dim"])
    print(frame[columns].round(3).to_string(index=False))
    sources = [name for name in SOURCES if name in set(frame["dataset"])]
    panels = [
        [frame[(frame["dataset"] == name) & ((frame["panel"] == "a") == binary)] for name in sources]
        for binary in (True, False)
    ]
    heights = [max(len(part) for part in line) + 2 for line in panels]
    figure = new_figure(5.5 * len(sources), 0.26 * sum(heights) + 1.2)
    axes = figure.subplots(2, len(sources), squeeze=False, height_ratios=heights)
    for line, parts, scale in zip(axes, panels, ("linear", "log"), strict=True):
        for ax, name, part in zip(line, sources, parts, strict=True):
            part = part.sort_values("bits_per_dim").reset_index()
            for panel, colour, marker in (("a", FIRST, "s"), ("b", FIRST, "o"), ("c", SECOND, "<")):
                some = part[part["panel"] == panel]
                # The legend takes each kind of dot once.
                text = TITLES[panel] if len(some) and name == sources[0] else None
                values, errors = some["bits_per_dim"], some["bits_per_dim_standard_error"]
                dots(ax, some.index, values, errors, color=colour, marker=marker, label=text)
            name_rows([ax], [label(text) for text in part["likelihood"]])
            ax.set_xscale(scale)
            if scale == "log":
                ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.xaxis.set_major_formatter("{x:g}")
                ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_title(f"{name}, {'binary' if scale == 'linear' else 'grey'}", fontsize=10)
            ax.set_xlabel("bits/dim, ± 2 standard errors over rows", fontsize=8)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    save(figure, table.path.with_suffix(".png"))


def label(likelihood: str) -> str:
    """A likelihood in words, without what all of its kind have in common here."""
    name, _, rest = likelihood.rstrip(")").partition("(")
    return name.replace("_", " ") + (
        f", {rest.replace('=', ' ').replace('_', ' ')}" if rest.startswith("scale") else ""
    )


def grey(table: Table, arguments: argparse.Namespace) -> None:
    """Part d."""
    source = SOURCES["mnist"]
    (train, validation, test), _ = load(source, arguments)
    train, validation, test = (k / (source.levels - 1) for k in (train, validation, test))
    if any(name not in table for name in GREY):
        relaxed, _ = fit("bernoulli(relaxed=True)", train, validation, source, arguments)
        trained, _ = fit("continuous_bernoulli", train, validation, source, arguments)
        same = build("continuous_bernoulli", train.shape[1:], source, arguments.seed).to(relaxed.like.device)
        same.load_state_dict(relaxed.state_dict())
        for name, vae in zip(GREY, (relaxed, same, trained), strict=True):
            evaluation = pyrovae.evaluate(vae, test, num_samples=arguments.num_samples, seed=arguments.seed)
            row = scores(evaluation) | {"about": GREY[name]}
            arrays = {"elbo": evaluation.rows["elbo"].to_numpy(), "constant": constant(vae, test)}
            if name == "relaxed":  # what bounds no log p(x) has none
                row |= {key: math.nan for key in row if key.startswith(("log_p", "share"))}
            table.add(name, row, **arrays)
    table.compare("relaxed", "elbo")
    columns = ["about", "elbo", "elbo_standard_error", "reconstruction", "kl", "log_p", "minus_relaxed"]
    print(table.frame()[columns].round(2).to_string(index=False))

    figure = new_figure(12, 3.8)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1.25, 1])
    mean = np.linspace(1e-4, 1 - 1e-4, 400)
    logit = torch.logit(torch.from_numpy(mean))
    log_c = (ContinuousBernoulli(logits=logit).log_prob(logit * 0) + torch.nn.functional.softplus(logit)).numpy()
    left.plot(mean, np.exp(-log_c), color=FIRST)
    left.axhline(1, color=QUIET, linestyle=":", label="a density")
    left.set(xlabel="λ", ylim=(0, 1.05))
    left.set_title(r"$\int_0^1 \lambda^x (1 - \lambda)^{1 - x} dx = 1 / C(\lambda)$", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    elbos = {name: table.array(name, "elbo") for name in GREY}
    bins = np.histogram_bin_edges(np.concatenate(list(elbos.values())), bins=60)
    for (name, values), colour in zip(elbos.items(), (QUIET, FIRST, SECOND), strict=True):
        middle.hist(values, bins=bins, color=colour, alpha=0.7, label=f"{GREY[name]}: mean {values.mean():.0f}")
    middle.set(xlabel="nats a row", ylabel="test rows")
    middle.set_title("ELBO of grey MNIST", fontsize=10)
    middle.set_ylim(top=1.5 * middle.get_ylim()[1])
    middle.legend(frameon=False, fontsize=7.5, loc="upper left")
    picture = right.imshow(table.array("relaxed", "constant"), cmap="viridis")
    figure.colorbar(picture, ax=right)
    right.set(xticks=[], yticks=[])
    right.set_title("Mean of log C(λ) left out at each pixel, nats", fontsize=10)
    for ax in (left, middle):
        ax.spines[["top", "right"]].set_visible(False)
    save(figure, table.path.with_suffix(".png"))


def constant(vae: pyrovae.VAE, x: Tensor) -> np.ndarray:
    """Mean over rows of log C at each pixel, at the posterior mean of z."""
    with evaluating(vae):
        p = vae.decode(vae.encode(x).mean).base_dist
        log_c = ContinuousBernoulli(logits=p.logits).log_prob(torch.zeros_like(p.logits))
        return (log_c + torch.nn.functional.softplus(p.logits)).mean(0).squeeze(0).cpu().numpy()


if __name__ == "__main__":
    main()
