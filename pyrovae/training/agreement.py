"""Whether machine code has the numbers of the graph that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

ROUNDING = 0.01
"""The greatest difference between two orders of the same sums, relative to the greatest number of a tensor."""
HALF = 0.2
"""That of sums of numbers of 16 bits."""
NOISE = 1e-6
"""The greatest number, relative to that of all tensors, of one that rounding errors alone decide: such as the gradient
of what a normalization takes away again."""


def disagreement(
    graph: GraphModule, machine: Callable[..., Sequence[Tensor | None]], inputs: Sequence[Tensor]
) -> float | None:
    """The greatest relative difference between what the two return and write, of copies of the inputs and from one
    random state; None where rounding explains it.

    Compilers have errors, too: that of torch 2.9 loses ``index_put`` by an ``arange``, the gradient of parameters that
    a latent selects which is summed out. Parameters themselves are left out: of a gradient that is all rounding error,
    Adam makes a step as long as any other. The moments in its state are not.
    """
    ends, written = [], []
    for function in (graph, machine):
        copies = [_copy(tensor) for tensor in inputs]
        with torch.random.fork_rng(devices={tensor.device for tensor in inputs if tensor.is_cuda}), torch.no_grad():
            returned = function(*copies)
        if function is graph:
            # Machine code does not count what it writes.
            written = [i for i, copy in enumerate(copies) if copy._version and not inputs[i].requires_grad]
        ends.append([_numbers(tensor) for tensor in (*returned, *(copies[i] for i in written)) if _has_numbers(tensor)])
    wanted, found = ends
    most = max((float(tensor.abs().max()) for tensor in wanted), default=0.0)
    tolerance = HALF if _of_half(graph) else ROUNDING
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        error, size = float((a - b).abs().max()), float(b.abs().max())
        if error > tolerance * size + NOISE * most:
            worst = max(worst, error / (max(size, NOISE * most) or error))
    return worst or None


def _copy(tensor: Tensor) -> Tensor:
    """One of the same strides, which machine code is made for, though rows may overlap."""
    if not tensor.numel():
        return tensor.detach().clone()
    length = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.detach().as_strided((length,), (1,)).clone().as_strided(tensor.shape, tensor.stride())


def _has_numbers(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.numel() > 0 and not tensor.is_meta


def _numbers(tensor: Tensor) -> Tensor:
    """Those that are finite."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return (tensor if tensor.dtype == torch.float32 else tensor.double()).nan_to_num(0.0, 0.0, 0.0)


def _of_half(graph: GraphModule) -> bool:
    values = (node.meta.get("val") for node in graph.graph.nodes)
    return any(isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) for value in values)
