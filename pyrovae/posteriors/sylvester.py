"""Sylvester flow posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Transform

from pyrovae import registry
from pyrovae.checks import count
from pyrovae.distributions import householder, sylvester
from pyrovae.distributions.zuko import PermutationTransform
from pyrovae.posteriors.flow import GAIN, FlowPosterior

ROTATIONS = ("householder", "triangular")


class Sylvester(FlowPosterior):
    r"""Sylvester flow posterior: a normal, bent T times in all directions at once.

    .. math:: z \leftarrow z + Q R \tanh(S Q^\top z + b)

    R and S are upper triangular and Q is orthogonal, all made of numbers from the encoder:

    - ``rotation="householder"``: Q is a product of reflections (the paper's H-SNF);
    - ``rotation="triangular"``: Q reverses the order of the elements in every second step (T-SNF).

    The encoder's last layer gives :math:`T (D^2 + 2D)` numbers and those of the reflections. The log-density of a value
    that it did not draw takes T D bisections. van den Berg, Hasenclever, Tomczak & Welling (2018),
    https://arxiv.org/abs/1803.05649.

    Args:
        transforms: T.
        rotation: one of the names above.
        reflections: how many reflections make a Q.
        floor: the least scale of the normal.

    >>> posterior = Sylvester(transforms=2)
    >>> posterior(torch.randn(3, posterior.build((2,)))).event_shape
    torch.Size([2])
    """

    def __init__(
        self,
        transforms: int = 4,
        rotation: Literal["householder", "triangular"] = "householder",
        reflections: int = 4,
        floor: float = 1e-4,
    ) -> None:
        super().__init__(transforms, floor)
        self.rotation = registry.choose(rotation, ROTATIONS, "sylvester rotation")
        self.reflections = count(reflections, "sylvester reflections", 1)

    def extra(self, size: int) -> int:
        vectors = self.reflections if self.rotation == "householder" else 0
        return self.transforms * size * (size + 2 + vectors)

    def bend(self, numbers: Tensor) -> Sequence[Transform]:
        size = self.event_shape.numel()
        result: list[Transform] = []
        for i, step in enumerate(numbers.unflatten(-1, (self.transforms, -1, size)).unbind(-3)):
            matrix, (s_diagonal, b), vectors = (
                step[..., :size, :],
                step[..., size : size + 2, :].unbind(-2),
                step[..., size + 2 :, :],
            )
            # One matrix holds both triangles: R above its diagonal, and S below it.
            s = matrix.mT.triu(1) + torch.diag_embed(s_diagonal)
            core = sylvester.Sylvester(GAIN * matrix, s, b)
            if self.rotation == "householder":
                q: Transform = householder.Householder(1 + vectors)
            else:
                order = torch.arange(size, device=numbers.device)
                q = PermutationTransform(order.flip(0) if i % 2 else order)
            result += [q.inv, core, q]
        return result
