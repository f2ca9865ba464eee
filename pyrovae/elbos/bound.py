"""What all bounds of ours have in common: they are formed row by row, and differ in three weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.checks import count
from pyrovae.elbos.draws import Draws, Program, SameRows
from pyrovae.elbos.estimator import Estimator

TINY = 1e-20
"""Least size of a weight of log p(x, z): a smaller one moves nothing, and weights are divided by it."""


class Weights(NamedTuple):
    r"""How much each of the K draws counts in the gradient, all of shape ``(K, *rows)``:

    .. math::
        \nabla_\theta &: \sum_k \text{model}_k \, \nabla_\theta \log p_\theta(x, z_k) \\
        \nabla_\phi &: \sum_k \text{path}_k \, \partial_{z_k} [\log p_\theta(x, z_k) - \log q_\phi(z_k \mid x)]
                       \cdot \partial_\phi z_k + \text{score}_k \, \nabla_\phi \log q_\phi(z_k \mid x)
    """

    model: Tensor
    path: Tensor | None = None
    score: Tensor | None = None


@dataclass(eq=False)
class Bound(Estimator):
    r"""A bound on :math:`\log p(x_n)` from K draws :math:`z_k \sim q(z \mid x_n)`, formed for each row n, then summed.

    A member says what the bound is, as a function of the log-weights :math:`\log w_k = \log p(x_n, z_k) - \log
    q(z_k \mid x_n)`, and, where that is not simply its gradient, how much each draw counts in the gradient (`Weights`).
    The rest is here, for any Pyro model and guide. Rows are the plates that all sites share (of a VAE, ``data``). The
    factor N/B of subsampling and ``poutine.scale`` multiply the bound of a row, never what is inside of it.

    Args:
        num_particles: K.
        chunk: draws that go through the model at once; `loss` and `loss_and_grads` then take the memory of ``chunk``
            draws instead of K, for one more pass forward. None: all of them.
        max_plate_nesting: plates of the model; by default it is run once to see.

    >>> import pyro, pyrovae
    >>> vae = pyrovae.VAE((4,), 2, likelihood="gaussian")
    >>> optim = pyro.optim.Adam({"lr": 1e-3})
    >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim, pyrovae.elbos.IWAE(num_particles=8))
    >>> loss = svi.step(torch.randn(100, 4))
    """

    chunk: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk is not None:
            count(self.chunk, "chunk", 1)

    @property
    def side(self) -> int:
        """-1 for a lower bound on log p(x), 1 for an upper one, 0 for an estimate that may lie on either side."""
        return -1

    @abstractmethod
    def bound(self, log_weights: Tensor) -> Tensor:
        """The bound of each row, ``(*rows)``, from log-weights ``(K, *rows)``."""

    def weights(self, log_weights: Tensor) -> Weights:
        """How much each draw counts in the gradient; by default, the slope of `bound`, which is to rise."""
        slope = slope_of(self.bound, log_weights)
        return Weights(slope, slope)

    def rows(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """The bound of each row of the model's plate, in nats, unscaled."""
        with torch.no_grad():
            return self.bound(self._log_weights(model, guide, args, kwargs)[0])

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:  # noqa: ANN401
        """Minus the sum over rows of their scaled bounds (of an upper bound, plus), in nats."""
        with torch.no_grad():
            return float(self._loss(*self._log_weights(model, guide, args, kwargs)))

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """A tensor with the value of `loss` and the gradient of this estimator; all draws go through at once."""
        draws = self.draw(self.num_particles, model, guide, args, kwargs)
        log_weights = draws.log_weights.detach()
        surrogate = self.surrogate(draws, self.weights(log_weights))
        return self._loss(log_weights, draws.scale) + (surrogate.detach() - surrogate)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:  # noqa: ANN401
        """The value of `loss`; adds the gradient of this estimator to that of the parameters."""
        if self.chunk is not None and self.chunk < self.num_particles:
            return self._by_chunks(model, guide, args, kwargs)
        return super().loss_and_grads(model, guide, *args, **kwargs)

    def surrogate(self, draws: Draws, weights: Weights) -> Tensor:
        """A number, of no meaning itself, whose gradient is that of this estimator (upwards)."""
        model, path, score = (None if w is None else w * draws.scale for w in weights)
        model = torch.where(model.abs() < TINY, TINY, model)
        # A draw of no weight may have log p(x, z) = -inf.
        log_p = draws.log_p.clamp_min(torch.finfo(draws.log_p.dtype).min)
        total = (model * log_p).sum()
        if self.gradient == "total":
            return total - (path * draws.log_q).sum()
        if path is not None:
            draws.through.factor = path / model
            if draws.path is not None:
                total = total - (path * draws.path).sum()
        return total if score is None else total + (score * draws.log_q).sum()

    def _loss(self, log_weights: Tensor, scale: Tensor | float) -> Tensor:
        value = (scale * self.bound(log_weights)).sum()
        return value if self.side > 0 else -value

    def _chunks(self) -> list[int]:
        size = min(self.chunk or self.num_particles, self.num_particles)
        return [min(size, self.num_particles - start) for start in range(0, self.num_particles, size)]

    def _log_weights(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor | float]:
        parts, same = [], SameRows(guide)
        for size in self._chunks():
            draws = self.draw(size, model, same, args, kwargs)
            parts.append(draws.log_weights)
        return torch.cat(parts), draws.scale

    def _by_chunks(self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """Once through for the log-weights, and once more, with the same random numbers, for the gradient."""
        parts, states, sizes, guide = [], [], self._chunks(), SameRows(guide)
        with torch.no_grad():
            for size in sizes:
                states.append(_random_state())
                draws = self.draw(size, model, guide, args, kwargs)
                parts.append(draws.log_weights)
        log_weights = torch.cat(parts)
        after, scale = _random_state(), draws.scale
        guide.forget()
        del draws
        weights = self.weights(log_weights)
        pieces = zip(*([None] * len(sizes) if w is None else w.split(sizes) for w in weights), strict=True)
        for size, state, part in zip(sizes, states, pieces, strict=True):
            _restore(state)
            surrogate = self.surrogate(self.draw(size, model, guide, args, kwargs), Weights(*part))
            if surrogate.requires_grad:
                (-surrogate).backward()
        _restore(after)
        return float(self._loss(log_weights, scale))


def slope_of(bound: Callable[[Tensor], Tensor], log_weights: Tensor) -> Tensor:
    """The derivative of each row's bound by its log-weights."""
    with torch.enable_grad():
        log_weights = log_weights.detach().requires_grad_()
        return torch.autograd.grad(bound(log_weights).sum(), log_weights)[0]


def log_mean_exp(values: Tensor, dim: int = 0) -> Tensor:
    """The logarithm of the mean of exp(values)."""
    return torch.logsumexp(values, dim) - math.log(values.shape[dim])


def sum_without_each(log_weights: Tensor) -> Tensor:
    """log of the sum of all weights but the k-th, ``(K, *rows)``: sums from both ends, so that nothing cancels."""
    before = torch.logcumsumexp(log_weights, 0)[:-1]
    after = torch.logcumsumexp(log_weights.flip(0), 0).flip(0)[1:]
    middle = torch.logaddexp(before[:-1], after[1:])
    return torch.cat([after[:1], middle, before[-1:]])


def _random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _restore(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
