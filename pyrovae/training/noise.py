"""Random numbers of a graph that depend on nothing in it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

Draw = Callable[[torch.Generator | None], Tensor]
"""Random numbers from a generator, or from torch's own."""


def take_out(graph: GraphModule) -> list[Draw] | None:
    """Make the random numbers of a graph on a CPU its last inputs, in the order in which it would draw them, and return
    what draws them; None, with the graph as it was, where other tensors decide what is drawn, or inputs are written."""
    nodes = [node for node in graph.graph.nodes if _random(node)]
    if not all(map(_alone, nodes)) or any(map(_writes_to_input, graph.graph.nodes)):
        return None
    draws = [_draw(node) for node in nodes]
    for node in nodes:
        empty, last = node.args[0], graph.graph.find_nodes(op="placeholder")[-1:]
        with graph.graph.inserting_after(last[0]) if last else graph.graph.inserting_before():
            given = graph.graph.placeholder(f"drawn_{node.name}")
        given.meta = dict(node.meta)
        node.replace_all_uses_with(given)
        graph.graph.erase_node(node)
        graph.graph.erase_node(empty)
    graph.recompile()
    return draws


def _random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _alone(node: Node) -> bool:
    """Whether random numbers are written to new memory on a CPU, and are of a distribution without tensors."""
    empty, *others = node.args
    return (
        node.target._schema.is_mutable
        and getattr(empty, "target", None) is torch.ops.aten.empty.memory_format
        and len(empty.users) == 1
        and node.meta["val"].is_cpu
        and not any(isinstance(arg, Node) for arg in (*others, *node.kwargs.values()))
    )


def _writes_to_input(node: Node) -> bool:
    """Whether an operation writes to a tensor that is given, or to a part of one."""
    if not getattr(getattr(node.target, "_schema", None), "is_mutable", False):
        return False
    base = node
    while base.op == "call_function" and base.args and _of_its_first(base):
        base = base.args[0]
    return base.op == "placeholder"


def _of_its_first(node: Node) -> bool:
    """Whether the result of an operation has the memory of its first argument, or is that."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.arguments[0].alias_info is not None


def _draw(node: Node) -> Draw:
    random, empty = node.target, node.args[0]
    (new, size, settings), args, kwargs = (empty.target, empty.args, empty.kwargs), node.args[1:], node.kwargs
    return lambda generator: random(new(*size, **settings), *args, **{**kwargs, "generator": generator})
