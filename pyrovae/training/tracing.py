"""What Python may do while a function is traced: neither look at the value of a tensor nor leave one changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pyro
import pyro.infer.trace_elbo
import pyro.infer.trace_mean_field_elbo
import pyro.infer.traceenum_elbo
import pyro.poutine.trace_struct
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pyrovae.checks import trusted
from pyrovae.training.enumeration import of_one_shape

LOOKS = "Python looks at the value of a tensor"


class NotTraceable(Exception):
    """A function that cannot be one graph: Python looks at its numbers, or the compiler refuses it."""


@contextmanager
def without_looking() -> Iterator[None]:
    """Inside: neither Pyro nor we look at the values of tensors, and no random state moves."""
    silent = {
        "warn_if_nan": lambda value, *_: value,
        "warn_if_inf": lambda value, *_, **__: value,
        "torch_item": lambda value: value.detach() if isinstance(value, Tensor) else value,
    }
    modules = (
        pyro.infer.trace_elbo,
        pyro.infer.trace_mean_field_elbo,
        pyro.infer.traceenum_elbo,
        pyro.poutine.trace_struct,
    )
    with ExitStack() as stack:
        for module in modules:
            for name, substitute in silent.items():
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, substitute))
        stack.enter_context(of_one_shape())
        stack.enter_context(pyro.validation_enabled(False))
        # Those that were made before look, whatever is enabled now: such as a prior that is part of a module.
        stack.enter_context(mock.patch.object(torch.distributions.Distribution, "_validate_sample", lambda *_: None))
        stack.enter_context(trusted())
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def called() -> Iterator[list[nn.Module]]:
    """Inside, a list of the modules that were called."""
    found: dict[nn.Module, None] = {}
    hook = nn.modules.module.register_module_forward_pre_hook(lambda module, _: found.setdefault(module))
    modules: list[nn.Module] = []
    try:
        yield modules
    finally:
        hook.remove()
        modules.extend(found)


@contextmanager
def untouched() -> Iterator[None]:
    """Inside, nobody looks at the value of a tensor, which would be a constant of the graph, whatever becomes of it.
    And what is written to has its values back in the end: an operation on numbers and a tensor that a function closes
    over is really carried out (as in ``count.add_(1)``). Nor does a parameter stay in Pyro's store that is of the
    graph, and no tensor.

    Raises:
        NotTraceable: for a look, and for a new parameter.
    """
    store, new = pyro.get_param_store(), []
    with _Operations() as operations, _Lists():
        try:
            yield
        finally:
            operations.restore()
            new = [name for name, value in store.named_parameters() if isinstance(value, FakeTensor)]
            for name in new:
                del store[name]
    if new:
        raise NotTraceable(f"the program makes parameters as it goes ({new[0]})")


class _Operations(TorchDispatchMode):
    """Keeps what is written to, and refuses a look by an operation of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        # What the function made of a number of Python's has that as its constant.
        if torch.Tag.data_dependent_output in func.tags and getattr(args[0], "constant", None) is None:
            raise NotTraceable(LOOKS)
        if torch.Tag.dynamic_output_shape in func.tags and not _of_known_shape(func, args, kwargs or {}):
            raise NotTraceable("the values of a tensor decide how large another is")
        if (
            func._schema.is_mutable
            and args
            and type(args[0]) in (Tensor, nn.Parameter)
            and id(args[0]) not in self.kept
        ):
            with _disable_current_modes():
                self.kept[id(args[0])] = args[0], args[0].detach().clone()
        return func(*args, **(kwargs or {}))

    def restore(self) -> None:
        with _disable_current_modes(), torch.no_grad():
            for tensor, value in self.kept.values():
                tensor.copy_(value)


def _of_known_shape(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:  # noqa: ANN401 - an operation
    """Whether what might give a result of any shape does not: rows by their numbers, or a size that is given."""
    if func is torch.ops.aten.index.Tensor:
        return not any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return kwargs.get("output_size") is not None


class _Lists(TorchFunctionMode):
    """Refuses a look by what is no operation of torch's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            raise NotTraceable(LOOKS)
        return func(*args, **(kwargs or {}))
