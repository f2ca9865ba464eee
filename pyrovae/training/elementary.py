r"""Elementary functions of float32 numbers as polynomials, of which Inductor makes a part of the loop around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor

Value = Any
"""What stands for numbers while Inductor writes a loop."""

MOST = 87.0
"""Between its negative and itself, e^a is a normal number of float32."""
HIGH = 0.693359375
"""ln 2 in so few bits that its product with a number of at most 15 bits is exact in float32."""
EXPONENT = 1.5 * 2.0**23 + 127
"""The float32 numbers around it are whole; added to n, it leaves in the last bits what the exponent of 2^n is."""

torch.library.define("pyrovae::exp", "(Tensor a, float least, float most, int shift) -> Tensor")
torch.library.define("pyrovae::log1p", "(Tensor a) -> Tensor")


def exp(a: Tensor, least: float, most: float, shift: int = 0) -> Tensor:
    r""":math:`2^s e^a` of a that is moved between two numbers; the result has to be a normal number. Of what is not
    float32, torch's, for any a."""
    if a.dtype != torch.float32:
        return torch.exp(a) * 2.0**shift if shift else torch.exp(a)
    return torch.ops.pyrovae.exp(a, least, most, shift)


def log1p(a: Tensor) -> Tensor:
    r""":math:`\log(1 + a)` for :math:`0 \le a \le 1`; of what is not float32, torch's."""
    return torch.ops.pyrovae.log1p(a) if a.dtype == torch.float32 else torch.log1p(a)


@torch.library.impl("pyrovae::exp", "CPU")
def _exp(a: Tensor, least: float, most: float, shift: int) -> Tensor:
    """By torch, where a graph is run without Inductor. A square, as e^a itself may be too small for float32."""
    return a.clamp(least, most).mul_(0.5).exp_().mul_(2.0 ** (shift / 2)).square_()


@torch.library.impl("pyrovae::log1p", "CPU")
def _log1p(a: Tensor) -> Tensor:
    return torch.log1p(a)


@torch.library.register_fake("pyrovae::exp")
@torch.library.register_fake("pyrovae::log1p")
def _fake(a: Tensor, *_: float) -> Tensor:
    return torch.empty_like(a)


def exp_terms() -> list[float]:
    r"""Coefficients of :math:`r^5, \dots, r, 1` in a polynomial that is :math:`e^r (1 \pm 10^{-7})` for
    :math:`|r| \le \tfrac12 \ln 2`, and 1 at 0: of least squares of relative errors at Chebyshev's points."""
    r = math.log(2) / 2 * np.cos(np.pi * (np.arange(9) + 0.5) / 9)
    powers = r[:, None] ** np.arange(5, 0, -1)
    return [*np.linalg.lstsq(powers * np.exp(-r)[:, None], -np.expm1(-r), rcond=None)[0].tolist(), 1.0]


def log1p_terms() -> list[float]:
    r"""Coefficients of :math:`a^9, \dots, 1` in a polynomial that is :math:`\log(1 + a) / a` up to 5e-9 for
    :math:`0 \le a \le 1`, where it is that at Chebyshev's points."""
    between = Chebyshev.interpolate(lambda a: np.log1p(a) / a, 9, [0, 1])
    return between.convert(kind=Polynomial).coef[::-1].tolist()


@cache
def teach() -> None:
    """Tell Inductor what loops are to contain. As one operation of Inductor's: of a composition of many, it would work
    out each part anew for each use."""
    # They are slow to import, and not public.
    from torch._inductor.codegen.cpp import CppVecOverrides
    from torch._inductor.lowering import make_pointwise, register_lowering
    from torch._inductor.virtualized import ops

    terms_of_exp, terms_of_log1p = exp_terms(), log1p_terms()

    def number(value: float) -> Value:
        return ops.constant(value, torch.float32)

    def polynomial(terms: list[float], a: Value) -> Value:
        value = number(terms[0])
        for c in terms[1:]:
            value = ops.add(ops.mul(value, a), number(c))
        return value

    def at_least(a: Value, least: float) -> Value:
        # Which is nan where a is. Without it, comparing and choosing are two to four instructions.
        if hasattr(CppVecOverrides, "fmaximum"):
            return ops.fmaximum(a, number(least))
        return ops.where(ops.lt(a, number(least)), number(least), a)

    def exp(a: Value, least: float, most: float, shift: int) -> Value:
        # 2^(n + s) e^r with n = [a / ln 2].
        if least > -math.inf:
            a = at_least(a, least)
        if most < math.inf:
            a = ops.neg(at_least(ops.neg(a), -most))
        # A large number rounds a / ln 2, and moves n to where the bits of the power of two are taken from.
        moved = ops.add(ops.mul(a, number(1 / math.log(2))), number(EXPONENT + shift))
        n = ops.sub(moved, number(EXPONENT + shift))
        r = ops.sub(ops.sub(a, ops.mul(n, number(HIGH))), ops.mul(n, number(math.log(2) - HIGH)))
        bits = ops.to_dtype_bitcast(moved, torch.int32, torch.float32)
        power = ops.bitwise_left_shift(bits, ops.constant(23, torch.int32))
        return ops.mul(polynomial(terms_of_exp, r), ops.to_dtype_bitcast(power, torch.float32, torch.int32))

    def log1p(a: Value) -> Value:
        return ops.mul(polynomial(terms_of_log1p, a), a)

    def lower(inner: Callable[..., Any], a: Value, *args: float) -> Value:
        return make_pointwise(lambda a: inner(a, *args))(a)

    for op, inner in ((torch.ops.pyrovae.exp, exp), (torch.ops.pyrovae.log1p, log1p)):
        register_lowering(op.default, type_promotion_kind=None)(partial(lower, inner))


@contextmanager
def in_few_instructions() -> Iterator[None]:
    """Inside: of what `teach` has told Inductor, what is one instruction of the CPU is one of the loop.

    Inductor has the bits of a float32 or int32 number written to memory, and read as a number of the other type, in two
    halves where there is AVX-512, for which the CPU waits longer than an exponential takes; and the larger of two
    numbers, a where a is nan, as a comparison, a mask, and a choice.

    Inductor's parts are not public: where torch has others, its own stay.
    """
    try:
        from torch._inductor.codegen.cpp import DTYPE_TO_CPP, CppVecOverrides
        from torch._inductor.virtualized import V
    except ImportError:
        yield
        return
    by_memory, by_choice = (getattr(CppVecOverrides, name, None) for name in ("to_dtype_bitcast", "fmaximum"))

    def to_dtype_bitcast(a: Value, dtype: torch.dtype, source: torch.dtype) -> Value:
        if {dtype, source} != {torch.float32, torch.int32}:
            return by_memory(a, dtype, source)
        name, count = DTYPE_TO_CPP[dtype], V.kernel._get_num_vectors(dtype)
        if count == 1:
            return f"at::vec::cast<{name}>({a})"
        each = f"for (int i = 0; i < {count}; i++) all[i] = at::vec::cast<{name}>({a}[i]);"
        return f"[&]() {{ at::vec::VectorizedN<{name}, {count}> all; {each} return all; }}()"

    def fmaximum(a: Value, b: Value) -> Value:
        return f"at::vec::clamp_min({a}, {b})" if a.dtype == torch.float32 else by_choice(a, b)

    with ExitStack() as stack:
        for function, known in ((to_dtype_bitcast, by_memory), (fmaximum, by_choice)):
            if known:
                stack.enter_context(mock.patch.object(CppVecOverrides, function.__name__, staticmethod(function)))
        yield
