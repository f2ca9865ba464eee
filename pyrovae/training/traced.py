"""A function of tensors as one compiled graph for each shape of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pyrovae.checks import trusted
from pyrovae.training.captured import Captured, recordable
from pyrovae.training.enumeration import of_one_shape
from pyrovae.training.inductor import compiled, warming
from pyrovae.training.rewrites import DECOMPOSITIONS, rewrite

PLAIN = (Tensor, int, float, bool, str, type(None))
"""Types of arguments that hold no others."""
LOOKS = "Python looks at the value of a tensor"


class NotTraceable(Exception):
    """A function that cannot be one graph: Python looks at its numbers, or the compiler refuses it."""


class Call:
    """Arguments, the tensors among them, and ``shape``: what two calls must share to have one graph."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs
        # Most calls are of tensors and numbers alone, and pytree takes longer than the step of a small model.
        plain = not kwargs and all(type(arg) in PLAIN for arg in args)
        leaves, spec = (args, None) if plain else pytree.tree_flatten((args, kwargs))
        self.tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self.shape = (
            # Itself, it is no key of a dictionary in torch 2.8.
            repr(spec),
            *((leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf for leaf in leaves),
        )


class Traced:
    """``function``, whose Python runs once for each shape of its arguments; after that, a compiled graph does.

    Whatever tensors the function closes over, parameters, buffers, the state of an optimizer, are inputs of the graph:
    what it writes to them is written, and what others write to them it sees. Random draws are those that the function
    itself would make.

    Args:
        function: of tensors, and of other things that do not change often, to a tuple of tensors.
        most: operations of a graph that is not too long to be compiled; None: any.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], most: int | None = None) -> None:
        self.function, self.most = function, most
        self._compiled: dict[Any, list[tuple[_State, Callable[[list[Tensor]], tuple[Tensor, ...]]]]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:  # noqa: ANN401 - as the function has it
        return self.run(Call(args, kwargs))

    def run(self, call: Call) -> tuple[Tensor, ...]:
        """The function of the arguments of a call."""
        graphs = self._compiled.setdefault(call.shape, [])
        machine = next((machine for state, machine in graphs if state.is_the_same()), None)
        if machine is None:
            graphs.append(self._compile(*pytree.tree_flatten((call.args, call.kwargs)), call.tensors))
            machine = graphs[-1][1]
        with torch.no_grad():
            return machine(call.tensors)

    def _compile(
        self, leaves: list[Any], spec: pytree.TreeSpec, tensors: list[Tensor]
    ) -> tuple[_State, Callable[[list[Tensor]], tuple[Tensor, ...]]]:
        def flat(*inputs: Tensor) -> tuple[Tensor, ...]:
            given = iter(inputs)
            args, kwargs = pytree.tree_unflatten(
                [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec
            )
            with _Unlisted(), _Untouched() as untouched:
                try:
                    return self.function(*args, **kwargs)
                finally:
                    untouched.restore()

        # Importing it takes a second.
        from torch.fx.experimental.proxy_tensor import make_fx

        try:
            with warming(), _without_looking(), _called() as modules:
                graph = make_fx(
                    flat, decomposition_table=DECOMPOSITIONS, tracing_mode="fake", _allow_non_fake_inputs=True
                )(*tensors)
        except Exception as error:
            raise _not_traceable(error) from error
        if self.most is not None and len(graph.graph.nodes) > self.most:
            raise NotTraceable(f"{len(graph.graph.nodes)} operations would take too long to compile")
        closed = _lift(graph)
        rewrite(graph)
        try:
            machine = compiled(graph, [*tensors, *closed])
        except Exception as error:
            raise _not_traceable(error) from error
        state = _State(modules, closed)
        if recordable([*tensors, *closed]):
            return state, Captured(machine, closed)
        return state, lambda inputs: machine(*inputs, *closed)


class _State:
    """What a function does that depends on no number: which modules are in training, which tensors have a gradient."""

    def __init__(self, modules: list[nn.Module], tensors: list[Tensor]) -> None:
        self.modules, self.tensors = modules, tensors
        self.was = self.now()

    def now(self) -> list[bool]:
        return [module.training for module in self.modules] + [tensor.requires_grad for tensor in self.tensors]

    def is_the_same(self) -> bool:
        return self.now() == self.was


@contextmanager
def _called() -> Iterator[list[nn.Module]]:
    """Inside, a list of the modules that were called."""
    found: dict[nn.Module, None] = {}
    hook = nn.modules.module.register_module_forward_pre_hook(lambda module, _: found.setdefault(module))
    modules: list[nn.Module] = []
    try:
        yield modules
    finally:
        hook.remove()
        modules.extend(found)


class _Untouched(TorchDispatchMode):
    """While a function is traced, keeps what is written to: an operation on numbers and a tensor that the function
    closes over is really carried out (as in ``count.add_(1)``). And lets nobody look at a value: it would be a constant
    of the graph, whatever becomes of the tensor."""

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


class _Unlisted(TorchFunctionMode):
    """Lets nobody look at the values of a tensor by what is no operation of torch's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            raise NotTraceable(LOOKS)
        return func(*args, **(kwargs or {}))


def _not_traceable(error: Exception) -> NotTraceable:
    if isinstance(error, NotTraceable):
        return error
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return NotTraceable(f"{type(error).__name__}: {first}")


def _lift(graph: GraphModule) -> list[Tensor]:
    """Make the tensors that a graph closes over its last inputs, and return them."""
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    found: dict[int, tuple[Node, Tensor]] = {}
    names = set()
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        tensor = getattr(graph, node.target)
        if id(tensor) not in found:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"closed_{len(found)}")
            last.meta = dict(node.meta)
            found[id(tensor)] = last, tensor
        node.replace_all_uses_with(found[id(tensor)][0])
        graph.graph.erase_node(node)
        names.add(node.target)
    for name in names:
        # What stayed an attribute would be an input once more.
        delattr(graph, name)
    return [tensor for _, tensor in found.values()]


@contextmanager
def _without_looking() -> Iterator[None]:
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
        stack.enter_context(trusted())
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(torch.enable_grad())
        yield
