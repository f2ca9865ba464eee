"""Graphs as machine code: the one place that knows how torch is asked for it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from pathlib import Path
from threading import Lock, Thread
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule

from pyrovae.training import elementary
from pyrovae.training.kernels import HEADER, linking, together
from pyrovae.training.workspace import keeping

OPTIONS = {
    # By torch's own kernels: Inductor's random numbers are others, and of many draws ten times as slow.
    "fallback_random": True,
    # a b + c in one instruction, with one rounding, as on a GPU.
    "cpp.enable_floating_point_contract_flag": "fast",
    # Of what goes into CUDA graphs and what does not, which `captured` decides: a fifth of a second.
    "graph_partition": False,
    # Earlier versions move draws, too, each of which has its turn.
    "reorder_for_locality": torch.__version__ >= (2, 15),
}

ONE_CORE = {"cpp.threads": 1}
"""Beside those: of a graph that several threads run at a time."""

_ONE_AT_A_TIME = Lock()
"""Threads that ask for the instructions of the CPU."""


def compiled(graph: GraphModule, inputs: list[Tensor], *, one_core: bool = False) -> Callable[..., tuple[Tensor, ...]]:
    """The graph as machine code, for all cores or, with ``one_core``, to be run by several threads at a time.

    Inductor is given what it makes code of, unless tensors share memory: then, and where torch has other parts, which
    are not public, its own entry is first told all about gradients that the graph does not have, for a second or more,
    and twenty microseconds at each call. A torch without that has ``torch.compile``, a tenth of a millisecond dearer.
    """
    elementary.teach()
    options = OPTIONS | ONE_CORE if one_core else OPTIONS
    with (
        torch.no_grad(), together(release=one_core), elementary.in_few_instructions(), keeping(graph),
        _remembered() as mode, torch._inductor.config.patch(options), warnings.catch_warnings(),
    ):  # fmt: skip
        # Of torch, that it will change parts of torch.
        warnings.simplefilter("ignore", FutureWarning)
        # Given the numbers themselves, sizes that the graph does not name would be symbols in its loops.
        examples = [mode.from_tensor(tensor, static_shapes=True) for tensor in inputs]
        if not _overlap(inputs):
            with suppress(Exception):
                return _inner(graph, examples, mode)
        if any(tensor.is_cpu for tensor in inputs):
            _instructions()
        if hasattr(torch._inductor, "compile"):
            return torch._inductor.compile(graph, examples)
        return torch.compile(graph, fullgraph=True, dynamic=False, options=options)


def _overlap(tensors: list[Tensor]) -> bool:
    """Whether some share memory, so that what is written to one changes another."""
    memory = [tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()]
    return len(set(memory)) < len(memory)


def _inner(graph: GraphModule, examples: list[Tensor], mode: FakeTensorMode) -> Callable[..., tuple[Tensor, ...]]:
    """The graph, made one that writes to nothing but its inputs, and to those in the end, as Inductor compiles it."""
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.virtualized import V
    from torch.fx.experimental.proxy_tensor import make_fx

    with V.set_fake_mode(mode):
        pure = make_fx(torch.func.functionalize(graph), select_decomp_table(), "fake")(*examples)
        if any(tensor.is_cpu for tensor in examples):
            _instructions()
        code = compile_fx_inner(pure, examples, is_inference=True)
    return lambda *inputs: tuple(code(list(inputs)))


@contextmanager
def _remembered() -> Iterator[FakeTensorMode]:
    """Inside, with what stands for tensors there: what was compiled in another run is found on the disk. Inductor looks
    for graphs alone that were traced where shapes may be symbols, and does not see what an operation of ours is lowered
    to, nor for how long vectors loops were written, which differ where machines share a disk."""
    # Importing them takes half a second.
    import torch.compiler.config
    from torch._guards import TracingContext, tracing
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    config, tag = torch.compiler.config, nullcontext()
    if hasattr(config, "cache_key_tag"):
        edition = hashlib.sha256(Path(elementary.__file__).read_bytes()).hexdigest()
        vectors = torch.backends.cpu.get_cpu_capability()
        tag = config.patch(cache_key_tag=config.cache_key_tag + edition + vectors)
    mode = FakeTensorMode(shape_env=ShapeEnv())
    with tag, tracing(TracingContext(mode)):
        yield mode


@contextmanager
def warming() -> Iterator[None]:
    """Inside: threads find out what torch asks when it compiles for the first time, seconds of waiting for files and
    for other processes."""
    # Not by two threads, of which one may find it half done.
    import torch._inductor.codecache

    with suppress(Exception):
        import torch.utils.cpp_extension
    with torch._inductor.config.patch(OPTIONS):
        for question in (_compiler, _editions):
            Thread(target=copy_context().run, args=(question,), daemon=True).start()
        yield


def _instructions() -> None:
    """Which vector instructions the CPU and the C++ compiler have.

    Torch tries each set by files of C++, for nine seconds where there are AVX-512 and AMX, once on a machine. It begins
    with the largest set; a file that passes with it would pass with its parts, for which it is not tried again. A set
    changes its own flags for a while as it is tried, so that no two threads may ask for the same.
    """
    with _ONE_AT_A_TIME, suppress(Exception):
        from torch._inductor.cpu_vec_isa import VecISA, valid_vec_isa_list

        alone, passed = VecISA.check_build, set()

        def check_build(instructions: VecISA, code: str) -> bool:
            if code not in passed and alone(instructions, code):
                passed.add(code)
            return code in passed

        with mock.patch.object(VecISA, "check_build", check_build):
            valid_vec_isa_list()


def _compiler() -> None:
    """What C++ for this CPU needs."""
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    _instructions()
    with suppress(Exception):
        # What it returns would wait for a compiler.
        CppPythonBindingsCodeCache.load_pybinding_async([], HEADER, extra_flags=linking())


def _editions() -> None:
    """Of torch and triton, by their files, without which nothing is found that was compiled before."""
    from torch._inductor.codecache import CacheBase, torch_key

    with suppress(Exception):
        torch_key()
        CacheBase.get_system()
