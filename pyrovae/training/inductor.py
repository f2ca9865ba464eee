"""Graphs as machine code: the one place that knows how torch is asked for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from pathlib import Path
from threading import Thread

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule

from pyrovae.training import elementary
from pyrovae.training.kernels import HEADER, together
from pyrovae.training.workspace import keeping

OPTIONS = {
    # By torch's own kernels: Inductor's random numbers are others, and of many draws ten times as slow.
    "fallback_random": True,
    # a b + c in one instruction, with one rounding, as on a GPU.
    "cpp.enable_floating_point_contract_flag": "fast",
}


def compiled(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """The graph as machine code.

    A torch without Inductor's own entry has ``torch.compile``, a tenth of a millisecond dearer at each call.
    """
    elementary.teach()
    with torch.no_grad(), together(), keeping(graph), _remembered() as mode:
        if hasattr(torch._inductor, "compile"):
            # Given the numbers themselves, sizes that the graph does not name would be symbols in its loops.
            examples = [mode.from_tensor(tensor, static_shapes=True) for tensor in inputs]
            return torch._inductor.compile(graph, examples, options=OPTIONS)
        return torch.compile(graph, fullgraph=True, dynamic=False, options=OPTIONS)


@contextmanager
def _remembered() -> Iterator[FakeTensorMode]:
    """Inside, with what stands for tensors there: what was compiled in another run is found on the disk. Inductor looks
    for graphs alone that were traced where shapes may be symbols, and does not see what an operation of ours is lowered
    to."""
    # Importing them takes half a second.
    import torch.compiler.config
    from torch._guards import TracingContext, tracing
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    config, tag = torch.compiler.config, nullcontext()
    if hasattr(config, "cache_key_tag"):
        edition = hashlib.sha256(Path(elementary.__file__).read_bytes()).hexdigest()
        tag = config.patch(cache_key_tag=config.cache_key_tag + edition)
    mode = FakeTensorMode(shape_env=ShapeEnv())
    with tag, tracing(TracingContext(mode)):
        yield mode


@contextmanager
def warming() -> Iterator[None]:
    """Inside: a thread finds out what C++ for this CPU needs, which is seconds of waiting for other processes when
    torch compiles for the first time."""
    # What two threads import at once, one of them may find half done.
    import torch._inductor.compile_fx

    with torch._inductor.config.patch(OPTIONS):
        Thread(target=copy_context().run, args=(_look,), daemon=True).start()
        yield


def _look() -> None:
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    with suppress(Exception):
        # What it returns would wait for a compiler.
        CppPythonBindingsCodeCache.load_pybinding_async([], HEADER)
