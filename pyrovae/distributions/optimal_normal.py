"""A normal whose scale follows the values that it is asked about."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor


class OptimalNormal(dist.Normal):
    r"""A normal whose ``log_prob`` of a batch of values is taken at the scale that makes it greatest:

    .. math:: \sigma^{*2} = \frac{1}{n} \sum_{i=1}^{n} (x_i - \mu_i)^2

    over all n values, rows and elements alike. Because its scale depends on the values, it is a training objective and
    no density. Draws and moments are at the scale it is made with. Rybkin, Daniilidis & Levine (2021),
    https://arxiv.org/abs/2006.13202.

    Args:
        loc: means, of shape ``batch_shape``.
        scale: the scale of draws and moments.
        floor: the least scale.
        watch: called with :math:`\sigma^{*2}` when gradients flow back through a `log_prob`: at steps of training, not
            where a loss is only looked at.

    Raises:
        ValueError: by `log_prob`, where torch.jit.trace would leave ``watch`` out of what it compiles.

    >>> OptimalNormal(torch.zeros(2), torch.ones(()), 1e-3).log_prob(torch.tensor([-1.0, 1.0])).sum()  # -ln(2 pi) - 1
    tensor(-2.8379)
    """

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        floor: float,
        watch: Callable[[Tensor], None] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(loc, scale, validate_args=validate_args)
        self.floor, self.watch = floor, watch

    def expand(self, batch_shape: torch.Size, _instance: OptimalNormal | None = None) -> OptimalNormal:
        new = self._get_checked_instance(OptimalNormal, _instance)
        new.floor, new.watch = self.floor, self.watch
        return super().expand(batch_shape, _instance=new)

    def log_prob(self, value: Tensor) -> Tensor:
        # No gradient goes through the scale. By the envelope theorem the gradient of the sum of these log-densities is
        # the same without: the sum is stationary in the scale, or the scale is the floor, a constant. A bound that
        # weighs rows unevenly, as importance weights do, then takes the scale for given, as with a learned one.
        square = (value - self.loc).detach().square().mean()
        scale = square.sqrt().clamp_min(self.floor)
        result = dist.Normal(self.loc, scale, validate_args=self._validate_args).log_prob(value)
        if self.watch is not None and result.requires_grad:
            if torch.jit.is_tracing():
                raise ValueError(
                    "gaussian(scale=optimal): expected steps that are not traced, got torch.jit.trace, which would "
                    "leave the running scale where it is. Use a plain ELBO, or scale='shared'."
                )
            result.register_hook(lambda _: self.watch(square))
        return result
