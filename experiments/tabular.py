"""Missing cells of a table of mixed types: a tabular VAE against mean and mode and against scikit-learn's imputer.

The Adult table of HI-VAE (Nazabal et al. 2020, https://arxiv.org/abs/1807.03653) with its mask of 20% of the cells, in
three files of https://github.com/probabilistic-learning/HI-VAE: data.csv, data_types.csv and Missing20_1.csv. They are
looked for in the folder `adult` of --data-root, in lower case.

    python experiments/tabular.py --data-root data
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import pyrovae
from pyrovae.datasets import Column, Schema
from pyrovae.evaluation.impute import impute
from pyrovae.likelihoods import Tabular

RESULTS = Path(__file__).parent / "results"
NAMES = (
    "age", "workclass", "fnlwgt", "education", "marital status", "occupation", "relationship", "race", "sex",
    "capital gain", "capital loss", "hours",
)  # fmt: skip
KINDS = {"count": "count", "pos": "positive", "cat": "categorical", "ordinal": "ordinal"}
METHODS = ("mean, median, mode", "IterativeImputer", "tabular VAE")


def read(root: Path) -> tuple[Schema, np.ndarray, np.ndarray]:
    """The schema, the table ``(N, 12)`` with codes from 0 for categories, and which of its cells are masked."""
    folder = root / "adult"
    if not (folder / "data.csv").is_file():
        raise SystemExit(f"{folder}/data.csv: no such file. See the head of {__file__} for where it is from.")
    values = pd.read_csv(folder / "data.csv", header=None).to_numpy(float)
    types = pd.read_csv(folder / "data_types.csv")
    columns = []
    for i, (name, kind) in enumerate(zip(NAMES, types["type"], strict=True)):
        kind = KINDS[kind]
        if kind == "positive" and np.nanmin(values[:, i]) <= 0:
            kind = "count"  # capital gain and loss: whole dollars, and most have none
        labels = range(1, 1 + int(types["nclass"][i])) if kind in ("categorical", "ordinal") else ()
        columns.append(Column(name, kind, tuple(labels)))
    schema = Schema(columns)
    x = schema.encode(pd.DataFrame(values, columns=NAMES))
    masked = np.zeros(x.shape, dtype=bool)
    row, column = pd.read_csv(folder / "missing20_1.csv", header=None).to_numpy().T - 1
    masked[row, column] = True
    return schema, x, masked


# The imputers: from a table with NaN in the missing cells to one without


def by_column(schema: Schema, x: np.ndarray, seed: int) -> np.ndarray:
    """The mean of numbers, the median of ordered categories, the mode of the others."""
    guess = np.nanmean(x, 0)
    for i, column in enumerate(schema):
        if column.kind == "ordinal":
            guess[i] = np.floor(np.nanmedian(x[:, i]))
        elif column.kind == "categorical":
            guess[i] = np.bincount(x[~np.isnan(x[:, i]), i].astype(int)).argmax()
    return np.where(np.isnan(x), guess, x)


def by_regression(schema: Schema, x: np.ndarray, seed: int) -> np.ndarray:
    """scikit-learn's IterativeImputer on the codes as numbers, rounded to a category."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - importing it allows the next
    from sklearn.impute import IterativeImputer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        filled = IterativeImputer(max_iter=20, random_state=seed, imputation_order="random").fit_transform(x)
    for i, column in enumerate(schema):
        if column.categories:
            filled[:, i] = filled[:, i].round().clip(0, len(column.categories) - 1)
    return np.where(np.isnan(x), filled, x)


def by_vae(schema: Schema, x: np.ndarray, seed: int, epochs: int, num_samples: int, device: str) -> np.ndarray:
    """A VAE with the tabular likelihood, trained on the same table."""
    torch.manual_seed(seed)
    network = "mlp(hidden=[128, 128])"
    vae = pyrovae.VAE((len(schema),), 10, likelihood=Tabular(schema), encoder=network, decoder=network)
    rows = torch.tensor(x, dtype=torch.float32)
    pyrovae.fit(vae, rows, epochs=epochs, batch_size=512, lr=2e-3, schedule="cosine", seed=seed, device=device)
    return impute(vae, rows, num_samples=num_samples, seed=seed).cpu().double().numpy()


# The errors


def errors(schema: Schema, x: np.ndarray, filled: np.ndarray, masked: np.ndarray) -> list[float]:
    """HI-VAE's error of each column over its masked cells: of numbers the root mean squared error over the range of the
    column, of categories the share that is wrong, of ordered ones the mean displacement over the number of them."""
    result = []
    for i, column in enumerate(schema):
        # A few cells that are masked are not in the table either.
        there = masked[:, i] & ~np.isnan(x[:, i])
        difference = filled[there, i] - x[there, i]
        if column.kind == "categorical":
            result.append((difference != 0).mean())
        elif column.kind == "ordinal":
            result.append(np.abs(difference).mean() / len(column.categories))
        else:
            result.append(np.sqrt(np.square(difference).mean()) / np.ptp(x[~np.isnan(x[:, i]), i]))
    return result


def summary(schema: Schema, found: dict[str, list[list[float]]]) -> pd.DataFrame:
    """Mean and standard deviation over seeds (the mask is the same), of each column, of each kind and of all."""
    groups = {column.name: [i] for i, column in enumerate(schema)}
    for kind in dict.fromkeys(column.kind for column in schema):
        groups[f"all {kind}"] = [i for i, column in enumerate(schema) if column.kind == kind]
    groups["all"] = list(range(len(schema)))
    kinds = {column.name: column.kind for column in schema}
    rows = []
    for name, members in groups.items():
        for method, runs in found.items():
            values = np.array(runs)[:, members].mean(1)
            row = {"column": name, "kind": kinds.get(name, ""), "method": method, "error": values.mean()}
            rows.append(row | {"sd": values.std(ddof=1), "seeds": len(values)})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Errors relative to those of mean, median and mode."""
    import matplotlib.pyplot as plt

    error, sd = (table.pivot(index="column", columns="method", values=value) for value in ("error", "sd"))
    names = [name for name in table["column"].unique() if not name.startswith("all ")]
    base = error[METHODS[0]]
    figure, ax = plt.subplots(figsize=(7.5, 5), layout="constrained")
    places = np.arange(len(names))
    for shift, method, colour in ((-0.19, METHODS[1], "#8c8c8c"), (0.19, METHODS[2], "#1f5fa8")):
        ratio, spread = (values[method][names] / base[names] for values in (error, sd))
        ax.barh(places + shift, ratio, 0.36, xerr=spread, color=colour, label=method, error_kw={"linewidth": 1})
    ax.axvline(1, color="black", linewidth=1)
    kinds = table.drop_duplicates("column").set_index("column")["kind"]
    ax.set_yticks(places, [f"{name} ({kinds[name]})" if kinds[name] else "mean of the errors" for name in names])
    ax.invert_yaxis()
    ax.set_xlabel("error of the imputed cells, relative to that of mean, median and mode (line)")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="folder that holds adult/")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--num-samples", type=int, default=50, help="importance samples a row")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    schema, x, masked = read(Path(options.data_root))
    holes = np.where(masked, np.nan, x)
    imputers: dict[str, Callable[[int], np.ndarray]] = {
        METHODS[0]: lambda seed: by_column(schema, holes, seed),
        METHODS[1]: lambda seed: by_regression(schema, holes, seed),
        METHODS[2]: lambda seed: by_vae(schema, holes, seed, options.epochs, options.num_samples, options.device),
    }
    found: dict[str, list[list[float]]] = {}
    for method, imputer in imputers.items():
        begin = time.perf_counter()
        found[method] = [errors(schema, x, imputer(seed), masked) for seed in range(options.seeds)]
        print(f"{method}: {(time.perf_counter() - begin) / options.seeds:.0f} seconds a seed")
    table = summary(schema, found)
    RESULTS.mkdir(exist_ok=True)
    table.round(5).to_csv(RESULTS / "tabular.csv", index=False)
    draw(table, RESULTS / "tabular.png")
    print(table.pivot(index="column", columns="method", values="error").loc[table["column"].unique()].round(4))


if __name__ == "__main__":
    main()
