"""What a library function must leave as it found it: module modes, random state, param store, validation, garbage
collection."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pyro
import torch
from torch import nn
from torch.distributions import Distribution


@contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """Inside: training mode. Afterwards every submodule has its own mode back."""
    modes = {m: m.training for m in module.modules()}
    module.train()
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside: evaluation mode and no gradients. Afterwards every submodule has its own mode back."""
    with training(module), torch.no_grad():
        module.eval()
        yield


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside: no parameter takes a gradient; what else needs one does. Afterwards those that did do again."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    try:
        for p in wanted:
            p.requires_grad_(False)
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


def reseed(seed: int) -> None:
    """As ``torch.manual_seed``, which takes a millisecond where there is no GPU: of each kind there may be one day, it
    notes with a stack trace that it is to be seeded then."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside: a device's random numbers from ``seed``. Afterwards they go on as before.

    For steps, because ``torch.manual_seed`` costs more than a small network.
    """
    if device.type == "cpu":
        state = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.default_generator.set_state(state)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield


@contextmanager
def isolated(seed: int | None, *, validation: bool | None = None) -> Iterator[None]:
    """Inside: a fresh param store, and random numbers from ``seed``. The user's own are as before afterwards.

    ``seed=None`` draws from the user's own stream; ``validation`` switches Pyro's checks on or off inside.
    """
    with ExitStack() as stack:
        stack.enter_context(pyro.get_param_store().scope())
        # Pyro's switch sets torch's too, and puts back only its own.
        stack.callback(Distribution.set_default_validate_args, Distribution._validate_args)
        if validation is not None:
            stack.enter_context(pyro.validation_enabled(validation))
        if seed is not None:
            stack.enter_context(torch.random.fork_rng())
            reseed(seed)
        yield


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside: Python looks for no garbage, which takes a second where a million objects are made, most of which stay.
    Afterwards it looks through those once, and then again as before."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
            gc.collect(0)
