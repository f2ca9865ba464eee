"""Save and load: one safetensors file that holds the tensors and, as JSON, how to build the model. No pickle."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from pyrovae import corruptions, likelihoods, networks, posteriors, priors, registry
from pyrovae import mechanism as mechanisms
from pyrovae.piece import Piece
from pyrovae.vae import VAE

FILE_NAME = "model.safetensors"
_FAMILIES = {
    "prior": priors.FAMILY,
    "likelihood": likelihoods.FAMILY,
    "posterior": posteriors.FAMILY,
    "encoder": networks.ENCODERS,
    "decoder": networks.DECODERS,
    "classifier": networks.ENCODERS,
    "corruption": corruptions.FAMILY,
    "mechanism": mechanisms.FAMILY,
}
_SIZES = (
    "event_shape", "latent_dim", "condition_dim", "condition_shape", "condition_on", "missing", "inference", "label",
    "label_weight",
)  # fmt: skip


def describe(vae: VAE) -> dict[str, Any]:
    """How to build ``vae`` again, as JSON: sizes and, for each part of the library's own, its name and arguments.

    A part of the user's own stands there as ``{"custom": its class}``: its code is not saved.
    """
    parts = {
        "prior": vae.prior.piece,
        "likelihood": vae.likelihood.piece.likelihood if vae.missing else vae.likelihood.piece,
        "posterior": vae.posterior.piece,
        "encoder": vae.posterior.network,
        "decoder": vae.likelihood.network,
        "corruption": vae.posterior.corruption,
        "mechanism": None if vae.mechanism is None else vae.mechanism.logits,
        "classifier": None if vae.y is None else vae.y.posterior.network,
    }
    described = {
        kind: None if part is None else registry.config(part, _FAMILIES[kind]) or {"custom": _class(part)}
        for kind, part in parts.items()
    }
    if vae.prior.has("deep"):
        described["prior"] = {"vae": describe(vae.prior.vae)}
    sizes = {size: getattr(vae, size) for size in _SIZES}
    return {**{size: list(value) if isinstance(value, tuple) else value for size, value in sizes.items()}, **described}


def save(vae: VAE, path: str | os.PathLike[str]) -> Path:
    """Write ``vae`` to a ``.safetensors`` file, or to ``model.safetensors`` in a folder; returns the file's path.

    The file appears under its name only when it is whole.
    """
    file = _file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    header = {**describe(vae), "dtype": str(vae.like.dtype).removeprefix("torch."), "training": vae.training}
    part = file.with_name(file.name + ".part")
    save_model(vae, str(part), metadata={"pyrovae": json.dumps(header)})
    part.replace(file)
    return file


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    prior: Piece | TorchDistribution | None = None,
    likelihood: Piece | None = None,
    posterior: Piece | None = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    classifier: nn.Module | None = None,
    corruption: Callable[[torch.Tensor], torch.Tensor] | None = None,
    mechanism: nn.Module | None = None,
) -> VAE:
    """Read a VAE from a file or folder that `save` wrote, on any device; its numbers are those of the saved one.

    Args:
        path: the file, or the folder (such as a run's) that holds ``model.safetensors``.
        device: where to put it.
        prior, likelihood, posterior, encoder, decoder, classifier, corruption, mechanism: parts of your own, made as
            they were before training.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that is damaged, is not pyrovae's, or needs a part of your own.
    """
    file = _file(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file. Expected a model that pyrovae.save wrote.")
    try:
        with safe_open(str(file), "pt") as opened:
            header = json.loads((opened.metadata() or {})["pyrovae"])
        for key in (*_SIZES, *_FAMILIES):
            header[key]
        dtype, training = getattr(torch, header["dtype"]), bool(header["training"])
    except (SafetensorError, KeyError, TypeError, AttributeError, json.JSONDecodeError, OSError) as error:
        raise ValueError(
            f"{file}: expected a model that pyrovae.save wrote, got an unreadable file ({error})"
        ) from error
    given = dict(
        prior=prior, likelihood=likelihood, posterior=posterior, encoder=encoder, decoder=decoder,
        classifier=classifier, corruption=corruption, mechanism=mechanism,
    )  # fmt: skip
    with torch.random.fork_rng(), warnings.catch_warnings():
        # Whoever made the parts was warned of them.
        warnings.simplefilter("ignore", UserWarning)
        vae = _built(header, given, file).to(dtype)
    try:
        load_model(vae, str(file))
    except RuntimeError as error:
        raise ValueError(f"{file}: its tensors do not fit the model ({error})") from error
    return vae.to(device).train(training)


def _built(described: Mapping[str, Any], given: Mapping[str, Any], file: Path) -> VAE:
    """The VAE that `describe` described, with those parts that are given."""
    parts = {kind: described[kind] if given.get(kind) is None else given[kind] for kind in _FAMILIES}
    if isinstance(parts["prior"], Mapping) and "vae" in parts["prior"]:
        parts["prior"] = _built(parts["prior"]["vae"], {}, file)
    for kind, part in parts.items():
        if isinstance(part, Mapping) and "custom" in part:
            # Of a layer above it, the user has the whole VAE to give.
            needed = kind if given else "prior"
            raise ValueError(f"{file}: its {kind} is a {part['custom']}, not pyrovae's: pass load(..., {needed}=...)")
    made = {
        kind: registry.make(part, _FAMILIES[kind], kind) if isinstance(part, Mapping) else part
        for kind, part in parts.items()
    }
    return VAE(**{size: described[size] for size in _SIZES}, **made)


def _class(part: object) -> str:
    """The class of a part of the user's own; of a Pyro distribution rather than of what wraps it."""
    kind = type(getattr(part, "distribution", part))
    return f"{kind.__module__}.{kind.__qualname__}"


def _file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / FILE_NAME
