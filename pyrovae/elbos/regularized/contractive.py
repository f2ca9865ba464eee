"""Codes that move little when the data do: the contractive penalty."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyrovae.elbos.draws import Draws, Program
from pyrovae.elbos.regularized.latent import Latent
from pyrovae.elbos.regularized.regularized import Regularized, amount


@dataclass(eq=False)
class Contractive(Regularized):
    r"""Contractive: ELBO less the squared slope of the codes :math:`\mu(x)`, the centres of q(z | x), in the data,

    .. math:: \mathrm{E}[\log p(x \mid z)] - \kappa \, \mathrm{KL}
        - \lambda \, \mathrm{E}_n \lVert \partial \mu(x_n) / \partial x_n \rVert_F^2,

    for codes that stay where they are under small changes of a row. With ``posterior="delta"`` and ``kl=0``, the
    contractive autoencoder. The norm is estimated without bias by one draw of signs v a row, from
    :math:`\lVert \partial (v^\top \mu) / \partial x \rVert^2` (Hutchinson 1990,
    https://doi.org/10.1080/03610919008812866), at the cost of one more backward pass. The first argument of model and
    guide must be x, of real numbers, whose rows the encoder treats one by one.

    Reference: Rifai, Vincent, Muller, Glorot and Bengio, 2011, https://icml.cc/2011/papers/455_icmlpaper.pdf

    Args:
        weight: :math:`\lambda`, in nats per squared unit of z over x.
        kl: :math:`\kappa`.
    """

    weight: float = field(default=0.1, kw_only=True)
    kl: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        amount(self.weight, "weight")
        amount(self.kl, "kl")

    @torch.enable_grad()
    def draw(
        self, num_particles: int, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Draws:
        """Draws, from an x in which slopes can be taken."""
        x, *rest = args or (None,)
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            raise ValueError(
                "Contractive: expected x, a tensor of real numbers, as the first argument of model and guide, got "
                f"{x.dtype if isinstance(x, Tensor) else type(x).__name__}"
            )
        x = x.detach().requires_grad_()
        return dataclasses.replace(super().draw(num_particles, model, guide, (x, *rest), kwargs), inputs=x)

    def penalty(self, latent: Latent) -> Tensor:
        mean = self.kl * latent.kl.mean()
        return mean + self.weight * self.slope(latent) if self.weight else mean

    @torch.enable_grad()
    def slope(self, latent: Latent) -> Tensor:
        r""":math:`\mathrm{E}_n \lVert \partial \mu / \partial x \rVert_F^2`, estimated."""
        # The K draws of a row share its code.
        codes = latent.centre.mean(0)
        signs = torch.randint_like(codes, 2) * 2 - 1
        (slope,) = torch.autograd.grad((signs * codes).sum(), latent.draws.inputs, create_graph=True)
        return slope.square().sum() / latent.rows
