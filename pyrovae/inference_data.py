"""Hand a trained VAE and its data to ArviZ. The only file that knows ArviZ's versions."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.checks import check_labels, count, trusted
from pyrovae.evaluation.importance import draws_at_once, no_marginal, rows_at_once
from pyrovae.evaluation.psis import k_hat
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import arviz
    import pandas as pd
    import xarray

Draws = dict[tuple[str, str], Tensor]
"""(group, variable) -> values."""
Variables = dict[str, tuple[tuple[str, ...], Tensor | np.ndarray]]
"""The variables of one group: name -> (dims, values)."""

DATA = ("x", "missing")
"""The sites of the model that are data, not latents."""
ATTRS = (
    ("log_likelihood", "x", {"long_name": "log p(x | z)", "units": "nats"}),
    ("sample_stats", "log_weight", {"long_name": "log p(x, z) - log q(z | x)", "units": "nats"}),
    ("sample_stats", "lp", {"long_name": "log p(x, z)", "units": "nats"}),
    ("sample_stats", "k_hat", {"long_name": "Pareto k-hat of the row's importance weights"}),
    ("sample_stats", "step_size", {"long_name": "step size", "units": "standard deviations"}),
)
EVENT_DIMS = {1: ("column",), 3: ("channel", "height", "width")}
LOO_WARNING = (
    "log p(x_n | z) with z of the row's own: az.loo or az.waic on it is the harmonic-mean estimator and is wrong, by "
    "hundreds of nats for images. Compare models by held-out log p(x_n) from importance sampling instead."
)


def to_inference_data(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    condition: Any = None,  # noqa: ANN401
    *,
    labels: Any = None,  # noqa: ANN401
    label_names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    num_samples: int = 100,
    seed: int = 0,
) -> arviz.InferenceData | xarray.DataTree:
    r"""Draws and densities of a VAE at rows ``x``, as ArviZ's ``InferenceData`` (0.x) or ``DataTree`` (1.x).

    Read it as ``idata["posterior"]["z"]`` on either. The groups, for :math:`z_{kn} \sim q(z \mid x_n)`:

    ====================  =============  ========================  =================================================
    group                 variable       dims                      value
    ====================  =============  ========================  =================================================
    posterior             z              chain, draw, row, latent  :math:`z_{kn}`
    posterior_predictive  x              chain, draw, row, event   a draw from :math:`p(x \mid z_{kn})`
    prior                 z              chain, draw, latent       a draw from p(z)
    prior_predictive      x              chain, draw, event        a draw from :math:`p(x \mid z)` at that z
    log_likelihood        x              chain, draw, row          :math:`\log p(x_n \mid z_{kn})`, nats
    sample_stats          log_weight     chain, draw, row          :math:`\log p(x_n, z_{kn}) - \log q(z_{kn}|x_n)`
    ..                    lp             chain, draw, row          :math:`\log p(x_n, z_{kn})`, nats
    ..                    k_hat          row                       Pareto shape of the row's weights; trusted to 0.7
    observed_data         x              row, event                the data
    constant_data         labels         row                       with ``label_name`` as a coordinate
    ..                    condition      row, condition_dim        where the VAE has one
    ====================  =============  ========================  =================================================

    Event dims are column for a table, (channel, height, width) for images and event_0, event_1, ... otherwise. A
    conditional VAE has dims (chain, draw, row, ...) in prior and prior_predictive too, because its x depends on the
    row's condition. Layered latents ``z1``, ``z2`` have a dim of their own each, ``z1_latent``. There is one chain,
    and its draws are independent of one another and come from the guide: ArviZ has no r-hat for it, and how good the
    guide is k-hat says (Yao et al. 2018, https://arxiv.org/abs/1802.02538). With a mechanism of missing cells,
    prior_predictive has what would be ``missing`` too, log_likelihood :math:`\log p(s_n \mid x_n)` under that name, at
    draws of the missing cells, and so have log_weight and lp.

    **Do not run** ``az.loo`` **on the log_likelihood**: with a z of its own for each row that is the harmonic-mean
    estimator, off by hundreds of nats (Neal, https://radfordneal.wordpress.com/2008/08/17/). Compare models by
    held-out log p(x_n) from `pyrovae.log_marginal`.

    The values are the model's own, in its dtype. Nothing of the user's moves: random state, param store, modes. The
    result takes ``num_samples * N * prod(event_shape)`` numbers in posterior_predictive: pass a few hundred rows.

    Args:
        vae: the model.
        x: data ``(N, *event_shape)``: tensor, array or data frame.
        condition: ``(N, condition_dim)``, or one row for all, for a conditional VAE.
        labels: ``(N,)``, of any kind; kept as they are.
        label_names: the name of each label, where the labels are integers 0, 1, 2, ...
        columns: names of the columns of a table; a data frame's own are taken without.
        num_samples: draws for each row, at least 2.
        seed: of the draws.

    Raises:
        ValueError: for data that the model does not take, fewer than 2 draws, or labels or names that do not fit
            the data.
        FloatingPointError: for a log-likelihood that is not finite, naming the row.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> idata = to_inference_data(vae, torch.randn(3, 4), num_samples=50)
    >>> idata["posterior"]["z"].shape
    (1, 50, 3, 2)
    """
    num_samples, seed = count(num_samples, "num_samples", 2), count(seed, "seed", 0)
    columns = _columns(x, columns, vae.event_shape)
    x = vae.check(x, columns)
    condition = vae.check_condition(condition, len(x))
    labels, row_names = check_labels(labels, label_names, len(x))
    coords: dict[str, Any] = {}
    if row_names is not None:
        coords["label_name"] = ("row", row_names)
    if columns is not None:
        coords["column"] = ("column", np.asarray(columns))
    with isolated(seed, validation=False), evaluating(vae), trusted():
        draws = _draws(vae, x, condition, num_samples)
    event = event_dims(x)
    groups = _groups(draws, event)
    weights = draws["sample_stats", "log_weight"]
    if no_marginal(vae):
        # Weights of rows that are no weights would pass for some.
        weights.fill_(torch.nan)
    groups["sample_stats"]["k_hat"] = (("row",), k_hat(weights))
    # A dim may not have the name of a variable with more than one dim: hence condition_dim.
    constants = {"labels": (("row",), labels), "condition": (("row", "condition_dim"), condition)}
    groups["observed_data"] = {"x": (("row", *event), x)}
    groups["constant_data"] = {name: variable for name, variable in constants.items() if variable[1] is not None}
    return assemble(groups, {"bound": "elbo", "num_samples": num_samples, "seed": seed}, coords)


def event_dims(x: Tensor) -> tuple[str, ...]:
    """The names of the dims of an event, of rows ``(N, *event_shape)``."""
    return EVENT_DIMS.get(x.ndim - 1, tuple(f"event_{i}" for i in range(x.ndim - 1)))


def latent_dim(site: str) -> str:
    """The name of the last dim of a latent site."""
    return "latent" if site == "z" else f"{site}_latent"


def assemble(
    groups: Mapping[str, Variables], attrs: Mapping[str, str | int], coords: Mapping[str, Any] | None = None
) -> arviz.InferenceData | xarray.DataTree:
    """Groups of variables in what the installed ArviZ works with; a group without any is left out.

    ``attrs`` are text and numbers, which netCDF can hold, beside which versions it all comes from.
    """
    datasets = {name: _dataset(variables, coords or {}) for name, variables in groups.items() if variables}
    for group, variable, about in ATTRS:
        if variable in datasets.get(group, ()):
            datasets[group][variable].attrs.update(about)
    if "log_likelihood" in datasets:
        datasets["log_likelihood"].attrs["warning"] = LOO_WARNING
    return _container(datasets, {**_versions(), **attrs})


def write_netcdf(idata: arviz.InferenceData | xarray.DataTree, path: str | os.PathLike[str]) -> Path:
    """Write what `to_inference_data` returns to a netCDF file, which ``arviz.from_netcdf`` of either version opens.

    The file appears under its name only when it is whole. Returns its path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        idata.to_netcdf(str(part), engine="h5netcdf", **_compression(idata))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _compression(idata: arviz.InferenceData | xarray.DataTree) -> dict[str, Any]:
    """Arguments of ``to_netcdf`` that compress numbers: an InferenceData does so unasked, a DataTree does not."""
    if not hasattr(idata, "subtree"):
        return {}
    numbers = {
        node.path: [name for name, variable in node.to_dataset(inherit=False).variables.items() if _numeric(variable)]
        for node in idata.subtree
    }
    return {"encoding": {path: {name: {"zlib": True} for name in names} for path, names in numbers.items()}}


def _numeric(variable: xarray.Variable) -> bool:
    return variable.dtype.kind in "biuf" and variable.ndim > 0


# What the user handed in


def _columns(x: object, columns: Sequence[str] | None, event_shape: torch.Size) -> list[str] | None:
    """Column names: those given, or a data frame's own, or None."""
    if columns is None:
        own = getattr(x, "columns", ())
        # A frame of another width is for the check of x to report.
        return [str(column) for column in own] if event_shape == (len(own),) else None
    if event_shape != (len(columns),):
        raise ValueError(f"columns: expected one name for each column of {tuple(event_shape)}, got {len(columns)}")
    return [str(column) for column in columns]


# Draws: generic in the model, by traces of it


def _draws(vae: VAE, x: Tensor, condition: Tensor | None, num_samples: int) -> Draws:
    """Every draw and log-density, on the CPU: ``(num_samples, N, ...)``, or ``(num_samples, ...)`` for a prior that
    has no rows."""
    batches = []
    for rows, part, c in ordered(x, condition, rows_at_once(vae, len(x), num_samples, draws_at_once(vae, None))):
        with pyro.plate("particles", num_samples, dim=-2):
            draws = _posterior(vae, part, c, rows.start)
            if condition is not None:
                draws |= _prior(vae, c, len(part))
        batches.append({key: value.cpu() for key, value in draws.items()})
    draws = {key: torch.cat([batch[key] for batch in batches], 1) for key in batches[0]}
    if condition is None:
        draws |= {key: value.cpu() for key, value in _prior(vae, None, num_samples).items()}
    return draws


def _posterior(vae: VAE, x: Tensor, condition: Tensor | None, first: int) -> Draws:
    """Latents from the guide, draws of x at them, and log-densities, for a batch that begins at row ``first``."""
    guide = poutine.trace(vae.guide).get_trace(x, condition)
    model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x, condition)
    guide.compute_log_prob()
    model.compute_log_prob()
    log_q, log_p = (sum(site["log_prob"] for site in _sites(trace).values()) for trace in (guide, model))
    site = model.nodes["x"]
    # A likelihood may leave out the particles, if its decoder does.
    shape = torch.broadcast_shapes(log_q.shape, log_p.shape)
    log_likelihood = site["log_prob"].expand(shape)
    wrong = ~torch.isfinite(log_likelihood).all(0)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise FloatingPointError(
            f"x: expected a finite log p(x | z), got {log_likelihood[:, row].min().item():g} at row {first + row}: the "
            "model's weights are not finite or its density overflows. Look at that row, or train with a lower lr."
        )
    found = {
        **_latents(guide, "posterior"),
        ("posterior_predictive", "x"): site["fn"].expand(shape).sample(),
        ("log_likelihood", "x"): log_likelihood,
        ("sample_stats", "log_weight"): (log_p - log_q).expand(shape),
        ("sample_stats", "lp"): log_p.expand(shape),
    }
    if vae.mechanism is not None:
        found["log_likelihood", "missing"] = model.nodes["missing"]["log_prob"].expand(shape)
    return found


def _prior(vae: VAE, condition: Tensor | None, size: int) -> Draws:
    """Latents and x from the model."""
    trace = poutine.trace(vae.model).get_trace(None, condition, size=size)
    predicted = {("prior_predictive", name): trace.nodes[name]["value"] for name in DATA if name in trace}
    return {**_latents(trace, "prior"), **predicted}


def _sites(trace: Trace) -> dict[str, Any]:
    """The sample sites of a trace, without its plates."""
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    return {name: site for name, site in sites.items() if not site_is_subsample(site)}


def _latents(trace: Trace, group: str) -> Draws:
    """The value of each site that is no data."""
    return {(group, name): site["value"] for name, site in _sites(trace).items() if name not in DATA}


# Groups: names for the axes


def _groups(draws: Draws, event: tuple[str, ...]) -> dict[str, Variables]:
    """Draws under their groups, with a chain in front and the name of each dim."""
    groups: dict[str, Variables] = {}
    for (group, name), values in draws.items():
        last = event if group.endswith("predictive") else ()
        if group in ("posterior", "prior"):
            last = (latent_dim(name),)
        rows = ("row",) if values.ndim > 1 + len(last) else ()
        groups.setdefault(group, {})[name] = (("chain", "draw", *rows, *last), values[None])
    return groups


def _dataset(variables: Variables, coords: Mapping[str, Any]) -> xarray.Dataset:
    """An xarray Dataset; a dim without a coordinate of its own counts from 0."""
    import xarray

    arrays = {name: (dims, _array(values)) for name, (dims, values) in variables.items()}
    sizes = {dim: size for dims, values in arrays.values() for dim, size in zip(dims, values.shape, strict=True)}
    counted = {dim: np.arange(size) for dim, size in sizes.items()}
    return xarray.Dataset(arrays, counted | {name: c for name, c in coords.items() if c[0] in sizes})


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    # NumPy has no bfloat16 and netCDF no float16; float32 holds both without rounding.
    half = values.dtype in (torch.float16, torch.bfloat16)
    return (values.float() if half else values).numpy(force=True)


def _versions() -> dict[str, str]:
    """Where it all comes from."""
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "inference_library": "pyrovae",
        "inference_library_version": _version("pyrovae"),
        "pyro_version": pyro.__version__,
        "torch_version": str(torch.__version__),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _container(
    datasets: Mapping[str, xarray.Dataset], attrs: Mapping[str, Any]
) -> arviz.InferenceData | xarray.DataTree:
    """The groups in what the installed ArviZ works with."""
    import arviz
    import xarray

    # ArviZ 1.x answers to the old name too, with a warning, so hasattr would not tell.
    inference_data = vars(arviz).get("InferenceData")
    if inference_data is not None:
        return inference_data(attrs=attrs, **datasets)
    return xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=attrs), **datasets})


def compare_pointwise(values: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """``arviz.compare`` of models by log p(x_n) of rows that none of them has seen, name -> ``(N,)``.

    ArviZ exponentiates these numbers for the weights, which underflows for images. Differences and weights depend only
    on how much each is below the best of the row, so that it is given that, and the sums are put in afterwards.

    Returns:
        A DataFrame, the best first: rank, elpd (the sum over rows), se, elpd_diff (to the best), dse, weight.
    """
    import arviz
    import pandas as pd
    import xarray

    best = np.max(list(values.values()), axis=0)
    given = {}
    for name, each in values.items():
        below = xarray.DataArray(each - best, dims="row")
        count, total = len(each), float(below.sum())
        error = math.sqrt(count) * float(below.std())
        if arviz.__version__.startswith("0."):
            names = ["elpd_loo", "se", "p_loo", "n_samples", "n_data_points", "warning", "loo_i", "scale"]
            given[name] = arviz.ELPDData([total, error, 0.0, 1, count, False, below, "log"], index=names)
        else:
            from arviz_stats.utils import ELPDData

            given[name] = ELPDData(
                elpd=total, se=error, p=0.0, n_samples=1, n_data_points=count, scale="log", warning=False,
                good_k=math.inf, elpd_i=below,
            )  # fmt: skip
    options = {} if arviz.__version__.startswith("0.") else {"round_to": "none"}
    with warnings.catch_warnings():
        # ArviZ 0.23 asks pandas 3 for what pandas 4 will not do.
        warnings.simplefilter("ignore", DeprecationWarning)
        found = arviz.compare(given, method="stacking", **options)
    table = pd.DataFrame(index=found.index)
    table["rank"] = found["rank"]
    table["elpd"] = [float(values[name].sum()) for name in found.index]
    table["se"] = [math.sqrt(len(best)) * float(values[name].std()) for name in found.index]
    table["elpd_diff"] = -found["elpd_diff"].abs()
    table["dse"], table["weight"] = found["dse"], found["weight"]
    return table.rename_axis("model")
