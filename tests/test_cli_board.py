"""Every prior, posterior and likelihood by name from the command line."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyrovae import cli

from swaps import (  # isort: skip
    CONDITIONAL, DATA, LATENT, LIKELIHOODS, POSTERIORS, PRIORS, TRIPLES, covering, fits, name,
)  # fmt: skip

QUICK = ["--epochs", "1", "--num-samples", "30", "--export-rows", "4", "--export-draws", "3", "--no-progress"]
QUICK += ["--encoder", "mlp(hidden=[8])", "--decoder", "mlp(hidden=[8])", "--latent-dim", str(LATENT)]
ROWS = 40

# What needs labels, or leaves log p(x) open, is run by itself.
ALONE = {*CONDITIONAL, "delta"}
TOGETHER = covering(
    [triple for triple in TRIPLES if "any Pyro distribution" not in triple and not ALONE & set(triple)], together=1
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:a relaxed Bernoulli is no density"),
    pytest.mark.usefixtures("coarse_figures"),
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs ``pyrovae fit`` on rows of a kind; returns the metrics of the run."""
    monkeypatch.chdir(tmp_path)

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


def test_every_piece_is_run():
    pieces = {*PRIORS, *POSTERIORS, *LIKELIHOODS} - {"any Pyro distribution"}
    assert {piece for triple in TOGETHER for piece in triple} == pieces - ALONE


@pytest.mark.parametrize("triple", TOGETHER, ids=lambda triple: "-".join([*triple[:2], name(triple[2])]))
def test_together(run, triple):
    prior, posterior, likelihood = triple
    kind = LIKELIHOODS[likelihood]
    pieces = ["--prior", prior, "--posterior", posterior]
    metrics = run(kind, *pieces, "--likelihood", "tabular" if kind == "table" else likelihood)
    assert np.isfinite([metrics["elbo"], metrics["reconstruction"], metrics["log_marginal"]]).all()
    cli.main(["sample", "run", "--n", "3"])
    assert len(np.load("run/samples.npy")) == 3
    saved = json.loads(Path("run/config.json").read_text())
    assert [saved["model"][part]["name"] for part in ("prior", "posterior", "likelihood")] == list(map(name, triple))


@pytest.mark.parametrize("prior", sorted(CONDITIONAL))
def test_priors_that_take_a_condition(run, prior):
    posterior = next(posterior for posterior in POSTERIORS if fits(prior, posterior))
    batch = ["--batch-size", str(ROWS)] if prior == "gp" else []
    metrics = run("binary", "--prior", prior, "--posterior", posterior, "--condition", "labels", *batch)
    assert np.isfinite(metrics["elbo"])
    assert (metrics["log_marginal"] is None) == (prior == "gp")


def test_a_point(run):
    metrics = run("binary", "--posterior", "delta")
    assert metrics["log_marginal"] is None and np.isfinite(metrics["reconstruction"])
