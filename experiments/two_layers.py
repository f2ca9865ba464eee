"""Two layers of latents: the VAE and the IWAE of Burda, Grosse & Salakhutdinov (2015), https://arxiv.org/abs/1509.00519.

x - 200 - 200 - z1 (100) - 100 - 100 - z2 (50) and back, tanh, normals with a scale of their own from the network; MNIST
binarized anew at each batch, batches of 20, first weights as of Glorot & Bengio (2010), 3^i passes at a learning rate
of 1e-3 x 10^(-i/7). The published run has i = 0, ..., 7, which is 3,280 passes; here are the first stages, and log p(x)
after each of them: which of the two is ahead, and when. At its end the paper has -log p(x) of 85.01 (VAE) and 83.89
(IWAE) for k = 5, with 17 + 5 and 21 + 5 active units.

The paper's estimate is by importance samples from the guide, and low: the more so, the less the guide is like the
posterior, which IWAE wants less than the VAE does. Annealed importance sampling of both layers is the nearer one.

Adam has the settings of the authors' code (https://github.com/yburda/iwae): beta_1 = .99, and eps = 1e-4 for a gradient
that is summed over the batch, as it is here. Not as there: its second moments begin at 1, ours at 0, corrected for it;
its scales are exp of the network, ours softplus.

    python experiments/two_layers.py --data-root data
"""

from __future__ import annotations

import time
from argparse import Namespace
from functools import partial

import torch
from _common import Table, mean_and_error, options, random_rows, scores
from torch import nn

import pyrovae

DIMS = (100, 50)
ADAM = partial(torch.optim.Adam, betas=(0.99, 0.999), eps=1e-4)
NETWORKS = ["mlp(hidden=[200, 200], activation=tanh)", "mlp(hidden=[100, 100], activation=tanh)"]
ANNEALED = 13
"""Passes from which log p(x) is found by annealing too."""
BOUNDS = {"VAE": "elbo", "IWAE": "iwae"}


def main() -> None:
    parser = options(__doc__, BOUNDS)
    parser.add_argument("--k", type=int, nargs="+", default=[5], help="draws a step")
    parser.add_argument("--stages", type=int, default=3, help="3^i passes each, i = 0, 1, ...: 3 of them are 13 passes")
    parser.add_argument("--test-rows", type=int, default=1000, help="random test rows for log p(x)")
    parser.add_argument("--num-samples", type=int, default=1000, help="importance samples a test row")
    parser.add_argument("--ais-rows", type=int, default=100, help="the first so many of those, for annealing")
    arguments = parser.parse_args()
    data = pyrovae.datasets.load("mnist", root=arguments.data_root, binarize="dynamic", seed=arguments.seed)
    settings = {key: getattr(arguments, key) for key in ("train_rows", "test_rows", "num_samples", "ais_rows", "seed")}
    settings["train_rows"] = min(settings["train_rows"] or len(data.train), len(data.train))
    table = Table(arguments.out / "two_layers.csv", settings, arguments.restart)
    ends = [(3 ** (stage + 1) - 1) // 2 for stage in range(arguments.stages)]  # 1, 4, 13, 40, ... passes
    for k in arguments.k:
        for model in arguments.only or BOUNDS:
            if any(label(model, k, end) not in table for end in ends):
                train(table, data, model, k, ends, arguments)
    for k in arguments.k:
        for end in ends:
            vae, iwae = label("VAE", k, end), label("IWAE", k, end)
            if vae in table and iwae in table:
                for by in ["log_p", "ais"] if end >= ANNEALED else ["log_p"]:
                    ahead = mean_and_error(table.array(iwae, by) - table.array(vae, by))
                    table.rows[iwae] |= {f"{by}_ahead": ahead[0], f"{by}_ahead_standard_error": ahead[1]}
    table.rows = dict(sorted(table.rows.items(), key=lambda item: [item[1][key] for key in ("k", "passes", "model")]))
    table.write()
    columns = ["elbo", "log_p", "log_p_ahead", "log_p_ahead_standard_error", "ais", "ais_ahead",
               "ais_ahead_standard_error", "active_z1", "active_z2"]  # fmt: skip
    print(table.frame().set_index("name").reindex(columns=columns).round(2).to_string())


def label(model: str, k: int, passes: int) -> str:
    return f"{model}, k = {k}, {passes} passes"


def train(
    table: Table, data: pyrovae.datasets.Dataset, model: str, k: int, ends: list[int], arguments: Namespace
) -> None:
    """Train one of the two; a row of the table at the end of each stage, with log p(x) of each test row beside it."""
    x = data.test[random_rows(len(data.test), arguments.test_rows, arguments.seed)]
    stages = [stage for stage in range(arguments.stages) for _ in range(3**stage)]
    torch.manual_seed(arguments.seed)
    vae = pyrovae.VAE((1, 28, 28), DIMS, encoder=NETWORKS, decoder=NETWORKS)
    for layer in vae.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    begin = time.perf_counter()

    def after(vae: pyrovae.VAE, row: dict[str, float]) -> None:
        passes = row["epoch"]
        if passes not in ends:
            return
        minutes = (time.perf_counter() - begin) / 60
        pyrovae.save(vae, table.folder / f"{model}_{k}_{passes}")
        evaluation = pyrovae.evaluate(vae, x, num_samples=arguments.num_samples, progress=False)
        figures = scores(evaluation)
        figures |= {f"active_{site}": evaluation.summary()[f"active_units_{site}"] for site in vae.sites}
        arrays = {"log_p": evaluation.rows["log_marginal"].to_numpy()}
        if passes >= ANNEALED:
            annealed = pyrovae.ais(
                vae, x[: arguments.ais_rows], num_steps=200, num_chains=8, leapfrog=5, progress=False
            )
            arrays["ais"] = annealed.value.numpy()
            figures["ais"], figures["ais_standard_error"] = mean_and_error(annealed.value)
        name = label(model, k, passes)
        table.add(name, {"model": model, "k": k, "passes": passes, **figures, "minutes": minutes}, **arrays)
        print(f"{name}: log p(x) {figures['log_p']:.2f}, ELBO {figures['elbo']:.2f}, {minutes:.0f} min", flush=True)

    pyrovae.fit(
        vae, data.train[: arguments.train_rows], transform=data.transform, elbo=BOUNDS[model], num_particles=k,
        epochs=len(stages), batch_size=20, lr=1e-3, schedule=lambda epoch, epochs: 10 ** (-stages[epoch] / 7),
        seed=arguments.seed, optimizer=ADAM, callbacks=[after],
    )  # fmt: skip


if __name__ == "__main__":
    main()
