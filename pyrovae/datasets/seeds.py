"""Random streams of the library's own: the user's global random state is never read or moved."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for one purpose; another ``stream`` under the same ``seed`` is independent of it.

    With one plain seed for everything, the noise of a sample would repeat the very numbers its model was
    drawn from.

    >>> a, b = (torch.rand((), generator=generator(0, stream)) for stream in ("split", "pixels"))
    >>> bool(a == b)
    False
    """
    if seed < 0:
        raise ValueError(f"seed: expected a whole number of at least 0, got {seed}")
    state = np.random.SeedSequence([seed, zlib.crc32(stream.encode())]).generate_state(1)
    return torch.Generator(device="cpu").manual_seed(int(state[0]))
