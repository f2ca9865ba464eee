"""What planar and Sylvester flows share: the shape of a step, and the root that inverts it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from pyrovae.distributions.zuko import bisection

MARGIN = 1e-3
"""How far the slope of a planar or Sylvester step stays above 0."""


class Step(Transform):
    """A bijection of vectors that finds its value and its log-determinant together."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value and the log-determinant at x."""
        raise NotImplementedError

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]


def tanh_root(target: Tensor, r: Tensor, s: Tensor | float, b: Tensor) -> Tensor:
    r"""The x at which :math:`x + r \tanh(s x + b)` is ``target``, where :math:`r s > -1`, by bisection.

    Tensors are of shapes that broadcast. First derivatives are those of the implicit function.

    >>> x = tanh_root(torch.tensor(1.0), torch.tensor(0.5), 2.0, torch.tensor(-1.0))
    >>> x + 0.5 * torch.tanh(2.0 * x - 1.0)
    tensor(1.0000)
    """
    target, r, b = torch.broadcast_tensors(target, r, b)
    free = [t for t in (r, s, b) if isinstance(t, Tensor) and t.requires_grad]
    # A bit of the answer each step: the root is no further from the target than |r|.
    steps = torch.finfo(target.dtype).bits
    bound = r.detach().abs()
    low, high = target.detach() - bound, target.detach() + bound
    return bisection(lambda x: x + r * torch.tanh(s * x + b), target, low, high, steps, free)
