"""Several processes, by gloo on this machine: the steps, figures and files of one, and what happens when one dies."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae import VAE, cli, elbos, fit
from pyrovae.training import distributed
from pyrovae.training.distributed import World

ROOT = Path(pyrovae.__file__).parents[1]
X = torch.randn(41, 3, generator=torch.Generator().manual_seed(0)).double()
MANY = torch.randn(2500, 3, generator=torch.Generator().manual_seed(1)).double()


def model(posterior="delta", **arguments):
    """The same at each call; with the delta posterior there is no noise in its loss."""
    torch.manual_seed(0)
    options = dict(likelihood="gaussian", encoder="mlp(hidden=[8])", decoder="mlp(hidden=[8])", posterior=posterior)
    return VAE((3,), 2, **{**options, **arguments}).double()


FITS = {
    "uneven parts": dict(batch_size=8, optimizer="sgd", lr=1e-2),
    "empty parts": dict(batch_size=1, optimizer="sgd", lr=1e-3),
    "adam": dict(batch_size=8, lr=1e-2),
    "weight decay": dict(batch_size=8, optimizer="adamw(weight_decay=0.1)", lr=1e-2),
    "clipped": dict(batch_size=8, optimizer="sgd", lr=1e-2, clip_norm=0.1),
}


def fits():
    """Weights and objectives, by name."""
    found = {}
    for name, settings in FITS.items():
        vae = model()
        history = fit(vae, X, epochs=2, progress=False, **settings)
        found[name] = vae.state_dict(), history["objective"].tolist()
    vae = model()
    history = fit(vae, [*X.split(8)], epochs=2, progress=False, optimizer="sgd", lr=1e-2)
    found["stream"] = vae.state_dict(), history["objective"].tolist()
    return found


def validated():
    """Validation figures, of weights that stand still and of those that stop early."""
    still = dict(lr=1e-300, optimizer="sgd", progress=False, epochs=1)
    figure = fit(model("normal"), X, validation=MANY, **still)["validation_elbo"].item()
    return figure, fit(model("normal"), X, validation=MANY[:9], epochs=60, lr=0.1, patience=2, progress=False)


def worker(folder):
    """What each of two processes does in the test that follows, and leaves in a file."""
    folder, rank = Path(folder), int(os.environ["RANK"])
    found = {"fits": fits()}
    figure, stopped = validated()
    found["validation"] = figure
    found["stopped"] = (
        stopped.drop(columns="seconds").to_numpy().tolist(), stopped.attrs["stopped"], stopped.attrs["best_epoch"]
    )  # fmt: skip
    noise = []

    def noisy(batch, generator):
        noise.append(torch.rand(4, generator=generator, dtype=torch.float64))
        return batch

    called = []
    drawn = model("normal")
    fit(
        drawn, X, batch_size=8, epochs=2, transform=noisy, checkpoint=folder / f"checkpoint-{rank}", progress=True,
        callbacks=[lambda vae, row: called.append(row["epoch"])],
    )  # fmt: skip
    found["noise"], found["called"], found["drawn"] = torch.stack(noise[1:]), called, drawn.state_dict()
    torch.save(found, folder / f"found-{rank}.pt")
    os.chdir(folder)
    # Figures take longer than all the rest.
    sys.modules["pyrovae.pipeline.fit"]._export = lambda *arguments: None
    cli.main([*FIT, "--epochs", "2"])


# Rows of a file: those of scikit-learn would be imported by every process.
FIT = ["fit", "rows.npy", "--out", "run", "--no-progress", "--num-samples", "10", "--latent-dim", "2"]
FIT += ["--encoder", "mlp(hidden=[4])", "--decoder", "mlp(hidden=[4])"]


def start(code, rank, port):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
    environment |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def torchrun(*arguments, cwd, restarts=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, f"--max-restarts={restarts}", *arguments], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


def test_two_processes_are_one(tmp_path):
    np.save(tmp_path / "rows.npy", X)
    code = f"import test_distributed; test_distributed.worker({str(tmp_path)!r})"
    port = free_port()
    processes = [start(code, rank, port) for rank in range(2)]
    said, printed = zip(*(process.communicate(timeout=120) for process in processes), strict=True)
    assert [process.returncode for process in processes] == [0, 0], printed
    a, b = (torch.load(tmp_path / f"found-{rank}.pt", weights_only=True) for rank in range(2))
    # Every step is that of the whole batch, on one process.
    for name, (weights, objective) in fits().items():
        for found in (a, b):
            state, reported = found["fits"][name]
            assert reported == pytest.approx(objective, rel=1e-9), name
            for key, value in weights.items():
                assert torch.allclose(state[key], value, rtol=1e-6, atol=1e-9), f"{name}: {key}"
        start_state = model().state_dict()
        assert any(not torch.allclose(value, start_state[key], atol=1e-4) for key, value in weights.items()), name
    # Validation has the draws of one process, and what follows from it is decided alike.
    figure, _ = validated()
    assert a["validation"] == b["validation"] == pytest.approx(figure, rel=1e-12)
    assert a["stopped"] == b["stopped"] and a["stopped"][1] == "patience"
    # Weights that depend on noise stay the same on both, though each draws its own.
    assert all(torch.equal(a["drawn"][key], b["drawn"][key]) for key in a["drawn"])
    assert not torch.isin(a["noise"], b["noise"]).any()
    # Files, callbacks and progress are those of the first.
    names = ["best.safetensors", "last.safetensors", "resume.safetensors"]
    assert sorted(path.name for path in (tmp_path / "checkpoint-0").iterdir()) == names
    assert not (tmp_path / "checkpoint-1").exists()
    assert a["called"] == [1, 2] and b["called"] == []
    assert "10/10" in printed[0] and "step" not in printed[1]
    # So are evaluation and the run folder. Gloo of torch 2.8 says how many there are.
    said = ["\n".join(line for line in text.splitlines() if not line.startswith("[Gloo]")) for text in said]
    assert said[0].count("active units") == 1 and said[1] == ""
    names = {"config.json", "model.safetensors", "history.csv", "metrics.json", "diagnosis.csv", "checkpoints"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["dataset"] == "rows.npy"


DYING = """
import os, signal, sys, time
from pyrovae import cli

module = sys.modules["pyrovae.training.fit"]
validate, calls = module.validate, []

def dying(*arguments):
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == 3:
        END
    return validate(*arguments)

module.validate = dying
cli.main(sys.argv[1:])
"""


def test_a_process_that_dies_ends_the_run_which_can_go_on(tmp_path):
    """It is killed in epoch 3; torchrun starts it anew, and it is killed in epoch 5; it is told to go on to the end."""
    np.save(tmp_path / "rows.npy", X)
    (tmp_path / "dying.py").write_text(DYING.replace("END", "os.kill(os.getpid(), signal.SIGKILL)"))
    done = torchrun("dying.py", *FIT, "--epochs", "6", cwd=tmp_path, restarts=1)
    assert done.returncode != 0 and done.stderr.count("exitcode: -9") == 2 and "SIGKILL" in done.stderr
    file = tmp_path / "run" / "history.csv"
    assert time.time() - file.stat().st_mtime < 60, "it ended long after the epoch before the last death"
    before = file.read_text()
    assert pd.read_csv(file)["epoch"].tolist() == [1, 2, 3, 4]
    last = pyrovae.load(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert all(torch.isfinite(value).all() for value in last.state_dict().values())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr("pyrovae.pipeline.fit._export", lambda *arguments: None)
        cli.main([*FIT, "--epochs", "6", "--resume"])
    assert pd.read_csv(file)["epoch"].tolist() == [1, 2, 3, 4, 5, 6] and file.read_text().startswith(before)


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_run(tmp_path):
    """The other waits for it in epoch 3, and then gives up."""
    np.save(tmp_path / "rows.npy", X)
    (tmp_path / "dying.py").write_text(DYING.replace("END", "time.sleep(1000)"))
    done = torchrun("dying.py", *FIT, "--epochs", "6", cwd=tmp_path)
    assert done.returncode != 0 and "Timed out" in done.stderr
    file = tmp_path / "run" / "history.csv"
    assert 45 < time.time() - file.stat().st_mtime < 75
    assert pd.read_csv(file)["epoch"].tolist() == [1, 2]
    last = pyrovae.load(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert all(torch.isfinite(value).all() for value in last.state_dict().values())


# Without starting any


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize(
    ("make", "estimator", "text"),
    [
        (model, elbos.FreeBits(), "FreeBits"),
        (model, elbos.TotalCorrelation(), "TotalCorrelation"),
        (model, elbos.FactorVAE(), "FactorVAE"),
        (model, elbos.EnergyDistance(), "EnergyDistance"),
        (lambda: model(encoder=Norm()), elbos.Trace_ELBO(), r"posterior\.network\.norm \(BatchNorm1d\)"),
        (lambda: model(likelihood="gaussian(scale=optimal)"), elbos.Trace_ELBO(), "gaussian.scale=optimal."),
        (lambda: model("normal", prior="gp", condition_dim=1), elbos.Trace_ELBO(), r"the prior \(GP\)"),
    ],
    ids=["free bits", "total correlation", "factor", "energy", "batch norm", "optimal", "gp"],
)
def test_what_couples_rows_is_refused_by_name(make, estimator, text):
    with pytest.raises(ValueError, match=f"of 2 processes, a model and an estimator that treat rows one.*got.*{text}"):
        distributed.check(make(), estimator, World(1, 2))
    distributed.check(make(), estimator, World())


@pytest.mark.parametrize("name", ["elbo", "mean_field_elbo", "iwae", "dreg", "stl", "vimco", "rws", "tvo"])
def test_what_treats_rows_one_by_one_is_not(name):
    """And it does: the sum of the gradients of two parts is the gradient of the whole, at the same draws."""
    distributed.check(model(), elbos.make(name, 4), World(0, 2))


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 8, 100])
def test_parts_cover_the_rows_evenly(rows, size):
    parts = [World(rank, size).part(rows) for rank in range(size)]
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    shares = [World(rank, size).share(rows) for rank in range(size)]
    assert max(shares) - min(shares) <= 1 and sum(shares) == rows


def test_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.environment() == (0, 1) and distributed.join("cpu", torch.device("cpu")) == World()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="expected MASTER_ADDR and MASTER_PORT beside WORLD_SIZE=2"):
        fit(model(), X)
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="RANK and WORLD_SIZE as torchrun sets them, got None and 'two'"):
        fit(model(), X)


# Going on, in one process


@pytest.mark.parametrize("how", ["validation", "no validation"])
def test_a_fit_that_goes_on_is_the_fit_that_went_through(tmp_path, same, how):
    """Bit for bit, the history and the weights."""
    options = dict(
        epochs=7,
        batch_size=8,
        lr=0.02,
        compile=False,
        progress=False,
        validation=X[:9] if how == "validation" else None,
    )
    whole, broken, again = (model("normal") for _ in range(3))
    expected = fit(whole, X, **options)

    class Stop(Exception):
        pass

    def stop(vae, row):
        if row["epoch"] == 3:
            raise Stop

    with pytest.raises(Stop):
        fit(broken, X, checkpoint=tmp_path, resume=True, callbacks=[stop], **options)
    epochs = []
    got = fit(
        again, X, checkpoint=tmp_path, resume=True, callbacks=[lambda _, row: epochs.append(row["epoch"])], **options
    )
    assert epochs == [4, 5, 6, 7]
    pd.testing.assert_frame_equal(got.drop(columns="seconds"), expected.drop(columns="seconds"), check_exact=True)
    assert same(whole, again) and got.attrs == expected.attrs
    # A fit that is over takes no step more.
    over = model("normal")
    finished = fit(over, X, checkpoint=tmp_path, resume=True, callbacks=[lambda _, row: epochs.append(0)], **options)
    assert len(finished) == 7 and same(over, whole) and 0 not in epochs


def test_what_cannot_go_on(tmp_path):
    options = dict(epochs=1, batch_size=8, progress=False, resume=True)
    with pytest.raises(ValueError, match="resume: expected checkpoint="):
        fit(model(), X, **options)
    with pytest.raises(ValueError, match="an estimator without a state of its own, got .* and capacity"):
        fit(model("normal"), X, elbo="capacity", checkpoint=tmp_path, **options)
    fit(model(), X, checkpoint=tmp_path, **options)
    with pytest.raises(ValueError, match="expected a checkpoint of batch_size=7, got 8"):
        fit(model(), X, checkpoint=tmp_path, **{**options, "batch_size": 7})
    with pytest.raises(ValueError, match="expected a checkpoint of optimizer='SGD', got 'Adam'"):
        fit(model(), X, checkpoint=tmp_path, optimizer="sgd", **options)
    with pytest.raises(ValueError, match="expected the state of this model and optimizer"):
        fit(model(encoder="mlp(hidden=[5])"), X, checkpoint=tmp_path, **options)
    (tmp_path / "resume.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="expected the checkpoint of a fit, got an unreadable file"):
        fit(model(), X, checkpoint=tmp_path, **options)


def test_without_resume_nothing_more_is_written(tmp_path):
    fit(model(), X, epochs=1, checkpoint=tmp_path, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors"]
    assert np.isfinite(fit(model(), X, epochs=1, progress=False)["elbo"]).all()
