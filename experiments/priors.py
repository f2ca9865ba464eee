"""Every prior on one architecture and one budget: log p(x) of MNIST, and where the KL of each goes.

Dynamically binarized MNIST; encoder and decoder of two layers of 300 and z of length 40, as (with gates) in Tomczak &
Welling (2018), https://arxiv.org/abs/1705.07120, whose VampPrior beats N(0, I) there. The posterior is a normal,
carried to where the prior lives, wherever the prior allows one.

The mean KL is split (Hoffman & Johnson 2016, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf):

    E_n KL(q(z | x_n) || p(z)) = I(n; z) + KL(q(z) || p(z)),   q(z) = 1/M sum_m q(z | x_m),

into what z says of which row it is, and how far the prior is from the aggregate posterior. Over M rows the first is at
most log M, and of images nearly that. With the M test rows in q(z) the second term is exact for these rows, and for the
distribution that they were drawn from too large on average (KL is convex). With row n left out of q(z) for its own z it
is too small on average (Jensen's inequality). Both are reported, as a bracket.

    python experiments/priors.py --data-root data
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from _common import Table, dots, mean_and_error, name_rows, options, random_rows, save, scores
from pyro.distributions import TorchDistribution
from torch import Tensor

import pyrovae
from pyrovae.modes import evaluating, isolated
from pyrovae.plots.grid import centres, grid
from pyrovae.plots.style import FIRST, QUIET, SECOND, new_figure

CLASSES = 10
AT_ONCE = 20
"""Draws that are held against all rows at once: 20 x 10,000 x 40 numbers."""
PICTURES = 12
VALIDATION_ROWS = 2000
"""Enough to choose an epoch by; a VampPrior takes as long for ten thousand of them as for an epoch of training."""


class Member(NamedTuple):
    """A prior, and what goes with it."""

    prior: str
    posterior: str = "normal"
    latent_dim: int = 40
    elbo: str = "elbo"
    conditional: bool = False


BOARD = {
    "normal": Member("normal"),
    "vamp": Member("vamp(components=500)"),
    "normal_learned": Member("normal(learned=True)"),
    "normal_ard": Member("normal(learned=ard)"),
    "laplace": Member("laplace"),
    "student_t": Member("student_t"),
    "mixture_diagonal": Member("mixture"),
    "mixture_full": Member("mixture(covariance=full)"),
    "mixture_tied": Member("mixture(covariance=tied)"),
    "flow_maf": Member("flow(kind=maf)"),
    "hyperspherical": Member("hyperspherical", "power_spherical"),
    "power_spherical": Member("power_spherical", "power_spherical"),
    "logistic_normal": Member("logistic_normal"),
    "dirichlet": Member("dirichlet"),
    "gamma": Member("gamma"),
    "uniform": Member("uniform"),
    # Ten variables of four classes, relaxed; and a single one of ten, whose values are summed over at each step.
    "categorical_relaxed": Member("categorical(classes=4, temperature=0.5)", "relaxed_categorical(classes=4)"),
    "categorical_enumerated": Member("categorical", "categorical", latent_dim=10, elbo="enum_elbo"),
    # Given the digit's label. A Gaussian process over ten indicators has all of them for its inducing points.
    "conditional": Member("conditional", conditional=True),
    "gp": Member("gp(inducing=10)", conditional=True),
}


def main() -> None:
    parser = options(__doc__, BOARD)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--network", default="mlp(hidden=[300, 300])", help="of encoder and decoder")
    parser.add_argument("--test-rows", type=int, default=1000, help="random test rows for log p(x)")
    parser.add_argument("--num-samples", type=int, default=500, help="importance samples a test row")
    arguments = parser.parse_args()
    keys = ("network", "epochs", "train_rows", "test_rows", "num_samples", "seed")
    settings = {key: getattr(arguments, key) for key in keys}

    data = pyrovae.datasets.load("mnist", root=arguments.data_root, binarize="dynamic", seed=arguments.seed)
    settings["train_rows"] = min(settings["train_rows"] or len(data.train), len(data.train))
    table = Table(arguments.out / "priors.csv", settings, arguments.restart)
    for name in arguments.only or BOARD:
        if name not in table:
            print(f"{name}: {BOARD[name]}", flush=True)
            row, arrays = run(BOARD[name], data, arguments)
            table.add(name, row, **arrays)
            print(f"{name}: log p(x) {row['log_p']:.2f}, ELBO {row['elbo']:.2f}, {row['seconds']:.0f} s", flush=True)
    report(table, arguments)


def run(
    member: Member, data: pyrovae.datasets.Dataset, arguments: argparse.Namespace
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Train and evaluate: figures, and arrays of log p(x) of each row and pictures."""
    seed = arguments.seed
    vae = build(member, arguments.network, seed)
    train = slice(arguments.train_rows)
    judged = random_rows(len(data.validation), VALIDATION_ROWS, seed)
    history = pyrovae.fit(
        vae, data.train[train], indicators(data.train_labels[train], member), validation=data.validation[judged],
        validation_condition=indicators(data.validation_labels[judged], member), transform=data.transform,
        elbo=member.elbo, epochs=arguments.epochs, batch_size=256, lr=1e-3, seed=seed, device=arguments.device,
    )  # fmt: skip
    chosen = random_rows(len(data.test), arguments.test_rows, seed)
    condition = indicators(data.test_labels, member)
    evaluation = pyrovae.evaluate(
        vae, data.test[chosen], None if condition is None else condition[chosen], num_samples=arguments.num_samples,
        seed=seed,
    )  # fmt: skip
    parts = surgery(vae, data.test, condition, chosen, seed=seed)
    row = {"conditional_on_label": member.conditional, **scores(evaluation), "latent_dim": member.latent_dim}
    for key, values in parts.items():
        row[key], row[f"{key}_standard_error"] = mean_and_error(values)
    row |= {
        "best_epoch": history.attrs["best_epoch"],
        "seconds_an_epoch": history["seconds"].median(),
        "seconds": history["seconds"].sum(),
    }
    labels = torch.arange(PICTURES) % CLASSES
    with isolated(seed):
        pictures = vae.sample(PICTURES, indicators(labels, member), mean=True)
    pictures = (255 * pictures).round().byte().cpu().numpy()
    return row, {"log_p": evaluation.rows["log_marginal"].to_numpy(), "pictures": pictures}


def build(member: Member, network: str, seed: int) -> pyrovae.VAE:
    torch.manual_seed(seed)
    # The decoder knows nothing of the label, so that the prior alone is what differs.
    condition = {"condition_dim": CLASSES, "condition_on": ["encoder"]} if member.conditional else {}
    return pyrovae.VAE(
        (1, 28, 28), member.latent_dim, prior=member.prior, posterior=member.posterior, encoder=network,
        decoder=network, **condition,
    )  # fmt: skip


def indicators(labels: Tensor, member: Member) -> Tensor | None:
    """Labels as a conditional prior takes them."""
    return F.one_hot(labels, CLASSES).float() if member.conditional else None


def surgery(
    vae: pyrovae.VAE, x: Tensor, condition: Tensor | None, chosen: Tensor, *, draws: int = 4, seed: int = 0
) -> dict[str, np.ndarray]:
    """The split of the KL for each chosen row of ``x``, whose rows together are the aggregate posterior.

    Where there is a condition, of a row the aggregate is that of the rows with its condition.

    Returns:
        Averages over draws of z for each chosen row: information and kl_aggregate, which add up to the KL at these
        draws; and the two ``_left_out``, with the row itself left out of the aggregate.
    """
    with isolated(seed, validation=False), evaluating(vae):
        x, condition = vae.check(x), vae.check_condition(condition, len(x))
        everyone = _unbounded(vae, vae.encode(x, condition))
        parts = []
        for rows in chosen.split(AT_ONCE):
            c = None if condition is None else condition[rows]
            q, prior = vae.encode(x[rows], c), vae.prior(c, c)
            same = torch.ones(len(rows), len(x), dtype=torch.bool, device=x.device)
            if condition is not None:
                same = (condition[rows, None] == condition).all(-1)
            parts.append(sum(_split(vae, q, prior, everyone, rows.to(x.device), same) for _ in range(draws)) / draws)
        kl, inside, outside = torch.cat(parts, 1).double().cpu().numpy()
    return {
        "information": inside,
        "kl_aggregate": kl - inside,
        "information_left_out": outside,
        "kl_aggregate_left_out": kl - outside,
    }


def _split(
    vae: pyrovae.VAE,
    q: TorchDistribution,
    prior: TorchDistribution,
    everyone: TorchDistribution,
    rows: Tensor,
    same: Tensor,
) -> Tensor:
    """At one draw of z for each of B rows, log q(z | x_n) less log p(z), less log q(z), and less that without row n."""
    inner = _unbounded(vae, q)
    u = inner.sample()
    z = u
    for transform in q.transforms if q is not inner else ():
        z = transform(z)
    kl = q.log_prob(z) - prior.log_prob(z)
    own, all_rows = inner.log_prob(u), everyone.log_prob(u.unsqueeze(1)).masked_fill(~same, -torch.inf)
    others = all_rows.scatter(1, rows.unsqueeze(1), -torch.inf)
    count = same.sum(1)
    return torch.stack([kl, own - all_rows.logsumexp(1) + count.log(), own - others.logsumexp(1) + (count - 1).log()])


def _unbounded(vae: pyrovae.VAE, q: TorchDistribution) -> TorchDistribution:
    """The posterior before it was carried to the prior's support: a bijection leaves information as it is, and real
    vectors lose no digits where the support ends."""
    return q.base_dist if vae.posterior.carry else q


def report(table: Table, arguments: argparse.Namespace) -> None:
    """The table, the claim and the figures."""
    table.compare("normal")
    frame = table.frame().sort_values("log_p", ascending=False)
    columns = [
        "name", "log_p", "log_p_monte_carlo_error", "minus_normal", "minus_normal_standard_error", "elbo", "kl",
        "information", "kl_aggregate", "kl_aggregate_left_out", "active_units", "best_epoch", "seconds_an_epoch",
    ]  # fmt: skip
    print(frame[columns].round(2).to_string(index=False))
    if "normal" in table and "vamp" in table:
        gain, error = table.rows["vamp"]["minus_normal"], table.rows["vamp"]["minus_normal_standard_error"]
        outcome = "met" if gain > 1 else "missed"
        print(
            f"claim: vamp beats normal by more than 1 nat after {arguments.epochs} epochs each: {outcome}, "
            f"{gain:+.2f} +- {error:.2f} nats (paired over {arguments.test_rows} test rows)"
        )
    labels = [label(name) for name in frame["name"]]
    figure = new_figure(11, 0.3 * len(labels) + 2)
    axes = figure.subplots(1, 3, sharey=True)
    places = np.arange(len(labels))
    dots(axes[0], places, frame["elbo"], color=SECOND, marker="D", label="ELBO")
    dots(axes[0], places, frame["log_p"], frame["log_p_standard_error"], color=FIRST, label="log p(x)")
    axes[0].set_title(f"log p(x) of {arguments.test_rows:,} test rows", fontsize=10)
    axes[0].set_xlabel("nats a row, ± 2 standard errors over rows", fontsize=9)
    dots(axes[1], places, frame["minus_normal"], frame["minus_normal_standard_error"], color=FIRST)
    axes[1].set_title("log p(x) less that of the normal prior", fontsize=10)
    axes[1].set_xlabel("nats a row (a log scale beyond 2), ± 2 errors", fontsize=9)
    axes[1].set_xscale("symlog", linthresh=2)
    axes[2].hlines(places, frame["kl_aggregate_left_out"], frame["kl_aggregate"], color=FIRST, alpha=0.4, linewidth=4)
    dots(axes[2], places, frame["kl"], color=SECOND, marker="s", label="mean KL(q(z | x) || p(z))")
    dots(axes[2], places, frame["kl_aggregate"], color=FIRST, marker="v", label="KL(q(z) || p(z)) over the test rows")
    dots(axes[2], places, frame["kl_aggregate_left_out"], color=FIRST, marker="^", label="the same, own row left out")
    axes[2].set_title("The prior and the aggregate posterior q(z)", fontsize=10)
    axes[2].set_xlabel("nats", fontsize=9)
    for ax in axes[1:]:
        ax.axvline(0, color=QUIET, linewidth=1, zorder=0)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    name_rows(axes, labels)
    save(figure, table.path.with_suffix(".png"))

    pictures = torch.from_numpy(np.stack([table.array(name, "pictures") for name in frame["name"]])) / 255
    figure, ax = grid(pictures, "E[x | z] at draws of z from each prior, the best log p(x) on top", left=2.2)
    ax.set_yticks(*centres(pictures, 0, labels), fontsize=8)
    save(figure, table.path.with_name("priors_samples.png"))


def label(name: str) -> str:
    return name.replace("_", " ") + (", p(x | label)" if BOARD[name].conditional else "")


if __name__ == "__main__":
    main()
