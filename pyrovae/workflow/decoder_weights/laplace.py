"""Laplace's approximation of the posterior over the weights of a decoder's head."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor

from pyrovae.training.batches import ordered
from pyrovae.workflow.decoder_weights.curvature import Batch, HeadDensity
from pyrovae.workflow.decoder_weights.task import Fitted, Task

NEAR = 1e-3
"""How near to the mode Newton's method has to come: so many standard deviations, root mean square over weights."""
HALVINGS = 10


class Blocks:
    """A normal over a head's weights, independent between blocks.

    Args:
        density: it knows which weights make a block.
        mean: ``(O, F + 1)``, the bias last.
        factor: Cholesky factors of the precision of each block, ``(C, p (F + 1), p (F + 1))``, lower triangular.
    """

    def __init__(self, density: HeadDensity, mean: Tensor, factor: Tensor) -> None:
        self._density, self._mean, self._factor = density, density.to_blocks(mean), factor

    @property
    def mean(self) -> Tensor:
        """``(P,)``."""
        return self._flat(self._mean)

    @property
    def variance(self) -> Tensor:
        """Of each weight, ``(P,)``."""
        return self._flat(torch.stack([torch.cholesky_inverse(each).diagonal() for each in self._factor]))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        """Draws ``(*sample_shape, P)``."""
        noise = torch.randn(*sample_shape, *self._mean.shape, dtype=self._mean.dtype, device=self._mean.device)
        # If L L' is the precision, L'^-1 makes of white noise what has its inverse as covariance.
        draws = torch.linalg.solve_triangular(self._factor.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
        return self._flat(self._mean + draws)

    def _flat(self, values: Tensor) -> Tensor:
        """In the order of the head's parameters: all of the weight, then the bias."""
        values = self._density.from_blocks(values)
        return torch.cat([values[..., :-1].flatten(-2), values[..., -1]], -1)


def laplace(task: Task) -> Fitted:
    r"""A normal at the mode of :math:`\sum_n E_q[\log p(x_n \mid z_n, W)] + \log p(W)` over the head's weights, with
    the inverse of its negative Hessian as covariance.

    The expectation is over ``num_particles`` draws of z for each row, which stay the same for all of Newton's steps.
    The Hessian is exact, in float64. A block in which it is not negative definite (the log-likelihood need not be
    concave in a scale or a dispersion) has the wrong curvatures of its log-likelihood put at 0, which leaves the
    prior's.
    """
    decoder = copy.deepcopy(task.vae.likelihood).double()
    batches = []
    for _, x, condition in ordered(task.x, task.condition, task.batch_size):
        for _ in range(task.num_particles):
            z = task.latents(x, condition)
            batches.append(Batch(*(None if part is None else part.double() for part in (x, condition, z))))
    density = HeadDensity(decoder, batches, 1 / task.num_particles)
    weights = torch.cat([decoder.head.weight, decoder.head.bias[:, None]], -1).detach()
    precision, history = task.prior_scale**-2, []
    for step in range(task.steps + 1):
        value, gradient, hessian = density.derivatives(weights)
        value = value - 0.5 * precision * weights.square().sum()
        history.append(value.item() / len(task.x))
        task.check(history[-1], step)
        gradient = gradient - precision * density.to_blocks(weights)
        factor = _factor(hessian.neg_(), precision)
        move = torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
        # What is left to the mode, in squared standard deviations of the posterior.
        left = (gradient * move).sum() / weights.numel()
        task.tick()
        if left < NEAR**2 or step == task.steps:
            break
        there = _search(density, precision, weights, density.from_blocks(move), value)
        if there is weights:
            break
        weights = there
    if left >= NEAR**2:
        warnings.warn(
            f"laplace: the mode is still {left.sqrt().item():.2g} posterior standard deviations away after "
            f"{task.steps} steps of Newton's method; take more steps",
            stacklevel=3,
        )
    density.batches = []
    return Fitted(Blocks(density, weights, factor), history)


def _factor(curvature: Tensor, precision: float) -> Tensor:
    """Cholesky factors of blocks ``(C, b, b)`` with the prior's precision on their diagonals; changes the blocks."""
    curvature.diagonal(dim1=-2, dim2=-1).add_(precision)
    factor, failed = torch.linalg.cholesky_ex(curvature)
    for block in failed.nonzero().flatten().tolist():
        values, vectors = torch.linalg.eigh(curvature[block])
        factor[block] = torch.linalg.cholesky((vectors * values.clamp_min(precision)) @ vectors.mT)
    return factor


def _search(density: HeadDensity, precision: float, weights: Tensor, move: Tensor, value: Tensor) -> Tensor:
    """A step along ``move``, halved until it does not go down."""
    size = 1.0
    for _ in range(HALVINGS):
        there = weights + size * move
        new = density.value(there) - 0.5 * precision * there.square().sum()
        # Near the mode the difference is one of rounding.
        if new >= value - 1e-9 * value.abs():
            return there
        size /= 2
    return weights
