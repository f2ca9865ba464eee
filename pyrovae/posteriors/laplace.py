"""Laplace posterior."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.posteriors.location_scale import LocationScale


class Laplace(LocationScale):
    r"""Laplace posterior, for sparse codes: :math:`q(z \mid x) = \prod_d \frac{1}{2 b_d} e^{-|z_d - \mu_d| / b_d}`.

    With a Laplace prior: the KL between the two has a closed form. For sparse coding by VAEs see
    Geadah, Barello, Greenidge, Charles & Pillow (2024),
    https://direct.mit.edu/neco/article/36/12/2571/124821/Sparse-Coding-Variational-Autoencoders.

    Args:
        floor: the least scale b.

    >>> import torch
    >>> posterior = Laplace()
    >>> posterior.build((2,))
    4
    >>> posterior(torch.zeros(3, 4)).event_shape
    torch.Size([2])
    """

    def element(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale)
