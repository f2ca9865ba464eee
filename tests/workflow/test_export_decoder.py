"""An exported decoder, run by NumPy alone, gives the mean that the VAE gives."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from pyrovae import export_decoder

FUNCTIONS = {
    "relu": lambda h: np.maximum(h, 0),
    "tanh": np.tanh,
    "sigmoid": lambda h: 1 / (1 + np.exp(-h)),
    "silu": lambda h: h / (1 + np.exp(-h)),
    "softplus": lambda h: np.logaddexp(h, 0),
    "elu": lambda h, alpha: np.where(h > 0, h, alpha * np.expm1(np.minimum(h, 0))),
    "leaky_relu": lambda h, alpha: np.where(h > 0, h, alpha * h),
    "linear": lambda h, weight, bias: h @ weight.T + bias,
    "affine": lambda h, weight, bias: h * weight + bias,
    "identity": lambda h: h,
    "exp": np.exp,
}


def mean(path, z):
    """E[x | z] from the file; z beside the condition, if there is one."""
    arrays = np.load(path, allow_pickle=False)
    spec, h = json.loads(str(arrays["spec"])), z
    for layer in spec["layers"]:
        arguments = {k: arrays[v] if k in ("weight", "bias") else v for k, v in layer.items() if k != "kind"}
        h = FUNCTIONS[layer["kind"]](h, **arguments)
    return FUNCTIONS[spec["link"]](h).reshape(len(z), *spec["event_shape"])


def custom():
    return nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Dropout(0.5), nn.Sequential(nn.Linear(8, 8), nn.ELU(0.7)))


@pytest.mark.parametrize(
    "arguments",
    [
        dict(decoder=f"mlp(hidden=[8,6], activation={name})")
        for name in ("relu", "tanh", "sigmoid", "silu", "softplus", "elu", "leaky_relu", "identity")
    ]
    + [
        dict(decoder="mlp(hidden=[8], norm=batch, dropout=0.3)"),
        dict(decoder=custom()),
        dict(decoder=nn.Identity()),
        dict(likelihood="gaussian(scale=network)"),
        dict(likelihood="bernoulli", event_shape=(1, 4, 4)),
        dict(likelihood="poisson"),
        dict(likelihood="negative_binomial"),
        dict(likelihood="student_t", missing="mask"),
        dict(condition_dim=3),
    ],
    ids=str,
)
def test_numpy_gives_the_same_mean(tiny, tmp_path, arguments):
    vae = tiny(**arguments).double()
    with torch.no_grad():
        for parameter in vae.likelihood.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for layer in vae.likelihood.modules():
            if isinstance(layer, nn.BatchNorm1d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2.0)
    z = torch.randn(7, 2, dtype=torch.float64)
    condition = torch.randn(7, 3, dtype=torch.float64) if arguments.get("condition_dim") else None
    path = export_decoder(vae, tmp_path / "decoder")
    assert path == tmp_path / "decoder.npz" and vae.training
    inputs = z if condition is None else torch.cat([z, condition], 1)
    with torch.no_grad():
        expected = vae.eval().decode(z, condition).mean.numpy()
    found = mean(path, inputs.numpy())
    assert found.shape == expected.shape == (7, *vae.event_shape)
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-6) and np.ptp(expected, 0).max() > 0.01


def test_what_the_file_says(tiny, tmp_path):
    def spec(**arguments):
        return json.loads(str(np.load(export_decoder(tiny(**arguments), tmp_path / "a.npz"))["spec"]))

    plain = spec()
    assert (plain["latent_dim"], plain["condition_dim"], plain["event_shape"]) == (2, 0, [3])
    assert plain["prior"]["name"] == "normal" and plain["prior"]["learned"] is False
    assert plain["likelihood"]["name"] == "gaussian" and plain["likelihood"]["scale"] == 1.0
    assert spec(prior="normal(learned=True)")["prior"] is None
    assert spec(condition_dim=3, condition_on=["encoder"])["condition_dim"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_what_it_refuses(tiny, tmp_path):
    refused = {
        "got LayerNorm": dict(decoder="mlp(hidden=[8], norm=layer)"),
        "got Residual": dict(decoder="mlp(hidden=[8, 8], skip=True)"),
        "got Conv": dict(decoder="conv", event_shape=(1, 8, 8)),
        "got GELU": dict(decoder="mlp(hidden=[8], activation=gelu)"),
        "the softplus": dict(decoder=nn.Sequential(nn.Linear(2, 4), nn.Softplus(beta=2))),
        "a likelihood among Bernoulli": dict(likelihood="beta"),
        "without an exposure": dict(likelihood="poisson(exposure=0)", condition_dim=1),
        "got images": dict(condition_shape=(1, 4, 4)),
        "one layer of latents": dict(latent_dim=[2, 2]),
    }
    for reason, arguments in refused.items():
        with pytest.raises(ValueError, match=f"export_decoder: .*{reason}"):
            export_decoder(tiny(**arguments), tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())
