"""The C++ kernels of a graph in few files."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from shutil import which
from typing import Any
from unittest import mock

HEADER = "#include <torch/csrc/inductor/cpp_prefix.h>"
LINKERS = ("lld", "gold")
"""They read torch's libraries in a fifth to a third of the half second that the usual one takes for each file."""
ENTRY = re.compile(r'extern "C"\s+void\s+kernel\(')
"""Where the function begins that is a kernel."""
ARGUMENTS = "PyObject* const* args"
"""How a kernel has to be given its own, by Inductor and by `CALL`."""
RELEASED = """
#include <tuple>
struct Released {
    PyThreadState* const state = PyEval_SaveThread();
    ~Released() { PyEval_RestoreThread(state); }
};
"""
"""While one of these is there, other threads may be in Python."""
KERNEL = """
namespace kernel_{index} {{
{source}
}}
"""
CALL = """
static PyObject* call_{index}(PyObject*, PyObject* const* args, Py_ssize_t count) {{
    try {{
        if (count != {count}) throw std::runtime_error("expected {count} arguments");
        const std::tuple<{types}> given{{{arguments}}};
        {{
            {release}
            std::apply(kernel_{index}::kernel, given);
        }}
        Py_RETURN_NONE;
    }} catch (std::exception const& error) {{
        PyErr_SetString(PyExc_RuntimeError, error.what());
        return nullptr;
    }}
}}
static PyMethodDef method_{index} = {{
    "kernel", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_{index})), METH_FASTCALL, ""}};
"""
ALL = """
static PyObject* functions() {{
    PyObject* all = PyTuple_New({count});
    PyMethodDef* methods[] = {{{methods}}};
    for (int i = 0; all && i < {count}; i++) PyTuple_SET_ITEM(all, i, PyCFunction_New(methods[i], nullptr));
    return all;
}}
"""


def linking() -> tuple[str, ...]:
    """Flags of a compiler that has a fast linker beside it."""
    found = sys.platform == "linux" and next((name for name in LINKERS if which(f"ld.{name}")), None)
    return (f"-fuse-ld={found}",) if found else ()


def known() -> bool:
    """Whether this torch has the parts that are needed, and calls a kernel as `CALL` does."""
    try:
        from torch._inductor.async_compile import AsyncCompile
        from torch._inductor.codecache import CppPythonBindingsCodeCache
    except ImportError:
        return False
    return hasattr(AsyncCompile, "cpp_pybinding") and ARGUMENTS in getattr(
        CppPythonBindingsCodeCache, "suffix_template", ""
    )


@contextmanager
def together(*, release: bool) -> Iterator[None]:
    """Inside: Inductor compiles the kernels of a graph in as many files as it has compilers at work. In a file of its
    own, most of the time of a kernel is that of reading headers.

    With ``release``, other threads need not wait for a kernel, which one has to take up Python again after it for.

    Inductor's parts are not public: where torch has others, or they fail, each kernel has its own file again; and where
    there is one compiler, as on a single core, for then Inductor waits for each file before it says what the next is.
    """
    if not known():
        yield
        return
    from torch._inductor.async_compile import AsyncCompile, get_compile_threads

    if get_compile_threads() <= 1:
        yield
        return
    alone = AsyncCompile.cpp_pybinding

    def cpp_pybinding(self: Any, argtypes: list[str], source: str) -> Any:  # noqa: ANN401 - as Inductor has it
        if len(ENTRY.findall(source)) != 1:
            return alone(self, argtypes, source)
        # The one that compiles a graph waits for all of its kernels, and goes.
        return vars(self).setdefault("kernels", Kernels(self, alone, release)).add(argtypes, source)

    with mock.patch.object(AsyncCompile, "cpp_pybinding", cpp_pybinding):
        yield


class Kernels:
    """What one ``AsyncCompile`` of Inductor's was given to compile, and ``alone``, how it does so."""

    def __init__(self, compiler: Any, alone: Callable[..., Any], release: bool) -> None:  # noqa: ANN401 - an AsyncCompile
        self.compiler, self.alone, self.release = compiler, alone, release
        self.given: list[tuple[list[str], str]] = []

    def add(self, argtypes: list[str], source: str) -> Any:  # noqa: ANN401 - a future of torch
        """The future of a function."""
        from torch._inductor.codecache import LambdaFuture

        index = len(self.given)
        self.given.append((argtypes, source))
        return LambdaFuture(lambda: self.functions[index])

    @cached_property
    def functions(self) -> list[Callable[..., None]]:
        """Of all kernels, once all are given."""
        from torch._inductor.async_compile import get_compile_threads

        files = min(get_compile_threads(), len(self.given))
        try:
            waiting = [load(self.given[i::files], self.release) for i in range(files)]
            found = [wait() for wait in waiting]
            return [found[i % files][i // files] for i in range(len(self.given))]
        except Exception:
            futures = [self.alone(self.compiler, *kernel) for kernel in self.given]
            return [future.result() for future in futures]


def load(kernels: Sequence[tuple[list[str], str]], release: bool) -> Callable[[], Sequence[Callable[..., None]]]:
    """Start to compile a file of some kernels; what is returned waits for their functions."""
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    sources, calls = [HEADER], [RELEASED]
    for index, (argtypes, source) in enumerate(kernels):
        body = ENTRY.sub("static void kernel(", source.replace(HEADER, ""))
        sources.append(KERNEL.format(index=index, source=body))
        types = [argtype.replace("const ", "") for argtype in argtypes]
        arguments = ", ".join(f"parse_arg<{name}>(args, {i})" for i, name in enumerate(types))
        settings = {"count": len(types), "types": ", ".join(types), "arguments": arguments}
        calls.append(CALL.format(index=index, release="const Released released;" if release else "", **settings))
    methods = ", ".join(f"&method_{index}" for index in range(len(kernels)))
    calls.append(ALL.format(count=len(kernels), methods=methods))
    parts = {
        "extra_parse_arg": "".join(calls).replace("{", "{{").replace("}", "}}"),
        "call_entry_function": "return functions();",
    }
    file = type("Kernels", (CppPythonBindingsCodeCache,), parts)
    wait = file.load_pybinding_async([], "\n".join(sources), submit_fn=AsyncCompile.submit, extra_flags=linking())
    return lambda: wait()()
