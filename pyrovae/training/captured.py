"""Functions on a GPU whose kernels are launched all together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]


def record(run: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """What replays the kernels that ``run`` launches, and where its results are after that; nothing is run yet.

    A CUDA graph (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs), in which random numbers are new at
    each replay.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    return graph.replay, outputs


def recordable(tensors: Sequence[Tensor]) -> bool:
    """Whether all tensors are on one GPU."""
    return len({t.device for t in tensors}) == 1 and tensors[0].device.type == "cuda"


class Captured:
    """A compiled function, recorded at its second call and replayed from then on: to launch the kernels of a small
    model one by one takes longer than they do.

    Arguments are copied to where the recorded kernels read them, and results from where they write; tensors that the
    function closes over are read and written where they are. What cannot be recorded is run as it is.

    Args:
        function: of tensors to a tuple of tensors.
        closed: its last arguments, the same at each call.
    """

    def __init__(self, function: Function, closed: Sequence[Tensor]) -> None:
        self.function, self.closed = function, closed
        self.calls = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self.calls += 1
        # The first call loads kernels and makes workspaces, which cannot be recorded.
        if self.calls == 2:
            self._record(inputs)
        if self._replay is None:
            return self.function(*inputs, *self.closed)
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given)
        self._replay()
        return tuple(output.clone() for output in self._outputs)

    def _record(self, inputs: Sequence[Tensor]) -> None:
        self._inputs = [given.clone() for given in inputs]
        try:
            self._replay, self._outputs = record(lambda: self.function(*self._inputs, *self.closed))
        except RuntimeError:
            # Such as an operation that waits for the GPU.
            self._inputs = []
