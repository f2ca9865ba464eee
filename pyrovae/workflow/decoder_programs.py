"""A decoder as a program of its own: for torch without this library, and for ONNX runtimes."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrovae.distributions import Categorical, Product
from pyrovae.modes import evaluating, frozen, isolated
from pyrovae.vae import VAE

if TYPE_CHECKING:
    from torch.export import ExportedProgram

BATCH = 3
"""Rows that a decoder is traced with; any other number goes through the program, too."""


class Mean(nn.Module):
    """E[x | z] of a VAE: z ``(B, D)`` and, where there is one, a condition ``(B, C)``, to ``(B, *event_shape)``."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.likelihood = vae.likelihood

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return _mean(self.likelihood(z, condition))


def write_pt2(vae: VAE, path: Path) -> None:
    """E[x | z] as a program that ``torch.export.load(path).module()`` runs without this library.

    >>> write_pt2(VAE((4,), 2, likelihood="gaussian"), Path("decoder.pt2"))
    >>> torch.export.load("decoder.pt2").module()(torch.zeros(5, 2)).shape
    torch.Size([5, 4])
    """
    with frozen(vae), path.open("wb") as file:
        torch.export.save(_program(vae), file)


def write_onnx(vae: VAE, path: Path) -> None:
    """E[x | z] in the format of https://onnx.ai, all in one file: inputs ``z`` and ``condition``, output ``mean``.

    Raises:
        ImportError: where the packages that write it are not there.
    """
    if lacking := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ImportError(
            f"export_decoder: .onnx expected the packages onnx and onnxscript, got no {' and no '.join(lacking)}. "
            "pip install 'pyrovae[onnx]'"
        )
    names = ["z", "condition"] if vae.likelihood.condition_dim else ["z"]
    program = torch.onnx.export(_program(vae), input_names=names, output_names=["mean"], dynamo=True, verbose=False)
    program.save(path, external_data=False)


def _program(vae: VAE) -> ExportedProgram:
    """The decoder in evaluation mode, traced, for any number of rows and with gradients by its inputs."""
    width, like = vae.likelihood.condition_dim, vae.like
    inputs = tuple(like.new_zeros(BATCH, size) for size in (vae.latent_dim, width) if size)
    with isolated(None, validation=False), evaluating(vae):
        kind = type(vae.likelihood.piece).__name__
        try:
            known = bool(Mean(vae)(*inputs).isfinite().all())
        except NotImplementedError:
            known = False
        if not known:
            raise ValueError(f"export_decoder: expected a likelihood with a mean, got {kind}")
        try:
            with warnings.catch_warnings():
                # Recurrent layers of torch keep their weights twice.
                warnings.filterwarnings("ignore", r"[\s\S]*_flat_weights")
                rows = torch.export.Dim("batch")
                return torch.export.export(Mean(vae), inputs, dynamic_shapes=tuple({0: rows} for _ in inputs))
        except Exception as error:
            raise ValueError(
                f"export_decoder: expected a decoder that torch.export can trace, got {type(error).__name__}: {error}. "
                "Let no Python if or loop depend on values."
            ) from error


def _mean(p: TorchDistribution) -> Tensor:
    """E[x], and of a table's nominal columns the likeliest, by operations that do not depend on values."""
    if isinstance(p, Product):
        return p.join([part.mode if type(part) is Categorical else part.mean for _, part in p.parts])
    return p.mean
