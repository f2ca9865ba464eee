"""Memory that compiled graphs on a CPU keep from call to call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from sys import getrefcount
from threading import local
from unittest import mock

import torch
from torch import Tensor
from torch.fx import GraphModule

try:
    from torch._C import _storage_Use_Count as references
    from torch._C._dynamo.guards import _empty_strided_cpu as empty
    from torch._C._dynamo.guards import _reinterpret_tensor as alias
except ImportError:
    # They are not public.
    references = None

LEAST = 2**20
"""Bytes of a tensor whose memory is kept."""

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


class Block:
    """Memory of a tensor, and whether it is anybody else's."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.storage = tensor, tensor.untyped_storage()
        self.alone = self.holders()

    def holders(self) -> tuple[int, int]:
        """How many refer to it: torch, as to that of other tensors, and Python, as to a storage."""
        return references(self.storage._cdata), getrefcount(self.storage)

    def free(self) -> bool:
        """Whether nobody refers to it who did not at first."""
        return self.holders() == self.alone


class Workspace(local):
    """Large tensors, each given out again once nothing else refers to its memory.

    What a graph computes on the way is allocated and freed at each of its calls, and large pieces of memory go back to
    the system, or do not, as the C library thinks of what else the process does. New ones come page by page, filled
    with zeros: a third of a step of 6,400 draws of 784 pixels.

    Each thread has tensors of its own, so that no two can take the same one.
    """

    def __init__(self) -> None:
        self.kept: dict[Layout, list[Block] | None] = {}

    def empty_strided(self, size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """As ``torch.empty_strided``."""
        layout = size, stride, dtype
        if layout not in self.kept:
            large = empty(size, stride, dtype).untyped_storage().nbytes() >= LEAST
            self.kept[layout] = [] if large else None
        kept = self.kept[layout]
        if kept is None:
            return empty(size, stride, dtype)
        block = next((block for block in kept if block.free()), None)
        if block is None:
            block = Block(empty(size, stride, dtype))
            kept.append(block)
        # Another tensor, which refers to the memory as long as it is used.
        return alias(block.tensor, size, stride, 0)

    def clear(self) -> None:
        """Keep nothing. What is in use is freed when it no longer is."""
        self.kept.clear()


WORKSPACE = Workspace()


@contextmanager
def keeping(graph: GraphModule) -> Iterator[None]:
    """Inside, a graph becomes code that takes its memory from the workspace, if it needs much; what other graphs left
    there goes."""
    WORKSPACE.clear()
    values = (node.meta.get("val") for node in graph.graph.nodes if node.op == "call_function")
    if references and any(isinstance(value, Tensor) and value.nbytes >= LEAST for value in values):
        with mock.patch("torch._C._dynamo.guards._empty_strided_cpu", WORKSPACE.empty_strided):
            yield
    else:
        yield
