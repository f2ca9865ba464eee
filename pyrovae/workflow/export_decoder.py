"""A decoder as a file, for programs without this library."""

from __future__ import annotations

import os
from pathlib import Path

from pyrovae.vae import VAE
from pyrovae.workflow.decoder_arrays import write_arrays
from pyrovae.workflow.decoder_programs import write_onnx, write_pt2

WRITERS = {".npz": write_arrays, ".pt2": write_pt2, ".onnx": write_onnx}


def export_decoder(vae: VAE, path: str | os.PathLike[str]) -> Path:
    r"""Write E[x | z] as a file, in the form that its name ends in.

    =========  ===========================  ===========================================================================
    ending     decoder                      what reads it
    =========  ===========================  ===========================================================================
    ``.npz``   of dense layers              NumPy, and so NumPyro, PyMC or Stan: arrays and a list of layers (see
                                            `pyrovae.workflow.decoder_arrays.write_arrays`)
    ``.pt2``   any that torch.export takes  torch alone: ``torch.export.load(path).module()``, with gradients by z
    ``.onnx``  any that torch.export takes  ONNX runtimes, in any language; ``pip install 'pyrovae[onnx]'`` to write it
    =========  ===========================  ===========================================================================

    The last two take z ``(B, D)``, and where the decoder has one, the condition ``(B, C)`` as ``VAE.check_condition``
    gives it, for any B. They give the mean ``(B, *event_shape)``; of a table's nominal columns, the likeliest class. Of
    several layers, z is the one next to x. What is written is what evaluation mode computes, in the model's dtype; the
    file appears under its name only when it is whole.

    Args:
        vae: the model; for ``.npz`` of one layer of latents, its decoder an `pyrovae.networks.MLP` without ``skip`` and
            layer normalisation, or your own ``nn.Sequential`` of ``nn.Linear`` and such functions.
        path: the file; ``.npz`` is added to a name without an ending.

    Returns:
        The path of the file.

    Raises:
        ValueError: for another ending; a network, a likelihood or a condition that an ``.npz`` file has no words for; a
            likelihood without a mean, or a network that torch.export does not take.
        ImportError: for ``.onnx`` without the packages that write it.

    >>> import torch
    >>> vae = VAE((1, 8, 8), 2, decoder="conv")
    >>> program = torch.export.load(export_decoder(vae, "decoder.pt2")).module()
    >>> program(torch.zeros(5, 2)).shape
    torch.Size([5, 1, 8, 8])
    """
    path = Path(path)
    path = path if path.suffix else path.with_name(path.name + ".npz")
    if path.suffix not in WRITERS:
        raise ValueError(f"export_decoder: expected a name that ends in {', '.join(WRITERS)}, got {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        WRITERS[path.suffix](vae, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
