"""Save and load: the same numbers, no code from the file, and errors in words."""

import copy
import json
import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import pyrovae
from pyrovae import VAE, fit, likelihoods, load, priors, save
from pyrovae.piece import Piece
from pyrovae.serialization import describe

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
KINDS = {
    "gaussian": dict(),
    "network scale": dict(likelihood="gaussian(scale=network, floor=0.02)"),
    "learned prior": dict(prior="normal(learned=True, floor=0.01)", posterior="normal(floor=0.001)"),
    "conditional": dict(condition_dim=2),
    "networks": dict(encoder="mlp(hidden=[4, 5], activation=tanh)", decoder="mlp(hidden=[6], activation=elu)"),
}


def outputs(vae, condition=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [vae.reconstruct(X, condition), vae.encode(X, condition).stddev, vae.sample(12, condition)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_bit_for_bit(tiny, same, tmp_path, kind, dtype):
    vae = tiny(**KINDS[kind])
    condition = torch.randn(12, 2) if kind == "conditional" else None
    fit(vae, X, condition, epochs=1, lr=0.1, progress=False)
    vae = vae.to(dtype)
    loaded = load(save(vae, tmp_path))
    assert same(loaded, vae) and loaded.like.dtype == dtype
    assert describe(loaded) == describe(vae)
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded, condition), outputs(vae, condition), strict=True))
    assert {p.dtype for p in loaded.parameters()} == {dtype}


def test_images(same, tmp_path):
    vae = VAE((1, 6, 5), 2, encoder="conv(channels=[3, 4], features=7)", decoder="conv(channels=[4, 3])")
    vae = vae.to(memory_format=torch.channels_last)
    x = torch.ones(4, 1, 6, 5)
    loaded = load(save(vae, tmp_path))
    assert same(loaded, vae) and torch.equal(loaded.reconstruct(x), vae.reconstruct(x))
    assert not vae.posterior.network.layers[2].weight.is_contiguous(), "saving changed the model"


def test_paths(tiny, tmp_path):
    vae = tiny()
    assert save(vae, tmp_path / "a" / "b") == tmp_path / "a" / "b" / "model.safetensors"
    assert save(vae, str(tmp_path / "mine.safetensors")) == tmp_path / "mine.safetensors"
    assert save(vae, tmp_path / "v1.0") == tmp_path / "v1.0" / "model.safetensors"
    assert isinstance(save(vae, tmp_path), Path)
    for path in (tmp_path / "a" / "b", str(tmp_path / "a" / "b" / "model.safetensors"), tmp_path / "mine.safetensors"):
        load(path)
    assert not list(tmp_path.rglob("*.part"))


def test_saving_again_replaces_the_file_whole(tiny, same, tmp_path):
    save(tiny(seed=1), tmp_path)
    first = load(tmp_path)
    save(tiny(seed=2), tmp_path)
    assert same(load(tmp_path), tiny(seed=2)) and same(first, tiny(seed=1))


def test_a_save_that_fails_leaves_the_old_file(tiny, same, tmp_path, monkeypatch):
    save(tiny(seed=1), tmp_path)

    def fail(vae, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("pyrovae.serialization.save_model", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tiny(seed=2), tmp_path)
    assert same(load(tmp_path), tiny(seed=1))


def test_the_file_is_json_and_tensors(tiny, tmp_path):
    vae = tiny(likelihood="gaussian(scale=network)", condition_dim=2).double().eval()
    with safe_open(str(save(vae, tmp_path)), "pt") as file:
        header = json.loads(file.metadata()["pyrovae"])
        assert set(file.keys()) == set(vae.state_dict())
    assert header == json.loads(json.dumps({**describe(vae), "dtype": "float64", "training": False}))
    assert header["event_shape"] == [3] and header["latent_dim"] == 2 and header["condition_dim"] == 2
    assert header["likelihood"] == {"name": "gaussian", "scale": "network", "floor": 1e-3}


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept(tiny, tmp_path, training):
    assert load(save(tiny().train(training), tmp_path)).training == training


def test_a_loaded_model_trains_on(tiny, tmp_path):
    loaded = load(save(tiny(), tmp_path))
    before = copy.deepcopy(loaded.state_dict())
    fit(loaded, X, epochs=1, progress=False)
    assert all(p.requires_grad and not torch.equal(p, before[name]) for name, p in loaded.named_parameters())


# Parts of the user's own


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer, self.norm = nn.Linear(width, 6), nn.BatchNorm1d(6)

    def forward(self, x):
        return torch.relu(self.norm(self.layer(x)))


class Laplace(Piece):
    numbers = 2

    def forward(self, params):
        loc, scale = self.split(params)
        return dist.Laplace(loc, nn.functional.softplus(scale) + 1e-3).to_event(1)


def test_a_users_network_with_batch_norm(tiny, same, tmp_path):
    vae = tiny(encoder=Norm(3), decoder=Norm(2))
    fit(vae, X, epochs=2, progress=False)
    vae.eval()
    norm = vae.posterior.network.norm
    assert norm.num_batches_tracked == 2 and norm.running_mean.any()
    path = save(vae, tmp_path)
    for given, kind in ((dict(decoder=Norm(2)), "encoder"), (dict(encoder=Norm(3)), "decoder"), ({}, "encoder")):
        with pytest.raises(ValueError, match=rf"its {kind} is a .*Norm, not pyrovae's: pass load\(\.\.\., {kind}="):
            load(path, **given)
    loaded = load(path, encoder=Norm(3), decoder=Norm(2))
    assert same(loaded, vae)
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded), outputs(vae), strict=True))


OWN = {
    "prior": (lambda: dist.Laplace(torch.zeros(2), 2.0).to_event(1), "pyro.distributions.torch.Independent"),
    "likelihood": (Laplace, "test_serialization.Laplace"),
    "posterior": (Laplace, "test_serialization.Laplace"),
}


@pytest.mark.parametrize("kind", OWN)
def test_a_users_piece(tiny, same, tmp_path, kind):
    make, name = OWN[kind]
    vae = tiny(**{kind: make()}).double()
    fit(vae, X, epochs=1, progress=False)
    path = save(vae, tmp_path)
    with pytest.raises(ValueError, match=rf"its {kind} is a {name}, not pyrovae's: pass load\(\.\.\., {kind}=\.\.\."):
        load(path)
    loaded = load(path, **{kind: make()})
    assert same(loaded, vae)
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded), outputs(vae), strict=True))


def test_a_part_that_does_not_fit(tiny, tmp_path):
    path = save(tiny(encoder=Norm(3)), tmp_path)
    with pytest.raises(ValueError, match="its tensors do not fit the model"):
        load(path, encoder=nn.Linear(3, 6))
    with pytest.raises(ValueError, match="encoder: expected a network that takes"):
        load(path, encoder=Norm(4))


def test_weights_that_are_tied(tiny, same, tmp_path):
    def tied():
        layer = nn.Linear(4, 4)
        return nn.Sequential(nn.Linear(3, 4), layer, nn.ReLU(), layer)

    vae = tiny(encoder=tied())
    loaded = load(save(vae, tmp_path), encoder=tied())
    assert same(loaded, vae)


# Files that are none


def test_a_missing_file(tmp_path):
    for path in (tmp_path, tmp_path / "no.safetensors", tmp_path / "no"):
        with pytest.raises(FileNotFoundError, match="no such file. Expected a model that pyrovae.save wrote"):
            load(path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -100], ids=lambda keep: f"{keep} bytes")
def test_a_damaged_file(tiny, tmp_path, keep):
    path = save(tiny(), tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="expected a model that pyrovae.save wrote, got an unreadable file"):
        load(path)


def test_foreign_files(tmp_path):
    contents = {
        "text": b"hello",
        "pickle": pickle.dumps({"a": 1}),
        "zeros": bytes(1000),
        "numpy": np.zeros(9).tobytes(),
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected a model that pyrovae.save wrote"):
            load(path)
    for metadata in (None, {"format": "pt"}, {"pyrovae": "not json"}):
        save_file({"a": torch.ones(2)}, str(tmp_path / "other.safetensors"), metadata=metadata)
        with pytest.raises(ValueError, match="expected a model that pyrovae.save wrote"):
            load(tmp_path / "other.safetensors")


def test_no_code_is_run_from_a_file(tmp_path):
    """A file written by torch.save holds a pickle that would."""

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save(Bomb(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="unreadable file"):
        load(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_a_file_of_another_version_with_an_unknown_name(tiny, tmp_path):
    path = save(tiny(), tmp_path)
    with safe_open(str(path), "pt") as file:
        header = json.loads(file.metadata()["pyrovae"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    header["likelihood"] = {"name": "zipf"}
    save_file(tensors, str(path), metadata={"pyrovae": json.dumps(header)})
    with pytest.raises(ValueError, match="unknown likelihood 'zipf'"):
        load(path)


def test_a_read_only_file_is_read(tiny, same, tmp_path):
    path = save(tiny(), tmp_path)
    path.chmod(stat.S_IRUSR)
    assert same(load(path), tiny())


# Description


def test_describe(tiny):
    text = describe(tiny(likelihood="gaussian(scale=0.5)"))
    mlp = {"hidden": [8], "activation": "relu", "condition_dim": 0, "norm": None, "dropout": 0.0, "skip": False}
    assert json.loads(json.dumps(text)) == {
        "event_shape": [3],
        "latent_dim": 2,
        "condition_dim": 0,
        "condition_shape": None,
        "condition_on": ["encoder", "decoder"],
        "missing": None,
        "inference": "bottom_up",
        "label": None,
        "label_weight": 0.0,
        "classifier": None,
        "corruption": None,
        "mechanism": None,
        "prior": {"name": "normal", "learned": False, "floor": 1e-3},
        "likelihood": {"name": "gaussian", "scale": 0.5, "floor": 1e-3},
        "posterior": {"name": "normal", "floor": 1e-4},
        "encoder": {"name": "mlp", "in_shape": [3], **mlp},
        "decoder": {"name": "mlp", "in_shape": [2], **mlp},
    }


def test_describe_names_a_users_class(tiny):
    class Mine(likelihoods.Gaussian):
        pass

    described = describe(tiny(encoder=nn.Linear(3, 4), likelihood=Mine(), prior=priors.Normal(learned=True)))
    assert described["encoder"] == {"custom": "torch.nn.modules.linear.Linear"}
    assert described["likelihood"]["custom"].endswith("Mine")
    assert described["prior"]["learned"] is True


def test_public_names():
    assert pyrovae.save is save and pyrovae.load is load
