r"""A traced graph in a form of which Inductor makes faster code on a CPU: the same numbers, up to rounding.

Measured on one core at 784 pixels and 200 tanh units, importance-weighted log p(x) takes three quarters of the time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten

FACTORS = 16
"""The most that a product has, each between 1 and 2."""
LANES = 8
"""Numbers that a CPU works on at once."""


Ops = Callable[..., Node]
"""Makes a node that calls a function of aten's: the function, and its arguments."""


def rewrite(graph: GraphModule) -> None:
    """Change a graph in place, where its tensors are on a CPU."""

    def ops(function: Callable[..., object], *args: object) -> Node:
        return graph.graph.call_function(function, args)

    for node in list(graph.graph.nodes):
        change = CHANGES.get(node.target)
        if change is None or _tensor(node).device.type != "cpu":
            continue
        with graph.graph.inserting_before(node):
            other = change(node, ops)
        if other is not None:
            other.meta = dict(node.meta)
            node.replace_all_uses_with(other)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _tanh(node: Node, ops: Ops) -> Node:
    r""":math:`\tanh a = 2 / (1 + e^{-2a}) - 1`: an absolute error of a few eps, in less than half of the time."""
    power = ops(aten.exp.default, ops(aten.mul.Tensor, node.args[0], -2.0))
    share = ops(aten.reciprocal.default, ops(aten.add.Tensor, power, 1.0))
    return ops(aten.sub.Tensor, ops(aten.mul.Tensor, share, 2.0), 1.0)


def _log_bernoulli(node: Node, ops: Ops) -> Node | None:
    r"""The sum over the last dimension of Bernoulli log-densities, of values x and logits l, as

    .. math::
        \sum_d x_d l_d - \max(l_d, 0) - \sum_g \log \prod_{d \in g} (1 + e^{-|l_d|})

    over groups g of up to 16: a logarithm for each group, in the place of one for each element.
    """
    view = node.args[0]
    entropy = _inside(_inside(view, aten.view.default), aten.neg.default)
    # Neither weights nor a reduction.
    plain = _inside(entropy, aten.binary_cross_entropy_with_logits.default) and entropy.args[2:] == (None, None, 0)
    if not plain or node.args[1:] != ([-1],) or node.kwargs:
        return None
    logits, x = entropy.args[:2]
    shape = list(_tensor(view).shape)
    groups = shape[-1] // _factors(shape[-1])
    if groups == shape[-1]:
        return None
    logits, x = (ops(aten.reshape.default, value, shape) for value in (logits, x))
    near = ops(aten.exp.default, ops(aten.neg.default, ops(aten.abs.default, logits)))
    factors = ops(aten.view.default, ops(aten.add.Tensor, near, 1.0), [*shape[:-1], shape[-1] // groups, groups])
    logs = ops(aten.log.default, ops(aten.prod.dim_int, factors, -2))
    linear = ops(aten.sub.Tensor, ops(aten.mul.Tensor, x, logits), ops(aten.relu.default, logits))
    return ops(aten.sub.Tensor, *(ops(aten.sum.dim_IntList, part, [-1]) for part in (linear, logs)))


def _inside(node: Node | None, target: object) -> Node | None:
    """What a node, if it calls ``target``, is called of."""
    return node.args[0] if node is not None and node.target is target else None


def _factors(size: int) -> int:
    """How many factors go into one product: a divisor of ``size``, that leaves whole lanes if one does."""
    divisors = [n for n in range(1, FACTORS + 1) if size % n == 0]
    return max(divisors, key=lambda n: (size // n % LANES == 0, n))


def _tensor(node: Node) -> torch.Tensor:
    return node.meta["val"]


CHANGES: dict[object, Callable[[Node, Ops], Node | None]] = {
    aten.tanh.default: _tanh,
    aten.sum.dim_IntList: _log_bernoulli,
}
