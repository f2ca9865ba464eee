r"""Functions in a form of which Inductor makes faster code on a CPU: the same numbers, up to rounding.

Beside matrix products, most of a step is exponentials, for which Inductor calls a library, eight numbers at a time.
Here they are polynomials, which become part of the loop around them; measured on one core, in nanoseconds an element,
Bernoulli log-densities take 0.5 instead of 1.35, the sigmoids of their gradients 0.5 instead of 1.1, tanh 0.5 instead
of 1.1, softplus 0.8 instead of 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pyrovae.training.elementary import MOST, exp, log1p

aten = torch.ops.aten
ENTROPY = aten.binary_cross_entropy_with_logits.default

FACTORS = 64
"""The most that a product has, each between 1 and 2: far from what is too large for float32."""
LANES = 8
"""Numbers that a CPU works on at once."""

SHIFT = 24
"""e^a is 0 in float32 where 2^24 e^a is not a normal number."""


def _log1p_of_decay(a: Tensor) -> Tensor:
    r""":math:`\log(1 + e^{-|a|})`, subnormal numbers too."""
    return log1p(exp(-a.abs(), -MOST - SHIFT * math.log(2), math.inf, SHIFT) * 2.0**-SHIFT)


def _factor(a: Tensor) -> Tensor:
    r""":math:`1 + e^{-|a|}`."""
    return 1 + exp(-a.abs(), -MOST, math.inf)


def tanh(a: Tensor) -> Tensor:
    r""":math:`2 / (1 + e^{-2a}) - 1`: an absolute error of a few eps."""
    return 2 / (1 + exp(-2 * a, -MOST, MOST)) - 1


def sigmoid(a: Tensor) -> Tensor:
    r""":math:`1 / (1 + e^{-a})`; in float32, at most 2e-38 from it where it is less than that."""
    return 1 / (1 + exp(-a, -MOST, MOST))


def softplus(a: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    r""":math:`\max(a, 0) + \log(1 + e^{-|a|})`."""
    return a.relu() + _log1p_of_decay(a) if beta == 1 else NotImplemented


def softplus_backward(gradient: Tensor, a: Tensor, beta: float, threshold: float) -> Tensor:
    """The gradient of softplus, the sigmoid, times that of what follows."""
    return gradient * sigmoid(a) if beta == 1 else NotImplemented


def _ours(a: Tensor) -> bool:
    """Whether it is on a CPU, and its rounding errors are small enough to be added up."""
    return a.device.type == "cpu" and a.dtype in (torch.float32, torch.float64)


def _where_ours(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def change(*args: Any) -> Any:  # noqa: ANN401 - a tensor or NotImplemented
        return function(*args) if _ours(args[0]) else NotImplemented

    return change


def addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A matrix product, and then the bias, as part of the loop that follows; torch copies the bias into the result
    first, and adds the product to it. The dimension of one keeps Inductor from putting the two together again."""
    return (torch.mm(a, b).unsqueeze(0) + bias).squeeze(0) if bias.dim() == 1 else NotImplemented


def randperm(n: int, **kwargs: Any) -> Tensor:  # noqa: ANN401 - as the operation has them
    """The same by another name, that of no pattern of Inductor's: it would draw rows after what is drawn after them."""
    return aten.randperm.generator(n, generator=None, **kwargs)


def bernoulli_(a: Tensor, p: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """Draws in the order of memory, as torch's; Inductor would lay them out in another one, such as those of a dropout
    of what has been transposed."""
    if a.is_contiguous() or generator is not None:
        return NotImplemented
    order = sorted(range(a.dim()), key=a.stride, reverse=True)
    drawn = a.new_empty([a.shape[i] for i in order]).bernoulli_(p)
    return a.copy_(drawn.permute([order.index(i) for i in range(a.dim())]))


DECOMPOSITIONS = {
    aten.bernoulli_.float: bernoulli_,
    aten.randperm.default: randperm,
    aten.addmm.default: _where_ours(addmm),
    aten.tanh.default: _where_ours(tanh),
    aten.sigmoid.default: _where_ours(sigmoid),
    aten.softplus.default: _where_ours(softplus),
    aten.softplus_backward.default: _where_ours(softplus_backward),
}
"""What ``make_fx`` is to put in the place of functions of aten's."""


def log_bernoulli(shape: list[int], logits: Tensor, x: Tensor) -> Tensor:
    r"""The sum over the last dimension of Bernoulli log-densities, of values x and logits l of a shape, as

    .. math::
        \sum_g \Bigl( \sum_{d \in g} x_d l_d - \max(l_d, 0) - \log \prod_{d \in g} (1 + e^{-|l_d|}) \Bigr)

    over groups g of up to 64: a logarithm for each group, in the place of one for each element.
    """
    *rows, size = shape
    logits, x = (values.reshape(*rows, _factors(size), -1) for values in (logits, x))
    return ((x * logits - logits.relu()).sum(-2) - _factor(logits).prod(-2).log()).sum(-1)


def cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    """The negative Bernoulli log-density of each element; of a value that is certain nothing cancels."""
    return logits.relu() - x * logits + _log1p_of_decay(logits)


def rewrite(graph: GraphModule) -> None:
    """Change a graph in place, where its tensors are ours: sums of Bernoulli log-densities become `log_bernoulli`,
    others `cross_entropy`."""
    for node in graph.graph.find_nodes(op="call_function", target=aten.sum.dim_IntList):
        view = node.args[0]
        inner = _inside(_inside(view, aten.view.default), aten.neg.default)
        if not _plain(inner) or node.args[1:] != ([-1],) or node.kwargs:
            continue
        shape = list(view.meta["val"].shape)
        if _factors(shape[-1]) > 1:
            _replace(graph, node, partial(log_bernoulli, shape), inner.args[:2])
    graph.graph.eliminate_dead_code()
    for node in graph.graph.find_nodes(op="call_function", target=ENTROPY):
        if _plain(node):
            _replace(graph, node, cross_entropy, node.args[:2])
    graph.recompile()


def _plain(node: Node | None) -> bool:
    """Whether a node is a cross-entropy of ours, with neither weights nor a reduction."""
    return node is not None and node.target is ENTROPY and node.args[2:] == (None, None, 0) and _ours(node.meta["val"])


def _replace(graph: GraphModule, node: Node, function: Callable[..., Tensor], args: tuple[Node, ...]) -> None:
    """Put the operations of a function of other nodes in the place of one."""
    # Importing it takes a second.
    from torch.fx.experimental.proxy_tensor import make_fx

    inner = make_fx(lambda *inputs: function(*inputs))(*(arg.meta["val"] for arg in args))
    places = inner.graph.find_nodes(op="placeholder")
    with graph.graph.inserting_before(node):
        value = graph.graph.graph_copy(inner.graph, dict(zip(places, args, strict=True)))
    node.replace_all_uses_with(value)
    graph.graph.erase_node(node)


def _inside(node: Node | None, target: object) -> Node | None:
    """What a node, if it calls ``target``, is called of."""
    return node.args[0] if node is not None and node.target is target else None


def _factors(size: int) -> int:
    """How many factors go into one product: a divisor of ``size``, that leaves whole lanes if one does."""
    divisors = [n for n in range(1, FACTORS + 1) if size % n == 0]
    return max(divisors, key=lambda n: (size // n % LANES == 0, n))
