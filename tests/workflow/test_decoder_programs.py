"""Exported programs, run by torch or by onnxruntime, give the mean that the VAE gives, at any number of rows."""

import ast
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from pyrovae import export_decoder, likelihoods
from pyrovae.workflow import decoder_programs

TABLE = [
    {"name": "a", "kind": "real"}, {"name": "b", "kind": "categorical", "categories": ["u", "v", "w"]},
    {"name": "c", "kind": "count"},
]  # fmt: skip


class Own(nn.Module):
    """A user's decoder, with a dropout that must be off and a skip."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.dropout = nn.Linear(2, 8), nn.Linear(8, 8), nn.Dropout(0.5)

    def forward(self, z):
        h = self.dropout(torch.sin(self.first(z)))
        return h + nn.functional.gelu(self.last(h))


CASES = [
    dict(decoder=Own()),
    dict(decoder="mlp(hidden=[8, 8], skip=True, norm=batch)"),
    dict(decoder="conv", event_shape=(1, 9, 8), likelihood="bernoulli"),
    dict(decoder="resnet", event_shape=(3, 8, 8), likelihood="continuous_bernoulli"),
    dict(decoder="recurrent", event_shape=(5,), likelihood="poisson"),
    dict(condition_dim=3, likelihood="gaussian(scale=network)"),
    dict(condition_shape=(1, 4, 4), decoder="conv", event_shape=(1, 8, 8)),
    dict(condition_dim=3, condition_on=["encoder"]),
    dict(label=3, likelihood="log_normal"),
    dict(latent_dim=[2, 3], likelihood="zero_inflated_negative_binomial"),
    dict(missing="mask", likelihood="beta"),
    dict(likelihood="multinomial"),
]


def moved(tiny, settings):
    """A VAE in training mode whose means differ from row to row."""
    vae = tiny(**settings)
    with torch.no_grad():
        for parameter in vae.likelihood.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for layer in vae.likelihood.modules():
            if isinstance(layer, nn.BatchNorm1d):
                layer.running_mean.normal_()
    return vae


def inputs(vae, rows):
    """z, and a condition where the decoder takes one; and the mean there."""
    z, width = torch.randn(rows, vae.latent_dim), vae.likelihood.condition_dim
    condition = torch.rand(rows, width) if width else None
    if vae.label is not None:
        condition = nn.functional.one_hot(torch.arange(rows) % 3, 3).float()
    vae.eval()
    with torch.no_grad():
        mean = vae.likelihood(z, condition).mean
    vae.train()
    return [z] if condition is None else [z, condition], mean


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_pt2(tiny, tmp_path, settings):
    vae = moved(tiny, settings)
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    path = export_decoder(vae, tmp_path / "new" / "decoder.pt2")
    assert vae.training and all(p.requires_grad for p in vae.likelihood.parameters())
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert [p.name for p in path.parent.iterdir()] == ["decoder.pt2"]
    program = torch.export.load(path).module()
    for rows in (1, 2, 7):
        given, expected = inputs(vae, rows)
        found = program(*given)
        assert found.shape == expected.shape == (rows, *vae.event_shape) and not found.requires_grad
        # Convolutions with and without a gradient are summed in another order; the mean of a continuous Bernoulli is
        # 5e-7 off by itself, at logits of 0.2, where two numbers of size 10 cancel.
        most = 3e-6 if settings.get("likelihood") == "continuous_bernoulli" else 1e-6
        assert (found - expected).abs().max() <= most * expected.abs().max().clamp_min(1)
    assert expected.std(0).max() > 0.01
    slope = torch.autograd.grad(program(given[0].requires_grad_(), *given[1:]).square().sum(), given[0])[0]
    assert slope.isfinite().all() and slope.abs().max() > 1e-3


def test_a_table_and_double_precision(tiny, tmp_path):
    vae = moved(tiny, dict(likelihood=likelihoods.Tabular(TABLE))).double()
    program = torch.export.load(export_decoder(vae, tmp_path / "a.pt2")).module()
    z = torch.randn(6, 2, dtype=torch.float64)
    with torch.no_grad():
        expected = vae.eval().decode(z).mean
    found = program(z)
    assert found.dtype == torch.float64 and torch.allclose(found, expected, rtol=1e-12)
    assert set(found[:, 1].tolist()) <= {0.0, 1.0, 2.0}


def test_without_this_library(tiny, tmp_path):
    vae = moved(tiny, CASES[0])
    export_decoder(vae, tmp_path / "a.pt2")
    code = "import sys; sys.modules['pyrovae'] = sys.modules['pyro'] = None; import torch; " + (
        "print(torch.export.load('a.pt2').module()(torch.ones(2, 2)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    with torch.no_grad():
        expected = vae.eval().decode(torch.ones(2, 2)).mean
    assert torch.allclose(torch.tensor(ast.literal_eval(done.stdout)), expected, rtol=1e-6), done.stderr


@pytest.mark.parametrize("settings", [CASES[i] for i in (1, 2, 3, 5)], ids=str)
def test_onnx(tiny, tmp_path, settings):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install .[test] has it")
    vae = moved(tiny, settings)
    path = export_decoder(vae, tmp_path / "decoder.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["decoder.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = ["z", "condition"][: 2 if vae.likelihood.condition_dim else 1]
    assert [node.name for node in session.get_inputs()] == names
    for rows in (1, 2, 7):
        given, expected = inputs(vae, rows)
        feed = {name: value.numpy() for name, value in zip(names, given, strict=True)}
        (found,) = session.run(["mean"], feed)
        assert found.shape == expected.shape
        # Convolutions are summed in another order: measured, up to 7e-6.
        np.testing.assert_allclose(found, expected.numpy(), rtol=2e-5, atol=2e-5)


def test_what_it_refuses(tiny, tmp_path, monkeypatch):
    class Branch(nn.Module):
        def forward(self, z):
            return z if z.sum() > 0 else -z

    with pytest.raises(ValueError, match="expected a likelihood with a mean, got Categorical"):
        export_decoder(tiny(likelihood="categorical(classes=3)"), tmp_path / "a.pt2")
    with pytest.raises(ValueError, match="a decoder that torch.export can trace, got"):
        export_decoder(tiny(decoder=Branch()), tmp_path / "a.pt2")
    with pytest.raises(ValueError, match=r"ends in .npz, .pt2, .onnx, got 'a.onxx'"):
        export_decoder(tiny(), tmp_path / "a.onxx")
    monkeypatch.setattr(decoder_programs, "find_spec", lambda name: None if name == "onnxscript" else "there")
    with pytest.raises(ImportError, match=r"got no onnxscript. pip install 'pyrovae\[onnx\]'"):
        export_decoder(tiny(), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
