"""Where chains are under a density of their rows: one compiled graph for all steps and rows of a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from torch import Tensor

from pyrovae.evaluation.chains import State, state
from pyrovae.evaluation.coordinates import Coordinates, Rows
from pyrovae.training.batches import bounds
from pyrovae.training.traced import NotTraceable, Traced
from pyrovae.training.weak import weakly
from pyrovae.vae import VAE

WORTH = 7000.0
"""Small gradients of one shape from which they are compiled: they take 20 s longer than compiled ones, and the compiler
takes 10 s (20 s on a busy machine)."""
SMALL = 6e7
"""Draws times parameters that take as long as Python does, measured on one core: compiled, a gradient takes 3 ms less,
and 3 ms less for each so many. At 784-200-200-50, 4,096 draws take 97 ms in the place of 180, 256 draws 10 in the place
of 20; at 64-32-8, 4.4 in the place of 13 and 0.7 in the place of 3.8."""
MOST = 2500
"""Operations of a graph above which it is not compiled: measured, 500 take 20 s and 2,200 take 40 s. Flows that are
inverted by search have 10,000."""

RowsDensity = Callable[[Coordinates, Tensor, Tensor | None], Tensor]
"""A log-density ``(K, B)`` of u ``(K, B, D)`` in the coordinates of B rows, and of what changes along a path."""


class States:
    """The states of chains under a log-density, of rows that come a few at a time.

    Where it takes long, value and gradient are a compiled graph for each shape of u. Its inputs are u, beta and all
    tensors of rows that the density depends on, so that the graph is that of every step and of all chunks of as many
    rows. Numbers are those of `chains.state`, up to rounding.

    Args:
        vae: the model, frozen.
        density: the log-density.
        rows: how many rows there are.
        at_once: how many there are in a chunk.
        gradients: how many gradients of each row and number of chains there will be.
    """

    def __init__(self, vae: VAE, density: RowsDensity, rows: int, at_once: int, gradients: float) -> None:
        self.density, self.gradients = density, gradients
        self.chunks = Counter(last - first for first, last in bounds(rows, at_once))
        self.parameters = sum(p.numel() for p in vae.parameters())
        self.refused = False
        # Some rows' coordinates, in which those of the inputs of a graph are made.
        self._space: Coordinates
        self._traced = Traced(weakly(self._value_and_slope), most=MOST)

    def __call__(self, space: Coordinates, u: Tensor, beta: Tensor | None = None) -> State:
        """The states of chains at u ``(K, B, D)``."""
        if not self.refused and self._work(*u.shape[:2]) >= WORTH:
            self._space = space
            try:
                # Another order in memory would be another graph.
                return State(u, *self._traced(u.contiguous(), beta, *space.latents.rows))
            except NotTraceable:
                self.refused = True
        return state(lambda u: self.density(space, u, beta), u)

    def _value_and_slope(self, u: Tensor, beta: Tensor | None, *rows: Tensor | None) -> tuple[Tensor, Tensor]:
        space = self._space.of(Rows(*rows))
        return state(lambda u: self.density(space, u, beta), u)[1:]

    def _work(self, chains: int, rows: int) -> float:
        """The gradients that there will be of a shape, in small ones."""
        return self.gradients * self.chunks[rows] * (1 + chains * rows * self.parameters / SMALL)
