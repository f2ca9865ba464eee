"""A function of tensors as one compiled graph for each shape of its arguments."""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from enum import Enum
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from pyrovae.modes import uncollected
from pyrovae.training.agreement import disagreement
from pyrovae.training.captured import Captured, recordable
from pyrovae.training.inductor import compiled, warming
from pyrovae.training.noise import Draw, take_out
from pyrovae.training.rewrites import DECOMPOSITIONS, rewrite
from pyrovae.training.tracing import NotTraceable, called, untouched, without_looking
from pyrovae.training.workspace import WORKSPACE

PLAIN = (Tensor, int, float, bool, str, type(None))
"""Types of arguments that hold no others."""
FIXED = (Number, str, bytes, range, Enum, torch.dtype, torch.device, type(None), Callable)
"""What an argument may be beside a tensor: what is equal to another stands for the same, and modules and functions,
whose tensors a graph reads anew at each call."""
MANY = 8
"""Graphs, each of which takes seconds, of which one is told if they differ in a number of Python's."""


def layout(tensor: Tensor) -> tuple[Any, ...]:
    """What a graph is made for: of x and its transpose, rows of a table and of some of its columns, one each."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def fixed(leaf: Any) -> bool:  # noqa: ANN401 - any argument
    """Whether an argument that is no tensor is the same for as long as it is equal."""
    return isinstance(leaf, FIXED) and isinstance(leaf, Hashable)


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
            None if spec is None else repr(spec),
            # 1, 1.0 and True are equal, and what a model makes of them is not.
            *(
                layout(leaf) if isinstance(leaf, Tensor) else (type(leaf), leaf if fixed(leaf) else None)
                for leaf in leaves
            ),
        )

    def others(self) -> list[Any]:
        """Arguments that are no tensors."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if not isinstance(leaf, Tensor)]


class Traced:
    """``function``, whose Python runs once for each shape of its arguments; after that, a compiled graph does.

    Whatever tensors the function closes over, parameters, buffers, the state of an optimizer, are inputs of the graph:
    what it writes to them is written, and what others write to them it sees. Random draws are those that the function
    itself would make.

    Args:
        function: of tensors, and of other things that do not change often, to a tuple of tensors.
        most: operations of a graph that is not too long to be compiled; None: any.
        apart: whether threads are to run it, on a CPU, which they can where an `Apart` can be made of it.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor, ...]], most: int | None = None, *, apart: bool = False
    ) -> None:
        self.function, self.most, self.apart = function, most, apart
        self._compiled: dict[Any, list[tuple[_State, Callable[[list[Tensor]], tuple[Tensor, ...]]]]] = {}
        self._alike: Counter[Any] = Counter()
        weakref.finalize(self, WORKSPACE.clear).atexit = False

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:  # noqa: ANN401 - as the function has it
        return self.run(Call(args, kwargs))

    def run(self, call: Call) -> tuple[Tensor, ...]:
        """The function of the arguments of a call."""
        machine = self._machine(call)
        with torch.no_grad():
            return machine(call.tensors)

    def ready(self, *args: Any, **kwargs: Any) -> Callable[[list[Tensor]], tuple[Tensor, ...]]:  # noqa: ANN401
        """What computes the function of tensors with the shapes of these, all else the same; maybe an `Apart`."""
        return self._machine(Call(args, kwargs))

    def _machine(self, call: Call) -> Callable[[list[Tensor]], tuple[Tensor, ...]]:
        """The graph for a call, compiled where there is none yet."""
        for state, machine in self._compiled.get(call.shape, ()):
            if state.is_the_same():
                return machine
        if call.shape not in self._compiled:
            self._count(call)
        with uncollected():
            made = self._compile(call)
        self._compiled.setdefault(call.shape, []).append(made)
        return made[1]

    def _count(self, call: Call) -> None:
        """Warn where graphs differ in what is no tensor alone."""
        layouts = tuple(map(layout, call.tensors))
        self._alike[layouts] += 1
        if self._alike[layouts] == MANY:
            warnings.warn(
                f"{MANY} graphs were compiled for tensors of the same shapes, as other arguments differ (now "
                f"{', '.join(map(repr, call.others()))}): pass a number that changes as a tensor",
                stacklevel=6,
            )

    def _compile(self, call: Call) -> tuple[_State, Callable[[list[Tensor]], tuple[Tensor, ...]]]:
        if strange := [type(leaf).__name__ for leaf in call.others() if not fixed(leaf)]:
            raise NotTraceable(f"an argument is a {strange[0]}, whose changes no graph sees: pass tensors and numbers")
        tensors = call.tensors
        leaves, spec = pytree.tree_flatten((call.args, call.kwargs))

        def flat(*inputs: Tensor) -> tuple[Tensor, ...]:
            given = iter(inputs)
            args, kwargs = pytree.tree_unflatten(
                [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec
            )
            with untouched():
                return self.function(*args, **kwargs)

        # Importing it takes a second.
        from torch.fx.experimental.proxy_tensor import make_fx

        try:
            with warming(), without_looking(), called() as modules:
                graph = make_fx(
                    flat, decomposition_table=DECOMPOSITIONS, tracing_mode="fake", _allow_non_fake_inputs=True
                )(*tensors)
        except Exception as error:
            raise _not_traceable(error) from error
        if self.most is not None and len(graph.graph.nodes) > self.most:
            raise NotTraceable(f"{len(graph.graph.nodes)} operations would take too long to compile")
        closed = _lift(graph)
        rewrite(graph)
        inputs = [*tensors, *closed]
        draws = take_out(graph) if self.apart and all(tensor.is_cpu for tensor in inputs) else None
        # Not from torch's own generator, which is for the calls.
        inputs.extend(draw(torch.Generator()) for draw in draws or ())
        try:
            machine = compiled(graph, inputs, one_core=draws is not None)
            wrong = disagreement(graph, machine, inputs)
        except Exception as error:
            raise _not_traceable(error) from error
        if wrong is not None:
            raise NotTraceable(
                f"torch {torch.__version__} compiles it to other numbers (by {wrong:.2g} of what they are): try another"
            )
        state = _State(modules, closed)
        if draws is not None:
            return state, Apart(machine, closed, draws)
        if recordable([*tensors, *closed]):
            return state, Captured(machine, closed)
        return state, lambda inputs: machine(*inputs, *closed)


class Apart:
    """A graph that any number of threads may run at a time, each on a core of its own, with random numbers of its own.

    They are drawn before it runs, from a generator of the thread's, which they may be where they depend on nothing that
    the graph computes; and it writes to no tensor but those that it makes.
    """

    def __init__(self, machine: Callable[..., tuple[Tensor, ...]], closed: list[Tensor], draws: list[Draw]) -> None:
        self.machine, self.closed, self.draws = machine, closed, draws

    @torch.no_grad()
    def __call__(self, inputs: list[Tensor], generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        return self.machine(*inputs, *self.closed, *(draw(generator) for draw in self.draws))


class _State:
    """What a function does that depends on no number: which modules are in training, which tensors have a gradient."""

    def __init__(self, modules: list[nn.Module], tensors: list[Tensor]) -> None:
        self.modules = modules
        self.tensors = [tensor for tensor in tensors if tensor.requires_grad or isinstance(tensor, nn.Parameter)]
        self.was = self.now()

    def now(self) -> list[bool]:
        return [module.training for module in self.modules] + [tensor.requires_grad for tensor in self.tensors]

    def is_the_same(self) -> bool:
        return self.now() == self.was


def _not_traceable(error: Exception) -> NotTraceable:
    if isinstance(error, NotTraceable):
        return error
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return NotTraceable(f"{type(error).__name__}: {first}")


def _lift(graph: GraphModule) -> list[Tensor]:
    """Make the tensors that a graph closes over its last inputs, and return them."""
    given = [node for node in graph.graph.nodes if node.op == "placeholder"]
    last = given[-1] if given else None
    found: dict[int, tuple[Node, Tensor]] = {}
    names = set()
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        tensor = getattr(graph, node.target)
        if id(tensor) not in found:
            with graph.graph.inserting_after(last) if last else graph.graph.inserting_before():
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
