"""The command line from end to end: run folders, what is printed, and mistakes in one line."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import pyrovae
from pyrovae import cli, pipeline

QUICK = ["--epochs", "2", "--num-samples", "30", "--export-rows", "5", "--export-draws", "4", "--latent-dim", "2"]
QUICK += ["--encoder", "mlp(hidden=[16])", "--decoder", "mlp(hidden=[16])"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


coarsely = pytest.mark.usefixtures("coarse_figures")


def refused(capsys, *arguments):
    """The one line that a mistake leaves on stderr."""
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments])
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pyrovae: ")]
    assert len(lines) == 1
    return lines[0]


def test_fit_digits_leaves_a_whole_run(here, capsys, request):
    cli.main(["fit", "digits", *QUICK])
    printed = capsys.readouterr()
    assert "ELBO" in printed.err  # the progress bar
    for word in ("ELBO", "reconstruction", "KL", "log p(x)", "Monte Carlo", "active units", "k-hat > 0.7", "seconds"):
        assert word in printed.out
    assert "posterior_collapse" in printed.out and "aggregate_posterior" in printed.out
    assert printed.out.splitlines()[-1].split() == ["run", os.path.join("runs", "digits")]
    run = here / "runs" / "digits"
    names = {"config.json", "model.safetensors", "history.csv", "metrics.json", "diagnosis.csv", "inference_data.nc"}
    assert names | {"figures", "checkpoints"} == {path.name for path in run.iterdir()}
    figures = {"history.png", "reconstructions.png", "samples.png", "latent.png", "traversal.png"}
    assert {path.name for path in (run / "figures").iterdir()} == figures
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.safetensors", "last.safetensors"}
    config = json.loads((run / "config.json").read_text())
    assert config["training"]["epochs"] == 2 and config["architecture"]["latent_dim"] == 2
    assert config["model"]["likelihood"]["name"] == "bernoulli" and config["pyrovae"] == pyrovae.__version__
    history = pd.read_csv(run / "history.csv", index_col="epoch")
    assert history.index.tolist() == [1, 2] and {"elbo", "validation_elbo", "seconds"} <= set(history.columns)

    import arviz

    idata = arviz.from_netcdf(run / "inference_data.nc")
    assert idata["posterior"]["z"].shape == (1, 4, 5, 2)

    # What is written is what the model says, now and again.
    metrics = json.loads((run / "metrics.json").read_text())
    data = pyrovae.datasets.load("digits")
    summary = pyrovae.evaluate(pyrovae.load(run), data.test, num_samples=30).summary()
    assert metrics == {"dataset": "digits", "split": "test", **summary}
    cli.main(["evaluate", str(run), "--num-samples", "40"])
    assert json.loads((run / "metrics.json").read_text())["num_samples"] == 40
    cli.main(["sample", str(run), "--n", "7"])
    assert np.load(run / "samples.npy").shape == (7, 1, 8, 8) and (run / "samples.png").is_file()

    checks = pd.read_csv(run / "diagnosis.csv", index_col="check")
    cli.main(["diagnose", str(run), "--rows", "20", "--gap-rows", "2"])
    assert pd.read_csv(run / "diagnosis.csv", index_col="check").index.equals(checks.index)
    assert "non_finite" in capsys.readouterr().out and checks.loc["non_finite", "value"] == 0

    # The same command again makes a folder of its own, with the same numbers.
    request.getfixturevalue("coarse_figures")
    cli.main(["fit", "digits", *QUICK])
    again = here / "runs" / "digits-2"
    state, other = (pyrovae.load(folder).state_dict() for folder in (run, again))
    assert all(torch.equal(state[key], other[key]) for key in state)
    capsys.readouterr()
    cli.main(["compare", str(run), str(again), "--num-samples", "40"])
    table = capsys.readouterr().out
    assert "elpd_diff" in table and "digits-2" in table
    cli.main(["fit", "digits", *QUICK, "--binarize", "threshold", "--out", "other", "--seed", "1", "--no-progress"])
    assert "expected runs with the same test rows, got others" in refused(capsys, "compare", str(run), "other")
    assert "expected two or more runs of different names" in refused(capsys, "compare", str(run), str(run))


@coarsely
def test_fit_a_table_from_a_file(here, capsys):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=["a", "b", "c"])
    frame["kind"] = ["x", "y"] * 30
    frame.to_csv("table.csv", index=False)
    likelihood = "gaussian(scale=per_dimension)"
    cli.main(
        ["fit", "table.csv", "--label", "kind", "--likelihood", likelihood, "--out", "there", "--no-progress", *QUICK]
    )
    assert "%|" not in capsys.readouterr().err
    config = json.loads((here / "there" / "config.json").read_text())
    assert config["model"]["likelihood"] == {"name": "gaussian", "scale": "per_dimension", "floor": 1e-3}
    assert "bits_per_dim" not in json.loads((here / "there" / "metrics.json").read_text())


@coarsely
@pytest.mark.parametrize(("name", "likelihood"), [("iris", "gaussian"), ("linear_gaussian", "gaussian")])
def test_the_likelihood_suits_the_data(here, name, likelihood):
    cli.main(["fit", name, "--out", "there", "--no-progress", *QUICK])
    assert json.loads((here / "there" / "config.json").read_text())["model"]["likelihood"]["name"] == likelihood


def mixed_table(rows=80):
    """Text, booleans, numbers of three kinds, and holes."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(17, 90, rows).astype(float),
            "job": rng.choice(["nurse", "clerk", "pilot"], rows).astype(object),
            "income": np.exp(rng.normal(10, 1, rows)),
            "member": rng.choice([True, False], rows),
            "change": rng.normal(0, 1, rows),
        }
    )
    for column in ("age", "job", "change"):
        frame.loc[rng.random(rows) < 0.2, column] = None
    return frame


def test_fit_a_table_of_mixed_types_with_holes(here, capsys):
    frame = mixed_table()
    frame.to_csv("mixed.csv", index=False)
    options = ["--likelihood", "tabular(floor=0.05)", "--kinds", "age", "real", "--out", "there", "--no-progress"]
    cli.main(["fit", "mixed.csv", *options, *QUICK])
    saved = json.loads((here / "there" / "config.json").read_text())["model"]["likelihood"]
    assert saved["floor"] == 0.05
    assert [(column["name"], column["kind"]) for column in saved["columns"]] == [
        ("age", "real"), ("job", "categorical"), ("income", "positive"), ("member", "categorical"), ("change", "real")
    ]  # fmt: skip
    assert saved["columns"][1]["categories"] == ["clerk", "nurse", "pilot"]
    settings, vae, data = pipeline.reload("there")
    assert data.loc is None and data.train[:, 2].min() > 1000 and torch.isnan(data.test).any()
    assert len(list((here / "there" / "figures").iterdir())) == 5
    cli.main(["sample", "there", "--n", "7"])
    drawn = pd.read_csv("there/samples.csv")
    assert drawn.columns.tolist() == frame.columns.tolist() and set(drawn["job"]) <= set(frame["job"].dropna())
    # Codes are those of the model, though the file has another category now, or one less.
    before = json.loads((here / "there" / "metrics.json").read_text())["log_marginal"]
    frame["job"] = frame["job"].replace("clerk", None)
    frame.to_csv("mixed.csv", index=False)
    assert pipeline.reload("there")[2].schema == data.schema
    cli.main(["evaluate", "there"])
    assert json.loads((here / "there" / "metrics.json").read_text())["log_marginal"] > before
    frame.loc[0, "job"] = "baker"
    frame.to_csv("mixed.csv", index=False)
    assert "column 'job': expected one of clerk, nurse, pilot, got 'baker' at row 0" in refused(
        capsys, "evaluate", "there"
    )


@coarsely
@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
def test_fit_two_layers(here, inference, capsys):
    cli.main(["fit", "iris", *QUICK, "--layers", "2", "--inference", inference, "--out", "there", "--no-progress"])
    assert "in z1" in capsys.readouterr().out
    _, vae, _ = pipeline.reload("there")
    assert vae.sites == ("z1", "z2") and vae.inference == inference and vae.prior.vae.latent_dim == vae.latent_dim // 2
    assert "active_units_z2" in json.loads((here / "there" / "metrics.json").read_text())


@coarsely
def test_fit_with_few_labels(here, capsys):
    cli.main(["fit", "iris", "--labels", "15", *QUICK, "--epochs", "40", "--out", "there", "--no-progress"])
    settings, vae, data = pipeline.reload("there")
    kept = pipeline.conditions(data, settings)["train"]
    assert [(kept == k).sum() for k in range(3)] == [5, 5, 5] and (kept == -1).sum() == len(data.train) - 15
    assert vae.label == 3 and vae.label_weight == 50
    assert json.loads((here / "there" / "metrics.json").read_text())["accuracy"] > 0.6
    assert len(list((here / "there" / "figures").iterdir())) == 5
    cli.main(["sample", "there", "--n", "5"])
    cli.main(["fit", "diabetes", "--labels", "50", *QUICK, "--out", "number", "--no-progress"])
    assert pipeline.reload("number")[1].label == "real"
    assert "labels: expected at most the 120" in refused(capsys, "fit", "iris", "--labels", "1000")


@coarsely
@pytest.mark.parametrize("sees", ["mask", "zero"])
def test_fit_data_with_holes(here, sees):
    options = ["--sees", sees, "--elbo", "iwae", "--num-particles", "3", "--no-progress", *QUICK]
    cli.main(["fit", "iris", "--missing", "0.3", "--out", "there", *options])
    _, vae, data = pipeline.reload("there")
    assert vae.missing == sees and 0.2 < torch.isnan(data.train).float().mean() < 0.4
    assert (here / "there" / "inference_data.nc").is_file() and len(list((here / "there" / "figures").iterdir())) == 5
    before = json.loads((here / "there" / "metrics.json").read_text())["log_marginal"]
    cli.main(["evaluate", "there"])
    assert json.loads((here / "there" / "metrics.json").read_text())["log_marginal"] == before
    pd.DataFrame({"a": [1.0, 2.0, None, 4.0] * 5, "b": range(20)}).to_csv("holes.csv", index=False)
    cli.main(["fit", "holes.csv", "--out", "other", "--mechanism", "self_masking(sign=1)", *options])
    other = pipeline.reload("other")[1]
    assert other.missing == sees and other.mechanism.logits.sign == 1


@coarsely
def test_a_table_with_a_hole_in_every_row_has_figures_too(here):
    frame = mixed_table(30)
    frame.loc[::2, "income"] = None
    frame.loc[1::2, "job"] = None
    frame.to_csv("holes.csv", index=False)
    cli.main(["fit", "holes.csv", "--likelihood", "tabular", "--out", "there", "--no-progress", *QUICK])
    assert len(list((here / "there" / "figures").iterdir())) == 5


def test_a_named_table_can_be_tabular(here):
    settings = pipeline.Run("iris", architecture=pipeline.Architecture(likelihood="tabular"))
    data = pipeline.load_data(settings)
    assert [column["kind"] for column in pipeline.build(settings, data).likelihood.piece.columns] == ["positive"] * 4


@pytest.mark.parametrize(
    ("likelihood", "standardize", "expected"),
    [
        ("auto", None, True),
        ("gaussian", None, True),
        ("laplace", None, True),
        ("gaussian", False, False),
        ("poisson", None, False),
        ("log_normal", None, False),
        ("poisson", True, True),
        ("bernoulli(relaxed=True)", None, False),
    ],
)
def test_only_real_numbers_are_standardized_unless_told(likelihood, standardize, expected):
    settings = pipeline.Run(
        "iris",
        architecture=pipeline.Architecture(likelihood=likelihood),
        data=pipeline.Data(standardize=standardize),
    )
    assert (pipeline.load_data(settings).loc is not None) == expected


def test_grey_pixels_get_a_density(here):
    settings = pipeline.Run("digits", data=pipeline.Data(binarize="none"))
    data = pipeline.load_data(settings)
    assert type(pipeline.build(settings, data).likelihood.piece).__name__ == "ContinuousBernoulli"


def test_mistakes_are_one_line(here, capsys):
    assert "digits" in refused(capsys, "fit", "digit") and not (here / "runs").exists()
    assert "Did you mean 'gaussian'" in refused(capsys, "fit", "iris", "--likelihood", "gausian")
    assert "scale" in refused(capsys, "fit", "iris", "--likelihood", "gaussian(scal=1)")
    assert "unknown elbo 'iwe'" in refused(capsys, "fit", "iris", "--elbo", "iwe", "--out", "there")
    assert not (here / "there").exists()  # so that the mended command works
    assert "adam" in refused(capsys, "fit", "iris", "--optimizer", "adamm")
    assert "0 or 1 (Bernoulli), got" in refused(capsys, "fit", "iris", "--likelihood", "bernoulli")
    assert "mnist" in refused(capsys, "fit", "mnist", "--data-root", "nowhere")
    assert "config.json" in refused(capsys, "evaluate", "nowhere")
    (here / "full").mkdir()
    (here / "full" / "file").touch()
    assert "choose another --out" in refused(capsys, "fit", "iris", "--out", "full").lower()
    frame = pd.DataFrame({"a": [1.0, 2.0, None, 4.0], "b": [1.0, 2.0, 3.0, 4.0]})
    frame.to_csv("holes.csv", index=False)
    pd.DataFrame({"a": [1.0, 2.0, None, 4.0]}).to_csv("row.csv", index=False)
    assert "expected an observed cell in every row, got row 2 with none" in refused(capsys, "fit", "row.csv")
    assert "elements are independent" in refused(
        capsys, "fit", "holes.csv", "--likelihood", "multinomial", "--standardize", "False"
    )
    assert "missing: expected a share of the cells" in refused(capsys, "fit", "iris", "--missing", "1")
    assert "unknown missing 'none': expected one of mask, zero" in refused(
        capsys, "fit", "iris", "--missing", "0.1", "--sees", "none"
    )
    assert "mechanism: expected a VAE of which missing cells are known" in refused(
        capsys, "fit", "iris", "--mechanism", "self_masking"
    )
    tabular = ["fit", "holes.csv", "--likelihood", "tabular"]
    assert "tabular keeps the units of the table" in refused(capsys, *tabular, "--standardize", "True")
    assert "unknown column 'c': expected one of a, b" in refused(capsys, *tabular, "--kinds", "c", "real")
    assert "unknown kind of column 'a' 'integer'" in refused(capsys, *tabular, "--kinds", "a", "integer")
    assert "expected likelihood tabular" in refused(capsys, "fit", "iris", "--kinds", "a", "real")


def test_settings_out_of_range(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "iris", "--epochs", "0"])
    assert stop.value.code == 2
    message = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "epochs: expected a number of at least 1, got 0" in message


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")  # Pyro says so before we do
def test_a_crash_keeps_what_there_is(here, capsys):
    message = refused(capsys, "fit", "iris", "--optimizer", "sgd", "--lr", "1e30", "--out", "there", *QUICK)
    assert "finite loss" in message
    assert not (here / "there").exists()  # nothing was trained

    # A run that breaks after training leaves what it has.
    def broken(*arguments, **keywords):
        raise FloatingPointError("evaluation is broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrovae.pipeline.fit.evaluate", broken)
        assert "broken" in refused(capsys, "fit", "iris", "--out", "there", *QUICK)
    assert {"config.json", "history.csv", "model.safetensors", "checkpoints"} == {
        path.name for path in (here / "there").iterdir()
    }


@coarsely
def test_a_run_goes_on(here, capsys):
    options = ["iris", "--out", "there", "--no-progress", "--resume", *QUICK]
    cli.main(["fit", *options])
    begun = (here / "there" / "history.csv").read_text()
    cli.main(["fit", *options, "--epochs", "3"])
    history = pd.read_csv(here / "there" / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    assert (here / "there" / "history.csv").read_text().startswith(begun)
    assert "expected a checkpoint of lr=0.1, got 0.001" in refused(capsys, "fit", *options, "--lr", "0.1")
    assert (here / "there" / "model.safetensors").is_file()
    assert "resume: expected --out" in refused(capsys, "fit", "iris", "--resume", *QUICK)
    (here / "other").mkdir()
    (here / "other" / "notes.txt").write_text("mine")
    assert "expected a new or empty folder" in refused(capsys, "fit", "iris", "--out", "other", "--resume", *QUICK)


def test_list(capsys):
    cli.main(["list", "--json"])
    board = json.loads(capsys.readouterr().out)
    assert set(board) == {
        "priors",
        "likelihoods",
        "posteriors",
        "encoders",
        "decoders",
        "mechanisms",
        "elbos",
        "datasets",
    }
    for members in board.values():
        for name, entry in members.items():
            assert entry["summary"].endswith((".", "download", "log-likelihoods", "pixels", "rows")), name
            assert entry["reference"].startswith("http"), name
    cli.main(["list"])
    text = capsys.readouterr().out
    assert all(name in text for members in board.values() for name in members)


COMMANDS = [[], ["fit"], ["evaluate"], ["diagnose"], ["compare"], ["sample"], ["list"]]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    if command == ["fit"]:
        for flag in ("--likelihood", "--epochs", "--data-root", "--device", "--num-samples", "--out", "--beta"):
            assert flag in text


def test_python_m(here):
    done = subprocess.run([sys.executable, "-m", "pyrovae", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"pyrovae {pyrovae.__version__}"
