"""A module's parameters, told to Pyro under a name that no other module has."""

from __future__ import annotations

import itertools
from contextlib import suppress
from weakref import WeakKeyDictionary

import pyro
from torch import nn

_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_counter = itertools.count()


def register(module: nn.Module) -> None:
    """Make every trainable parameter of ``module`` a ``pyro.param``, so that SVI finds and moves it.

    ``pyro.module("vae", module)`` under a fixed name makes the second model of a process train the first one's
    parameters, without a word. Here each module object has its own name, copies and loaded models too, and the
    store is mended where it holds something else than the module's own tensors (after
    ``load_state_dict(assign=True)``, a swapped submodule, or a name reused).
    """
    store = pyro.get_param_store()
    if module not in _names:
        _names[module] = f"vae_{next(_counter)}"
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if not parameter.is_contiguous():
            # The store would keep a contiguous copy, and training would move the copy.
            parameter.data = parameter.data.contiguous()
        full_name = f"{_names[module]}$$${name}"
        if full_name in store and store[full_name].unconstrained() is not parameter:
            # KeyError: another module shares the tensor, and the store has its name for it.
            with suppress(KeyError):
                del store[full_name]
        pyro.param(full_name, parameter)
