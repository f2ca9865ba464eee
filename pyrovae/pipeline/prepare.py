"""From settings to data, conditions and a VAE."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, field

import torch
from torch.distributions import constraints

from pyrovae import datasets, likelihoods, registry
from pyrovae.config import Architecture, Data, Evaluating, Training
from pyrovae.datasets import Dataset, Schema
from pyrovae.modes import isolated
from pyrovae.vae import VAE

LIKELIHOODS = {
    str(constraints.boolean): "bernoulli",
    str(constraints.unit_interval): "continuous_bernoulli",
    str(constraints.real): "gaussian",
}


@dataclass(frozen=True)
class Run:
    """All settings of ``pyrovae fit``."""

    dataset: str
    """A name from `pyrovae list`, or a .npy, .npz, .csv or .parquet file."""
    out: str | None = None
    """Folder to make for the run; runs/NAME by default."""
    progress: bool = True
    """Show progress bars."""
    resume: bool = False
    """With --out: keep what it takes to go on, and go on with the run in that folder if it was broken off."""
    architecture: Architecture = field(default_factory=Architecture)
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    evaluating: Evaluating = field(default_factory=Evaluating)


def load_data(settings: Run, schema: Schema | None = None) -> Dataset:
    """The data of the settings, as their likelihood wants them: with a schema, standardized, or as they are.

    ``schema`` is that of a table of different types, where it is known already.
    """
    options = dataclasses.asdict(settings.data)
    share = options.pop("missing")
    del options["condition"], options["labels"]
    root, mode, kinds = (options.pop(key) for key in ("data_root", "binarize", "kinds"))
    name, arguments = registry.parse(settings.architecture.likelihood, "likelihood")
    if name == "tabular":
        if options["standardize"]:
            raise ValueError("standardize: tabular keeps the units of the table, and standardizes inside. Omit it.")
        options["schema"] = schema or (Schema(arguments["columns"]) if "columns" in arguments else kinds)
    elif kinds:
        raise ValueError(f"kinds: expected likelihood tabular, which has columns of different kinds, got {name}")
    if options["standardize"] is None:
        options["standardize"] = name == "auto" or _is_of_reals(settings.architecture.likelihood)
    seed = settings.training.seed
    data = datasets.load(settings.dataset, root=root, binarize=None if mode == "auto" else mode, seed=seed, **options)
    return datasets.take_away(data, share, seed)


def _is_of_reals(likelihood: str) -> bool:
    with warnings.catch_warnings():
        # It is made only to look at its support; when it is made for good it warns.
        warnings.simplefilter("ignore", UserWarning)
        return str(likelihoods.make(likelihood).support) == str(constraints.real)


def build(settings: Run, data: Dataset) -> VAE:
    """The VAE of the settings, initialised from the seed, for checked data."""
    parts = dataclasses.asdict(settings.architecture)
    sees, layers = parts.pop("sees"), parts.pop("layers")
    parts["latent_dim"] = [max(1, parts["latent_dim"] >> layer) for layer in range(layers)]
    # Tables of different types know missing cells themselves.
    parts["missing"] = sees if data.missing and data.schema is None else None
    if parts["likelihood"] == "auto":
        parts["likelihood"] = LIKELIHOODS[str(data.support)]
    if data.schema is not None:
        name, arguments = registry.parse(parts["likelihood"], "likelihood")
        parts["likelihood"] = {"name": name, **arguments, "columns": data.schema.to_list()}
    given, weight = conditions(data, settings)["train"], parts.pop("label_weight")
    width = 0 if given is None else given.shape[-1]
    if settings.data.labels is not None:
        width, parts["label_weight"] = 0, weight
        parts["label"] = "real" if data.train_labels.is_floating_point() else _classes(data)
    with isolated(settings.training.seed):
        vae = VAE(event_shape=data.event_shape, condition_dim=width, **parts)
    if data.transform is None:
        vae.check(data.train, columns=data.columns)
    return vae


def conditions(data: Dataset, settings: Run) -> dict[str, torch.Tensor | None]:
    """The condition of each split's rows, ``(N, C)``: indicators of classes, or numeric labels, standardized. Of a
    semi-supervised model, the labels ``(N,)`` that the training rows keep.

    Raises:
        ValueError: for a condition that the data do not have.
    """
    labels = {part: getattr(data, f"{part}_labels") for part in ("train", "validation", "test")}
    if settings.data.condition is None and settings.data.labels is None:
        return dict.fromkeys(labels)
    if settings.data.condition not in (None, "label", "labels"):
        raise ValueError(f"condition: expected labels, or none, got {settings.data.condition!r}")
    if labels["train"] is None:
        asked = "condition" if settings.data.labels is None else "labels"
        raise ValueError(f"{asked}: expected labels, and {data.name} has none. Name their column with --label.")
    if settings.data.labels is not None:
        return {**dict.fromkeys(labels), "train": _some(labels["train"], settings.data.labels, settings.training.seed)}
    if labels["train"].is_floating_point():
        loc, scale = labels["train"].mean(), labels["train"].std().clamp_min(torch.finfo(torch.float32).tiny)
        return {part: ((values - loc) / scale).float()[:, None] for part, values in labels.items()}
    return {part: torch.nn.functional.one_hot(values, _classes(data)).float() for part, values in labels.items()}


def _classes(data: Dataset) -> int:
    return 1 + max(int(getattr(data, f"{part}_labels").max()) for part in ("train", "validation", "test"))


def _some(labels: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """So many of the labels, at random, as many of each class as there can be; -1, or NaN of a number, for the rest."""
    if count > len(labels):
        raise ValueError(f"labels: expected at most the {len(labels)} of the training rows, got {count}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if not labels.is_floating_point():
        # The first of each class, then the second of each, and so on.
        shuffled = labels[order]
        seen = torch.nn.functional.one_hot(shuffled).cumsum(0).gather(1, shuffled[:, None])[:, 0]
        order = order[seen.argsort(stable=True)]
    none = torch.full_like(labels, torch.nan if labels.is_floating_point() else -1)
    return none.index_copy(0, order[:count], labels[order[:count]])


def shuffled_test(data: Dataset, settings: Run, rows: int | None = None) -> tuple[Dataset, torch.Tensor | None]:
    """Test rows in random order, so many of them, and their condition: those of static_mnist, say, are sorted by
    digit, and the first are all zeros."""
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(settings.training.seed))[:rows]
    labels = None if data.test_labels is None else data.test_labels[order]
    condition = conditions(data, settings)["test"]
    condition = None if condition is None else condition[order]
    factors = None if data.test_factors is None else data.test_factors.iloc[order.numpy()].reset_index(drop=True)
    return dataclasses.replace(data, test=data.test[order], test_labels=labels, test_factors=factors), condition
