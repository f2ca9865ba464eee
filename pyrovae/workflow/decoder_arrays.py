"""A decoder as plain arrays, for programs that have nothing but arithmetic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import likelihoods, networks, priors, registry
from pyrovae.vae import VAE

LINKS: dict[type[nn.Module], str] = {
    likelihoods.Gaussian: "identity",
    likelihoods.Laplace: "identity",
    likelihoods.StudentT: "identity",
    likelihoods.Bernoulli: "sigmoid",
    likelihoods.Poisson: "exp",
    likelihoods.NegativeBinomial: "exp",
}
"""What makes the mean of the first number that a likelihood takes for each element."""
FUNCTIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Softplus: "softplus",
    nn.ELU: "elu",
    nn.SiLU: "silu",
    nn.LeakyReLU: "leaky_relu",
}
Step = tuple[str, tuple[Tensor, ...] | dict[str, float]]


def write_arrays(vae: VAE, path: Path) -> None:
    r"""E[x | z] of a dense decoder as a ``.npz`` file.

    The array ``spec`` is a JSON text. Its ``layers`` are to be gone through in order, from ``h = z`` (``h = [z, c]``
    where ``condition_dim`` is above 0):

    ==============================================  ==============================================================
    layer                                           what it does
    ==============================================  ==============================================================
    ``{"kind": "linear", "weight": w, "bias": b}``  ``h @ weight.T + bias``, of the arrays under these names
    ``{"kind": "affine", "weight": w, "bias": b}``  ``h * weight + bias`` (a batch normalisation, in evaluation mode)
    ``{"kind": "relu"}`` ...                        tanh, sigmoid, silu, ``softplus``: log(1 + exp(h)),
                                                    ``elu`` and ``leaky_relu`` with ``alpha``: of h < 0,
                                                    alpha (exp(h) - 1) and alpha h
    ==============================================  ==============================================================

    The mean is ``link`` of the last h (identity, sigmoid, or exp, which pyrovae continues as a line beyond
    :math:`e^{20}`), in the ``event_shape``. ``prior`` names p(z), with its arguments; it is null for one that has
    weights or is your own. ``latent_dim`` is D, ``likelihood`` names p(x | z). What is written is what evaluation mode
    computes; the file holds no code and no pickle.

    Raises:
        ValueError: for a network, a likelihood or a condition that it has no words for, naming it.

    >>> vae = VAE((4,), 2, likelihood="gaussian", decoder="mlp(hidden=[8])")
    >>> write_arrays(vae, Path("decoder.npz"))
    >>> [layer["kind"] for layer in json.loads(str(np.load("decoder.npz")["spec"]))["layers"]]
    ['linear', 'relu', 'linear']
    """
    piece = vae.likelihood.piece.likelihood if vae.missing else vae.likelihood.piece
    _check(vae, piece)
    layers: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    head, size = vae.likelihood.head, vae.event_shape.numel()
    # Of the head's numbers the first for each element are the locations.
    last = ("linear", (head.weight[:size], head.bias[:size]))
    for index, (kind, content) in enumerate([*_steps(vae.likelihood.network), last]):
        if isinstance(content, dict):
            layers.append({"kind": kind, **content})
            continue
        names = {part: f"{part}_{index}" for part in ("weight", "bias")}
        layers.append({"kind": kind, **names})
        arrays |= {name: value.detach().cpu().numpy() for name, value in zip(names.values(), content, strict=True)}
    prior = vae.prior.piece
    spec = {
        "format": "pyrovae decoder 1",
        "latent_dim": vae.latent_dim,
        "condition_dim": vae.likelihood.condition_dim,
        "event_shape": list(vae.event_shape),
        "layers": layers,
        "link": LINKS[type(piece)],
        "likelihood": registry.config(piece, likelihoods.FAMILY),
        "prior": None if any(True for _ in vae.prior.parameters()) else registry.config(prior, priors.FAMILY),
    }
    with path.open("wb") as file:
        np.savez(file, spec=np.array(json.dumps(spec)), **arrays)


def _check(vae: VAE, piece: nn.Module) -> None:
    """Raise a ValueError for what a file has no words for, the network apart."""
    if type(piece) not in LINKS:
        known = ", ".join(sorted(kind.__name__ for kind in LINKS))
        raise ValueError(f"export_decoder: expected a likelihood among {known}, got {type(piece).__name__}")
    if getattr(piece, "exposure", None) is not None:
        raise ValueError("export_decoder: expected counts without an exposure, got one. Use exposure=None.")
    if vae.condition_shape is not None:
        raise ValueError(f"export_decoder: expected a condition that is a vector, got images {vae.condition_shape}")
    if vae.prior.has("deep"):
        raise ValueError(f"export_decoder: expected one layer of latents, got {', '.join(vae.sites)}")


def _steps(network: nn.Module) -> Iterator[Step]:
    """The layers of a network in evaluation mode, in order; what does nothing then is left out."""
    kind = type(network)
    if kind is networks.MLP:
        yield from _steps(network.layers)
    elif kind is nn.Sequential:
        for layer in network:
            yield from _steps(layer)
    elif kind is nn.Linear:
        bias = network.weight.new_zeros(network.out_features) if network.bias is None else network.bias
        yield "linear", (network.weight, bias)
    elif kind is nn.BatchNorm1d and network.track_running_stats:
        yield "affine", _normalization(network)
    elif kind is nn.Softplus and (network.beta, network.threshold) != (1, 20):
        raise ValueError(f"export_decoder: expected the softplus log(1 + exp(h)), got {network}")
    elif kind in FUNCTIONS:
        slope = {"alpha": network.alpha} if kind is nn.ELU else {}
        yield FUNCTIONS[kind], {"alpha": network.negative_slope} if kind is nn.LeakyReLU else slope
    elif kind not in (nn.Identity, nn.Dropout):
        raise ValueError(
            "export_decoder: expected for .npz a decoder of dense layers (an MLP without skip and layer normalisation, "
            f"or an nn.Sequential of nn.Linear, {', '.join(sorted(k.__name__ for k in FUNCTIONS))}), got "
            f"{kind.__name__}. Any other goes into .pt2 or .onnx."
        )


def _normalization(layer: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Batch normalisation with its running statistics, as a factor and a constant of each element."""
    weight = torch.rsqrt(layer.running_var + layer.eps)
    weight = weight if layer.weight is None else weight * layer.weight
    constant = -layer.running_mean * weight
    return weight, constant if layer.bias is None else constant + layer.bias
