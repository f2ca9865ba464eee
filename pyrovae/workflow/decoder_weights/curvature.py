"""The log-likelihood of rows as a function of the head's weights, with gradient and Hessian."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent

from pyrovae.conditional import Conditional

LARGEST = 2**27
"""Numbers in the Hessian, at most: 1 GiB."""
CHUNK = 2**24
"""Numbers in memory at once beside it."""


class Batch(NamedTuple):
    """Rows x ``(B, *event_shape)``, their condition, and z ``(B, D)``."""

    x: Tensor
    condition: Tensor | None
    z: Tensor


class HeadDensity:
    r"""The sum over rows of :math:`\log p(x_n \mid \eta_n), \eta_n = W h(z_n) + b`, of W and b beside one another.

    :math:`\eta` is linear in the weights, so that the Hessian in them is that in :math:`\eta` between features,
    :math:`\sum_n h h^\top \otimes \nabla^2_\eta \log p`. Where elements of x are independent given z, it has a block
    for each: of O outputs of the head, p go to an element (or to the elements at all positions of a channel, where
    the head goes over maps), and the Hessian is C = O / p blocks of p (F + 1) weights. Where they are not, C = 1.

    Args:
        decoder: in evaluation mode.
        batches: the rows.
        weight: of each draw of z in the sum.

    Raises:
        ValueError: for blocks that do not fit into memory, or maps whose elements are not independent.
    """

    def __init__(self, decoder: Conditional, batches: list[Batch], weight: float = 1.0) -> None:
        self.decoder, self.batches, self.weight = decoder, batches, weight
        self.outputs, self.width = decoder.head.weight.shape[0], decoder.head.weight.shape[1] + 1
        self.numbers = self._numbers()
        self.blocks, size = self.outputs // self.numbers, self.numbers * self.width
        if self.blocks * size**2 > LARGEST:
            raise ValueError(
                f"laplace: expected a head whose Hessian has at most {LARGEST:,} numbers, got {self.blocks:,} blocks "
                f"of {size:,} x {size:,}. Choose method='mean_field', 'low_rank' or 'swag', or a decoder of fewer "
                "features."
            )

    def value(self, weights: Tensor) -> Tensor:
        """Sum of log p in nats at weights ``(O, F + 1)``, the bias last."""
        parts = [self._density(batch, features @ weights.T)[0].sum() for batch, features in self._features()]
        return self.weight * torch.stack(parts).sum()

    def derivatives(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sum, its gradient ``(C, p (F + 1))`` and its Hessian ``(C, p (F + 1), p (F + 1))``, by blocks.

        Raises:
            ValueError: for a likelihood without curvature in one of its numbers.
        """
        c, p, width = self.blocks, self.numbers, self.width
        value, gradient = weights.new_zeros(()), weights.new_zeros(p, c, width)
        hessian = weights.new_zeros(c, p, p, width, width)
        curved = torch.zeros(p, dtype=torch.bool, device=weights.device)
        for batch, features in self._features():
            log_prob, g, h = self._in_outputs(batch, features @ weights.T)
            value += log_prob
            # Positions count as rows do.
            features, g, h = features.flatten(0, 1), g.flatten(0, 1), h.flatten(0, 1)
            gradient += torch.einsum("mpc,mf->pcf", g, features)
            curved |= h.diagonal(dim1=2, dim2=3).ne(0).flatten(0, 1).any(0)
            rows = max(1, CHUNK // (c * p * p * width))
            for some, between in zip(features.split(rows), h.split(rows), strict=True):
                weighted = between.movedim(0, -1).unsqueeze(-1) * some
                hessian += weighted.mT @ some
        if not curved.all():
            raise ValueError(
                f"laplace: expected a likelihood that is curved in the decoder's numbers, got "
                f"{type(self.decoder.piece).__name__}, of which the second derivative is 0. Choose "
                "method='mean_field', 'low_rank' or 'swag'."
            )
        size = p * width
        hessian = hessian.transpose(2, 3).reshape(c, size, size)
        return self.weight * value, self.weight * gradient.transpose(0, 1).reshape(c, size), hessian.mul_(self.weight)

    def to_blocks(self, weights: Tensor) -> Tensor:
        """From ``(O, F + 1)`` to ``(C, p (F + 1))``."""
        return weights.unflatten(0, (self.numbers, self.blocks)).transpose(0, 1).flatten(1)

    def from_blocks(self, values: Tensor) -> Tensor:
        """From ``(..., C, p (F + 1))`` to ``(..., O, F + 1)``."""
        return values.unflatten(-1, (self.numbers, self.width)).transpose(-3, -2).flatten(-3, -2)

    def _features(self) -> Iterator[tuple[Batch, Tensor]]:
        """What the head is given, ``(B, positions, F + 1)``, ones in the last column."""
        seen: list[Tensor] = []
        hook = self.decoder.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            for batch in self.batches:
                with torch.no_grad():
                    self.decoder.params(batch.z, batch.condition)
                features = seen.pop()
                features = features.reshape(len(batch.x), -1, features.shape[-1])
                yield batch, torch.cat([features, torch.ones_like(features[..., :1])], -1)
        finally:
            hook.remove()

    def _density(self, batch: Batch, outputs: Tensor) -> tuple[Tensor, TorchDistribution]:
        """log p(x | eta), ``(B,)``, of what the head gives, ``(B, positions, O)``."""
        params = outputs.movedim(-1, 1).flatten(1)
        p = self.decoder.distribution(params, batch.z, batch.condition)
        return p.log_prob(batch.x), p

    @torch.enable_grad()
    def _in_outputs(self, batch: Batch, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of log p, and by the outputs its gradient ``(B, positions, p, C)`` and Hessian
        ``(B, positions, C, p, p)``."""
        outputs = outputs.detach().requires_grad_()
        total = self._density(batch, outputs)[0].sum()
        (slope,) = torch.autograd.grad(total, outputs, create_graph=True)
        shape = (*outputs.shape[:2], self.numbers, self.blocks)
        slope = slope.reshape(shape)
        columns = [
            torch.autograd.grad(
                slope[:, :, number].sum(), outputs, retain_graph=True, allow_unused=True, materialize_grads=True
            )[0]
            if slope.requires_grad
            else torch.zeros_like(outputs)
            for number in range(self.numbers)
        ]
        hessian = torch.stack([column.reshape(shape) for column in columns], -1)
        return total.detach(), slope.detach(), hessian.transpose(2, 3).detach()

    def _numbers(self) -> int:
        """p, the outputs of the head that go to an element of x; all of them where elements are not independent."""
        batch, features = next(self._features())
        outputs = features @ torch.cat([self.decoder.head.weight, self.decoder.head.bias[:, None]], -1).detach().T
        positions = outputs.shape[1]
        elements = batch.x[0].numel()
        if self.outputs * positions % elements == 0 and self._independent(batch, outputs):
            return self.outputs * positions // elements
        if positions > 1:
            raise ValueError(
                f"laplace: expected a likelihood of independent elements under a decoder that ends in maps, got "
                f"{type(self.decoder.piece).__name__}. Choose method='mean_field', 'low_rank' or 'swag'."
            )
        return self.outputs

    @torch.enable_grad()
    def _independent(self, batch: Batch, outputs: Tensor) -> bool:
        """Whether log p is a sum over elements of x, each of them a function of its own outputs, which lie as
        `pyrovae.piece.Piece.split` has them."""
        outputs = outputs.detach().requires_grad_()
        _, p = self._density(batch, outputs)
        event = len(self.decoder.event_shape)
        if not isinstance(p, Independent) or p.reinterpreted_batch_ndims != event or p.base_dist.event_shape:
            return False
        log_prob = type(p)(p.base_dist, 0).log_prob(batch.x).flatten(1)
        if log_prob.shape != batch.x.flatten(1).shape:
            return False
        index = torch.arange(log_prob.shape[1], device=outputs.device)
        # Any two elements have numbers that differ in a bit: no gradient of those with it may reach those without.
        for bit in range(len(index).bit_length()):
            for side in (0, 1):
                some = (index >> bit) % 2 == side
                (slope,) = torch.autograd.grad(log_prob[:, some].sum(), outputs, retain_graph=True)
                if slope.movedim(-1, 1).reshape(len(slope), -1, len(index))[..., ~some].any():
                    return False
        return True
