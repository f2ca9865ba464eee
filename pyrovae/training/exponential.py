r"""Exponentials as polynomials, of which Inductor makes a part of the loop around them."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST = 87.0
"""Between its negative and itself, e^a is a normal number of float32."""
HIGH = 0.693359375
"""ln 2 in so few bits that its product with a number of at most 15 bits is exact in float32."""
EXPONENT = 1.5 * 2.0**23 + 127
"""The float32 numbers around it are whole; added to n, it leaves in the last bits what the exponent of 2^n is."""

torch.library.define("pyrovae::exp", "(Tensor a, float least, float most, int shift) -> Tensor")


def exp(a: Tensor, least: float, most: float, shift: int = 0) -> Tensor:
    r""":math:`2^s e^a` in float32, of a that is moved between two numbers; the result has to be a normal number."""
    return torch.ops.pyrovae.exp(a, least, most, shift)


@torch.library.impl("pyrovae::exp", "CPU")
def _exp(a: Tensor, least: float, most: float, shift: int) -> Tensor:
    """By torch, where a graph is run without Inductor."""
    return (a.double().clamp(least, most).exp() * 2.0**shift).to(a.dtype)


@torch.library.register_fake("pyrovae::exp")
def _exp_of_fake(a: Tensor, least: float, most: float, shift: int) -> Tensor:
    return torch.empty_like(a)


def coefficients() -> list[float]:
    r"""Those of :math:`r^5, \dots, r, 1` in a polynomial that is :math:`e^r (1 \pm 10^{-7})` for
    :math:`|r| \le \tfrac12 \ln 2`, and 1 at 0: of least squares of relative errors at Chebyshev's points."""
    r = math.log(2) / 2 * np.cos(np.pi * (np.arange(9) + 0.5) / 9)
    powers = r[:, None] ** np.arange(5, 0, -1)
    return [*np.linalg.lstsq(powers * np.exp(-r)[:, None], -np.expm1(-r), rcond=None)[0].tolist(), 1.0]


@cache
def teach() -> None:
    r"""Tell Inductor what loops are to contain:

    .. math:: 2^s e^a = 2^{n + s} e^r, \qquad n = [a / \ln 2].

    Adding a large number rounds a / ln 2, and moves n to where the bits of the power of two are taken from. As one
    operation of Inductor's; of a composition of many, it would work out each part anew for each use.
    """
    # They are slow to import, and not public.
    from torch._inductor.lowering import make_pointwise, register_lowering
    from torch._inductor.virtualized import ops

    terms = coefficients()

    def number(value: float) -> Any:  # noqa: ANN401 - as Inductor has it
        return ops.constant(value, torch.float32)

    def lower(a: Any, least: float, most: float, shift: int) -> Any:  # noqa: ANN401
        def inner(a: Any) -> Any:  # noqa: ANN401
            # Comparing and choosing are two instructions, and a minimum three, for the sake of nan.
            if least > -math.inf:
                a = ops.where(ops.lt(a, number(least)), number(least), a)
            if most < math.inf:
                a = ops.where(ops.gt(a, number(most)), number(most), a)
            moved = ops.add(ops.mul(a, number(1 / math.log(2))), number(EXPONENT + shift))
            n = ops.sub(moved, number(EXPONENT + shift))
            r = ops.sub(ops.sub(a, ops.mul(n, number(HIGH))), ops.mul(n, number(math.log(2) - HIGH)))
            value = number(terms[0])
            for c in terms[1:]:
                value = ops.add(ops.mul(value, r), number(c))
            bits = ops.to_dtype_bitcast(moved, torch.int32, torch.float32)
            power = ops.bitwise_left_shift(bits, ops.constant(23, torch.int32))
            return ops.mul(value, ops.to_dtype_bitcast(power, torch.float32, torch.int32))

        return make_pointwise(inner)(a)

    register_lowering(torch.ops.pyrovae.exp.default, type_promotion_kind=None)(lower)
