"""A VAE in the place of a spatial prior: HIV prevalence in the 63 districts of Zimbabwe, and what the sampler gains.

After Semenova et al. (2022), PriorVAE, https://doi.org/10.1098/rsif.2022.0094, and its notebook CAR_Zimbabwe:
effective survey counts y of n (PHIA 2016, adults of 15 to 49, both rounded), y ~ Binomial(n, p), logit p = b0 +
f / sqrt(tau), b0 ~ N(0, 1), tau ~ Gamma(6, 4). The field f has a proper CAR prior, N(0, (D - alpha A)^-1), alpha ~
U(.01, .999), where A says which districts touch and D counts their neighbours. NUTS, 1,000 + 2,000 steps a chain.
Only the line that draws f changes:

- ``CAR``: MultivariateNormal(precision_matrix=D - alpha A), as published;
- ``CAR, spectral``: the same density, not centred: f = D^-1/2 U (1 - alpha l)^-1/2 e with e ~ N(0, I), from the
  eigenvectors U and eigenvalues l of D^-1/2 A D^-1/2, which are computed once. It needs no Cholesky factor in a step;
- ``VAE``: `pyrovae.as_prior` of a VAE of 63-63-50-63-63 with ELU and noise of sd .05, as published, trained on fresh
  draws of f; ``VAE, wide``: the same with z as long as there are districts and hidden layers of 256.

``CAR`` and ``VAE`` are run in Pyro (``--pyro`` adds others), and all four in NumPyro, where it is installed,
with the decoder from `pyrovae.export_decoder`. Posteriors are compared with the CAR's in the same program. Effective
samples (bulk, ArviZ) of f / sqrt(tau), as published, and of logit p; per second of warm-up, draws and compilation,
where a second is one of processor time, so that a busy machine does not count. The figure is NumPyro's.
The data: zimbabwe/zwe2016phia.geojson, from https://github.com/elizavetasemenova/PriorVAE (data).

    python experiments/prior_vae.py --data-root data
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arviz as az
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from _common import RESULTS, save
from pyro.infer import MCMC
from torch import Tensor

import pyrovae
from pyrovae.plots.style import FIRST, QUIET, SECOND, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "zimbabwe/zwe2016phia.geojson"
ALPHA = (0.01, 0.999)
VAES = {"VAE": (50, 63), "VAE, wide": (63, 256)}
"""Length of z, and of the hidden layers."""
NOISE = 0.05
BATCH = 500
STEPS = 200
LR = 3e-3
Draw = Callable[[], Tensor]


@dataclass
class Districts:
    """Names, counts, outlines, and which districts touch."""

    names: list[str]
    y: np.ndarray
    n: np.ndarray
    outlines: list[list[np.ndarray]]
    adjacency: np.ndarray


def read(path: Path) -> Districts:
    """The districts of a GeoJSON file of the survey, its counts rounded as in the notebook.

    Raises:
        ValueError: where some districts are out of reach of the others, for which a CAR prior is not made.
    """
    features = json.loads(path.read_text())["features"]
    values = [feature["properties"] for feature in features]
    outlines = [list(rings(feature["geometry"])) for feature in features]
    adjacency = touching(outlines)
    if not connected(adjacency):
        raise ValueError(f"{path}: expected districts that are all joined, got some that are not")
    y, n = (np.array([round(value[key]) for value in values], dtype=np.float32) for key in ("y", "n_obs"))
    return Districts([value["area_name"] for value in values], y, n, outlines, adjacency)


def rings(geometry: dict[str, Any]) -> Iterator[np.ndarray]:
    """The rings of a polygon or of several, ``(points, 2)`` each."""
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    for polygon in polygons:
        for ring in polygon:
            yield np.asarray(ring)[:, :2]


def touching(outlines: list[list[np.ndarray]]) -> np.ndarray:
    """1 for two areas with a vertex in common (to 1e-6), otherwise 0: on this map the same as where shapes meet."""
    corners = [{tuple(point) for ring in area for point in np.round(ring, 6).tolist()} for area in outlines]
    return np.array([[float(a is not b and not a.isdisjoint(b)) for b in corners] for a in corners])


def connected(adjacency: np.ndarray) -> bool:
    """Whether the first area reaches all others."""
    seen = np.eye(len(adjacency))[0] > 0
    for _ in adjacency:
        seen |= adjacency[seen].any(0)
    return bool(seen.all())


class CAR:
    """The field's prior N(0, (D - alpha A)^-1), in both of its forms."""

    def __init__(self, adjacency: np.ndarray) -> None:
        degree = adjacency.sum(1)
        values, vectors = np.linalg.eigh(adjacency / np.sqrt(np.outer(degree, degree)))
        self.adjacency, self.degree = (torch.tensor(a, dtype=torch.float32) for a in (adjacency, degree))
        self.values = torch.tensor(values, dtype=torch.float32)
        # Row i over the square root of its number of neighbours.
        self.vectors = torch.tensor(vectors / np.sqrt(degree)[:, None], dtype=torch.float32)

    def precision(self, alpha: Tensor) -> Tensor:
        """D - alpha A."""
        return self.degree.diag() - alpha * self.adjacency

    def field(self, alpha: Tensor, noise: Tensor) -> Tensor:
        """A draw of the field ``(..., N)`` from standard normal noise of that shape, for alphas ``(..., 1)``."""
        return (noise * (1 - alpha * self.values).rsqrt()) @ self.vectors.T

    def covariance(self) -> np.ndarray:
        """The mean of (D - alpha A)^-1 over alpha ~ U(.01, .999)."""
        ends = np.linspace(*ALPHA, 100_001)[:, None]
        mean = (1 / (1 - (ends[1:] + ends[:-1]) / 2 * self.values.double().numpy())).mean(0)
        vectors = self.vectors.double().numpy()
        return (vectors * mean) @ vectors.T

    def centred(self) -> Tensor:
        """A draw in a Pyro model, as published."""
        alpha = pyro.sample("alpha", dist.Uniform(*ALPHA))
        zeros = torch.zeros(len(self.degree))
        return pyro.sample("f", dist.MultivariateNormal(zeros, precision_matrix=self.precision(alpha)))

    def spectral(self) -> Tensor:
        """The same, not centred."""
        alpha = pyro.sample("alpha", dist.Uniform(*ALPHA))
        return self.field(alpha, pyro.sample("e", dist.Normal(0.0, 1.0).expand([len(self.degree)]).to_event(1)))

    def batch(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """As many fresh draws as there are rows: the transform that the VAE is trained with."""
        low, high = ALPHA
        alpha = low + (high - low) * torch.rand(len(rows), 1, generator=generator)
        return self.field(alpha, torch.randn(rows.shape, generator=generator))


def model(draw: Draw, n: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The analysis: what it returns are f / sqrt(tau) and logit p."""
    b0 = pyro.sample("b0", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.Gamma(6.0, 4.0))
    effect = draw() / tau.sqrt()
    logit = b0 + effect
    pyro.sample("y", dist.Binomial(total_count=n, logits=logit).to_event(1), obs=y)
    return effect, logit


def train(car: CAR, size: int, width: int, epochs: int, seed: int) -> tuple[pyrovae.VAE, float]:
    """A VAE of the CAR's draws, never the same twice, and the seconds that it took."""
    torch.manual_seed(seed)
    count = len(car.degree)
    vae = pyrovae.VAE(
        (count,), size, likelihood=f"gaussian(scale={NOISE})", encoder=f"mlp(hidden=[{width}], activation=elu)",
        decoder=f"mlp(hidden=[{width}], activation=elu)",
    )  # fmt: skip
    start = time.process_time()
    pyrovae.fit(
        vae, torch.zeros(BATCH * STEPS, count), transform=car.batch, epochs=epochs, batch_size=BATCH, lr=LR,
        schedule="cosine", clip_norm=None, seed=seed, device="cpu",
    )  # fmt: skip
    return vae, time.process_time() - start


@torch.no_grad()
def judge(vae: pyrovae.VAE, car: CAR, seconds: float, seed: int, draws: int = 200_000) -> dict[str, float]:
    """How far the covariance of decoded draws of N(0, I) is from the CAR's, averaged over alpha."""
    torch.manual_seed(seed)
    decoded = vae.sample(draws, mean=True).double().numpy()
    truth, found = car.covariance(), np.cov(decoded.T)
    exact = car.batch(torch.zeros(decoded.shape), torch.Generator().manual_seed(seed)).double().numpy()
    ratio = np.sqrt(np.diag(found) / np.diag(truth))
    values, vectors = np.linalg.eigh(truth)
    last = vectors[:, : len(truth) // 4]
    off = ~np.eye(len(truth), dtype=bool)
    inner = lambda c: (c / np.sqrt(np.outer(np.diag(c), np.diag(c))))[off]  # noqa: E731
    return {
        "training_seconds": seconds,
        "sd_ratio_median": np.median(ratio), "sd_ratio_least": ratio.min(), "sd_ratio_most": ratio.max(),
        "correlations_rmse": np.sqrt(np.mean((inner(found) - inner(truth)) ** 2)),
        "covariance_error": np.linalg.norm(found - truth) / np.linalg.norm(truth),
        "covariance_error_of_exact_draws": np.linalg.norm(np.cov(exact.T) - truth) / np.linalg.norm(truth),
        "smoothest_variance_ratio": vectors[:, -1] @ found @ vectors[:, -1] / values[-1],
        "roughest_quarter_variance_ratio": np.trace(last.T @ found @ last) / np.trace(last.T @ truth @ last),
        "kurtosis": float(np.mean(kurtosis(decoded))), "kurtosis_of_car": float(np.mean(kurtosis(exact))),
    }  # fmt: skip


def kurtosis(draws: np.ndarray) -> np.ndarray:
    """The fourth moment over the squared second, of each column: 3 for a normal."""
    centred = draws - draws.mean(0)
    return (centred**4).mean(0) / (centred**2).mean(0) ** 2


def sample(draw: Draw, districts: Districts, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, float]:
    """f / sqrt(tau) and logit p ``(chains, draws, N)`` by NUTS in Pyro, compiled, and the seconds."""
    n, y = torch.from_numpy(districts.n), torch.from_numpy(districts.y)
    effects, logits, seconds = [], [], 0.0
    for chain in range(arguments.chains):
        pyro.set_rng_seed(arguments.seed + chain)
        start = time.process_time()
        mcmc = MCMC(pyrovae.CompiledNUTS(model), num_samples=arguments.draws, warmup_steps=arguments.warmup)
        mcmc.run(draw, n, y)
        seconds += time.process_time() - start
        sites = mcmc.get_samples()
        for values, row in zip((effects, logits), quantities(draw, n, sites), strict=True):
            values.append(row)
    return np.stack(effects), np.stack(logits), seconds


@torch.no_grad()
def quantities(draw: Draw, n: Tensor, sites: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """What the model returns at each of the draws of its sites."""
    rows = [
        pyro.poutine.condition(model, {name: values[i] for name, values in sites.items()})(draw, n)
        for i in range(len(sites["b0"]))
    ]
    effects, logits = (torch.stack(list(values)).double().numpy() for values in zip(*rows, strict=True))
    return effects, logits


def sample_numpyro(
    prior: CAR | Path, form: str, districts: Districts, arguments: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray, float]:
    """The same in NumPyro: with a CAR prior, or a decoder from the file that `pyrovae.export_decoder` wrote."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist
    from numpyro.infer import MCMC as NumPyroMCMC
    from numpyro.infer import NUTS as NumPyroNUTS

    count = len(districts.y)
    if isinstance(prior, CAR):
        values, vectors, degree, adjacency = (
            jnp.asarray(part.numpy()) for part in (prior.values, prior.vectors, prior.degree, prior.adjacency)
        )
    else:
        arrays = dict(np.load(prior))
        spec = json.loads(str(arrays.pop("spec")))
        arrays = {name: jnp.asarray(value) for name, value in arrays.items()}

    def draw() -> jax.Array:
        if not isinstance(prior, CAR):
            h = numpyro.sample("z", ndist.Normal(0, 1).expand([spec["latent_dim"]]).to_event(1))
            for layer in spec["layers"]:
                if layer["kind"] == "linear":
                    h = arrays[layer["weight"]] @ h + arrays[layer["bias"]]
                else:
                    h = jax.nn.elu(h, layer["alpha"])
            return h
        alpha = numpyro.sample("alpha", ndist.Uniform(*ALPHA))
        if form == "CAR":
            q = jnp.diag(degree) - alpha * adjacency
            return numpyro.sample("f", ndist.MultivariateNormal(jnp.zeros(count), precision_matrix=q))
        e = numpyro.sample("e", ndist.Normal(0, 1).expand([count]).to_event(1))
        return vectors @ (e / jnp.sqrt(1 - alpha * values))

    def analysis(n: jax.Array, y: jax.Array) -> None:
        b0 = numpyro.sample("b0", ndist.Normal(0, 1))
        tau = numpyro.sample("tau", ndist.Gamma(6, 4))
        effect = numpyro.deterministic("effect", draw() / jnp.sqrt(tau))
        logit = numpyro.deterministic("logit", b0 + effect)
        numpyro.sample("y", ndist.BinomialLogits(total_count=n, logits=logit).to_event(1), obs=y)

    effects, logits, seconds = [], [], 0.0
    for chain in range(arguments.chains):
        start = time.process_time()
        mcmc = NumPyroMCMC(NumPyroNUTS(analysis), num_warmup=arguments.warmup, num_samples=arguments.draws)
        mcmc.run(jax.random.PRNGKey(arguments.seed + chain), jnp.asarray(districts.n), jnp.asarray(districts.y))
        sites = {name: np.asarray(value, dtype=np.float64) for name, value in mcmc.get_samples().items()}
        seconds += time.process_time() - start
        effects.append(sites["effect"])
        logits.append(sites["logit"])
    return np.stack(effects), np.stack(logits), seconds


def ess(values: np.ndarray, method: str = "bulk") -> np.ndarray:
    """Effective samples of each column of ``(chains, draws, N)``."""
    return az.ess(az.convert_to_dataset(values), method=method)["x"].to_numpy()


def summary(effect: np.ndarray, logit: np.ndarray, seconds: float) -> dict[str, Any]:
    """Speed and convergence of a run, and the sd of the mean of f / sqrt(tau), which the intercept can make up for."""
    result: dict[str, Any] = {"seconds": seconds, "level_sd": effect.mean(-1).std()}
    for name, values in (("effect", effect), ("logit", logit)):
        found = ess(values)
        figures = {"mean": found.mean(), "median": np.median(found), "least": found.min()}
        result |= {f"{name}_ess_{key}": value for key, value in figures.items()}
        result |= {f"{name}_ess_{key}_per_second": value / seconds for key, value in figures.items()}
        # Of one chain, that of its halves.
        halves = np.concatenate(np.split(values[:, : values.shape[1] // 2 * 2], 2, axis=1))
        result[f"{name}_r_hat"] = float(az.rhat(az.convert_to_dataset(halves))["x"].max())
    return result


def report(run: tuple[np.ndarray, np.ndarray, float]) -> None:
    """Say what a run gave, as soon as it is over."""
    row = summary(*run)
    speeds = ", ".join(f"{key} {row[f'{key}_ess_median_per_second']:.1f}" for key in ("effect", "logit"))
    print(f"{row['seconds']:.0f} s; effective samples a second (median): {speeds}; R-hat {row['effect_r_hat']:.3f}")


def moments(logit: np.ndarray) -> dict[str, np.ndarray]:
    """Mean and sd of each district's prevalence, with their Monte Carlo errors."""
    p = 1 / (1 + np.exp(-logit))
    data = az.convert_to_dataset(p)
    errors = {name: az.mcse(data, method=name)["x"].to_numpy() for name in ("mean", "sd")}
    flat = p.reshape(-1, p.shape[-1])
    return {"mean": flat.mean(0), "sd": flat.std(0, ddof=1), "mean_error": errors["mean"], "sd_error": errors["sd"]}


def agreement(found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, float]:
    """How two posteriors agree over districts; differences of means in sds of the reference, of sds as ratios."""
    shift = (found["mean"] - truth["mean"]) / truth["sd"]
    shift_error = np.hypot(found["mean_error"], truth["mean_error"]) / truth["sd"]
    ratio = found["sd"] / truth["sd"]
    ratio_error = ratio * np.hypot(found["sd_error"] / found["sd"], truth["sd_error"] / truth["sd"])
    worst, far = np.abs(shift).argmax(), np.abs(ratio - 1).argmax()
    return {
        "means_correlation": np.corrcoef(found["mean"], truth["mean"])[0, 1],
        "sds_correlation": np.corrcoef(found["sd"], truth["sd"])[0, 1],
        "shift_rms": np.sqrt(np.mean(shift**2)), "shift_most": shift[worst], "shift_most_error": shift_error[worst],
        "sd_ratio_median": np.median(ratio), "sd_ratio_farthest": ratio[far], "sd_ratio_farthest_error":
        ratio_error[far],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, default="data", help=f"folder that holds {FILE}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for tables and figure")
    parser.add_argument("--epochs", type=int, default=200, help=f"of {STEPS} batches of {BATCH} fresh draws")
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=2000, help="of a chain")
    parser.add_argument("--chains", type=int, default=1, help="one after the other; their seconds add up")
    forms = ["CAR", *VAES, "CAR, spectral"]
    parser.add_argument("--pyro", nargs="+", choices=forms, default=forms[:2], help="priors that Pyro samples with")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    districts = read(arguments.data_root / FILE)
    car = CAR(districts.adjacency)
    arguments.out.mkdir(parents=True, exist_ok=True)

    vaes, checks = {}, []
    for name, (size, width) in VAES.items():
        vae, seconds = train(car, size, width, arguments.epochs, arguments.seed)
        checks.append({"prior": name, "latent_dim": size, "hidden": width, **judge(vae, car, seconds, arguments.seed)})
        vaes[name] = vae
    checks = pd.DataFrame(checks)
    checks.to_csv(arguments.out / "prior_vae_check.csv", index=False, float_format="%.4g")
    print(checks.round(3).T.to_string())

    priors: dict[str, Draw] = {"CAR": car.centred}
    for name, vae in vaes.items():
        field = pyrovae.as_prior(vae)
        priors[name] = lambda field=field: field("f")
    priors["CAR, spectral"] = car.spectral
    runs = {}
    for name, draw in priors.items():
        if name not in arguments.pyro:
            continue
        print(f"Pyro: {name}")
        runs["Pyro", name] = sample(draw, districts, arguments)
        report(runs["Pyro", name])
    if importlib.util.find_spec("numpyro") is None:
        print("NumPyro is not installed: its rows are left out")
    else:
        for name in priors:
            print(f"NumPyro: {name}")
            prior = car
            if name in vaes:
                prior = pyrovae.export_decoder(vaes[name], arguments.out / "prior_vae_decoder")
            runs["NumPyro", name] = sample_numpyro(prior, name, districts, arguments)
            report(runs["NumPyro", name])
            if isinstance(prior, Path):
                prior.unlink()

    posterior = {key: moments(logit) for key, (_, logit, _) in runs.items()}
    rows = []
    for (program, name), run in runs.items():
        row = {"program": program, "prior": name, **summary(*run)}
        row |= agreement(posterior[program, name], posterior[program, "CAR"])
        rows.append(row)
    table = pd.DataFrame(rows)
    for key in ("effect_ess_mean", "logit_ess_median"):
        base = table[table.prior == "CAR"].set_index("program")[f"{key}_per_second"]
        table[f"{key}_per_second_over_CAR"] = table[f"{key}_per_second"] / table.program.map(base)
    table.to_csv(arguments.out / "prior_vae.csv", index=False, float_format="%.4g")
    print(table.round(3).T.to_string())
    # Of the program with the most priors.
    program = table.program.value_counts().index[0]
    shown = {name: posterior[program, name] for name in priors if (program, name) in posterior}
    if {"CAR", *VAES} <= set(shown):
        draw_figure(districts, shown, arguments.out / "prior_vae.png")


def draw_figure(districts: Districts, posterior: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Maps of the posterior mean under two priors, and means and sds of the VAEs against the CAR's."""
    figure = new_figure(12, 3.4)
    one, two, means, sds = figure.subplots(1, 4, width_ratios=(1.15, 1.15, 1, 1))
    truth, names = posterior["CAR"], [name for name in posterior if name.startswith("VAE")]
    both = np.concatenate([100 * truth["mean"], 100 * posterior[names[0]]["mean"]])
    for ax, name in ((one, "CAR"), (two, names[0])):
        shade = map_of(ax, districts.outlines, 100 * posterior[name]["mean"], both.min(), both.max())
        ax.set_title(f"{name}: prevalence (%)", fontsize=10)
    bar = figure.colorbar(shade, ax=[one, two], shrink=0.75, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    for ax, key, title in ((means, "mean", "posterior mean (%)"), (sds, "sd", "posterior sd (%)")):
        values = np.concatenate([posterior[name][key] for name in ("CAR", *names)]) * 100
        ends = [values.min() - 0.04 * np.ptp(values), values.max() + 0.04 * np.ptp(values)]
        ax.plot(ends, ends, color=QUIET, linewidth=0.8)
        for name, color, marker in zip(names, (FIRST, SECOND), "os", strict=True):
            points = (100 * truth[key], 100 * posterior[name][key])
            ax.plot(*points, marker, color=color, markersize=3, alpha=0.7, markeredgewidth=0, label=name)
        ax.set(xlim=ends, ylim=ends, aspect="equal")
        ax.set_xlabel("CAR", fontsize=9)
        ax.set_title(title, fontsize=10)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    means.set_ylabel("VAE", fontsize=9)
    means.legend(frameon=False, fontsize=8)
    save(figure, path)


def map_of(ax: Axes, outlines: list[list[np.ndarray]], values: np.ndarray, low: float, high: float) -> Any:  # noqa: ANN401
    """Districts in the colour of their values."""
    from matplotlib.collections import PolyCollection

    owners = [i for i, area in enumerate(outlines) for _ in area]
    shapes = PolyCollection(
        [ring for area in outlines for ring in area], array=values[owners], cmap="viridis", edgecolors="white",
        linewidths=0.3,
    )  # fmt: skip
    shapes.set_clim(low, high)
    ax.add_collection(shapes)
    ax.autoscale()
    latitude = np.concatenate([ring[:, 1] for area in outlines for ring in area]).mean()
    ax.set_aspect(1 / np.cos(np.radians(latitude)))
    ax.set_axis_off()
    return shapes


if __name__ == "__main__":
    main()
