"""What all tests share: clean global state, small models, and a VAE whose every number is known in closed form."""

import csv
import gc
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro
import pytest
import torch
from torch import nn

from pyrovae import VAE, likelihoods
from pyrovae.datasets import LinearGaussian
from pyrovae.distributions import inverse_scale
from pyrovae.training import traced

TRIPLES = Path(__file__).parent / "results" / "triples.csv"

if os.environ.get("PYTEST_XDIST_WORKER"):
    torch.set_num_threads(1)


if not torch.accelerator.is_available():
    # As `pyrovae.modes.reseed`, which says why: tests begin with a seed, and draw from many.
    torch.manual_seed = torch.default_generator.manual_seed


def pytest_configure(config):
    """As many threads as processes: workers of xdist, and what tests start, take one each."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection():
    """Thousands of tests are made, none of them garbage, which Python would look for among all of them each time."""
    gc.disable()


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter):
    """Write what the slow run of all triples found: a row for each prior and posterior."""
    pairs = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if "triple" in (found := dict(report.user_properties)) and report.when == "call":
                pairs.setdefault(tuple(found["triple"][:2]), []).append((found, outcome == "passed"))
    if not pairs:
        return
    TRIPLES.parent.mkdir(exist_ok=True)
    with TRIPLES.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["prior", "posterior", "likelihoods", "passed", "rose", "failed"])
        for pair, rows in sorted(pairs.items()):
            failed = [found["triple"][2] for found, passed in rows if not passed]
            rose = sum(found.get("rose", False) for found, _ in rows)
            writer.writerow([*pair, len(rows), len(rows) - len(failed), rose, "; ".join(failed)])


@pytest.fixture(autouse=True)
def clean():
    """Each test starts from an empty param store, seed 0 and Pyro's checks on, and leaves all as it was."""
    store, dtype = pyro.get_param_store(), torch.get_default_dtype()
    flags = torch.distributions.Distribution._validate_args
    numpy_state = np.random.get_state()
    with store.scope(), torch.random.fork_rng(), pyro.validation_enabled(True):
        store.clear()
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(dtype)
    torch.distributions.Distribution.set_default_validate_args(flags)
    np.random.set_state(numpy_state)


@pytest.fixture
def as_compiled(monkeypatch):
    """Graphs become machine code, as they do without this; they are kept in this list."""
    made, inductor = [], traced.compiled

    def compiled(graph, inputs, **options):
        made.append(graph)
        return inductor(graph, inputs, **options)

    monkeypatch.setattr(traced, "compiled", compiled)
    return made


@pytest.fixture
def as_traced(monkeypatch):
    """Graphs are run as they were traced, operation by operation, in place of machine code, which takes ten seconds;
    they are kept in this list."""
    made = []

    def compiled(graph, inputs, **options):
        made.append(graph)
        return graph

    monkeypatch.setattr(traced, "compiled", compiled)
    return made


@pytest.fixture
def coarse_figures(monkeypatch):
    """Figures are drawn once, in few pixels, without layout and axes, which take most of the time of a small run.

    tests/test_plots.py looks at how figures are, and runs in tests/test_cli.py draw them in full.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def coarsely(figure, path, **options):
        figure.set_layout_engine("none")
        figure.set_dpi(20)
        for ax in figure.axes:
            ax.set_axis_off()
            # At a height of its own: one that is found looks at all that lies below.
            ax.set_title(ax.get_title(), y=1)
        FigureCanvasAgg(figure).print_png(path)

    monkeypatch.setattr(Figure, "savefig", coarsely)


@pytest.fixture
def tiny():
    """Makes a small Gaussian VAE of 3 columns and 2 latent dimensions, the same at each call."""

    def make(event_shape=(3,), latent_dim=2, seed=0, likelihood="gaussian(scale=1.0)", **arguments):
        torch.manual_seed(seed)
        arguments = {"encoder": "mlp(hidden=[8])", "decoder": "mlp(hidden=[8])", **arguments}
        return VAE(event_shape, latent_dim, likelihood=likelihood, **arguments)

    return make


@pytest.fixture
def linear():
    """Makes a linear-Gaussian VAE, its closed forms and rows of data.

    With ``shift=0`` and ``stretch=1`` its guide is the exact posterior. Otherwise its mean is moved by ``shift``
    and its sd multiplied by ``stretch``; `loc` and `covariance` are those of the guide either way. Columns of the
    weight are at right angles, so that latents are independent in the posterior, unless one ``(d, k)`` is given: then
    the guide is the product of its marginals.
    """

    def make(
        n=20, d=6, k=2, *, shift=0.0, stretch=1.0, scale=0.5, dtype=torch.float64, event_shape=None, likelihood=None,
        weight=None,
    ):  # fmt: skip
        truth = LinearGaussian.random(d, k, scale=scale, seed=3)
        if weight is not None:
            truth = LinearGaussian(weight, truth.bias, truth.scale)
        x = truth.sample(n, seed=4)
        mean, covariance = truth.posterior(x)
        slope = covariance @ truth.weight.T / truth.scale**2
        sd = stretch * covariance.diagonal().sqrt()
        shape = event_shape or (d,)
        vae = VAE(
            shape,
            k,
            likelihood=likelihood or likelihoods.Gaussian(scale=scale),
            encoder=nn.Identity(),
            decoder=nn.Identity(),
        ).double()
        with torch.no_grad():
            vae.likelihood.head.weight.copy_(truth.weight)
            vae.likelihood.head.bias.copy_(truth.bias)
            raw = inverse_scale(sd, vae.posterior.piece.floor)
            vae.posterior.head.weight.copy_(torch.cat([slope, torch.zeros_like(slope)]))
            vae.posterior.head.bias.copy_(torch.cat([shift - slope @ truth.bias, raw]))
        return SimpleNamespace(
            vae=vae.to(dtype),
            truth=truth,
            rows=x,
            x=x.reshape(n, *shape).to(dtype),
            loc=mean + shift,
            covariance=torch.diag(sd**2),
            log_prob=truth.log_prob(x),
        )

    return make


@pytest.fixture
def same():
    """Whether two modules have bit-identical parameters and buffers."""

    def check(a, b):
        ours, theirs = a.state_dict(), b.state_dict()
        return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)

    return check
