"""Every prior, posterior and likelihood by name from the command line."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pyrovae import cli

from swaps import CONDITIONAL, DATA, LATENT, LIKELIHOODS, POSTERIORS, PRIORS, fits, name  # isort: skip

QUICK = ["--epochs", "1", "--num-samples", "30", "--export-rows", "4", "--export-draws", "3", "--no-progress"]
QUICK += ["--encoder", "mlp(hidden=[8])", "--decoder", "mlp(hidden=[8])", "--latent-dim", str(LATENT)]
ROWS = 40

pytestmark = pytest.mark.filterwarnings("ignore:a relaxed Bernoulli is no density")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs ``pyrovae fit`` on rows of a kind; returns the metrics of the run."""
    monkeypatch.chdir(tmp_path)
    savefig = Figure.savefig

    def coarsely(figure, *args, **kwargs):
        # Most of the time here would go into layout and pixels, which tests/test_plots.py looks at.
        figure.set_layout_engine("none")
        savefig(figure, *args, **{**kwargs, "dpi": 20})

    monkeypatch.setattr(Figure, "savefig", coarsely)

    def run(kind, *arguments):
        rng = np.random.default_rng(0)
        x = DATA[kind].numpy()[rng.integers(0, len(DATA[kind]), ROWS)]
        if kind == "table":
            frame = pd.DataFrame(x, columns=list("abcd"))
            frame["d"] = frame["d"].map({0: "x", 1: "y", 2: "z"})
            frame["c"] = frame["c"].astype("Int64")
            frame.to_csv("data.csv", index=False)
        else:
            np.savez("data.npz", x=x, y=rng.integers(0, 2, ROWS))
        file = "data.csv" if kind == "table" else "data.npz"
        cli.main(["fit", file, "--out", "run", *arguments, *QUICK])
        folder = tmp_path / "run"
        names = {"config.json", "model.safetensors", "history.csv", "metrics.json", "inference_data.nc", "figures"}
        assert names <= {path.name for path in folder.iterdir()}
        assert len(list((folder / "figures").iterdir())) == 5
        return json.loads((folder / "metrics.json").read_text())

    return run


@pytest.mark.parametrize("prior", [prior for prior in PRIORS if prior != "any Pyro distribution"])
def test_priors(run, prior):
    posterior = next(posterior for posterior in POSTERIORS if fits(prior, posterior))
    extra = ["--condition", "labels"] if prior in CONDITIONAL else []
    if prior == "gp":
        extra += ["--batch-size", str(ROWS)]
    metrics = run("binary", "--prior", prior, "--posterior", posterior, *extra)
    assert np.isfinite(metrics["elbo"])
    assert (metrics["log_marginal"] is None) == (prior == "gp")


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_posteriors(run, posterior):
    prior = next(prior for prior in PRIORS if fits(prior, posterior))
    metrics = run("binary", "--prior", prior, "--posterior", posterior)
    assert (metrics["log_marginal"] is None) == (posterior == "delta")
    assert np.isfinite(metrics["reconstruction"])


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=name)
def test_likelihoods(run, likelihood):
    kind = LIKELIHOODS[likelihood]
    metrics = run(kind, "--likelihood", "tabular" if kind == "table" else likelihood)
    assert np.isfinite(metrics["log_marginal"])
    cli.main(["sample", "run", "--n", "3"])
    assert len(np.load("run/samples.npy")) == 3
    saved = json.loads(Path("run/config.json").read_text())
    assert saved["model"]["likelihood"]["name"] == name(likelihood)
