"""Several layers of latents: the prior of the lower ones is a VAE of which they are the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from pyrovae.distributions import centre
from pyrovae.modes import evaluating
from pyrovae.piece import Piece

DIRECTIONS = ("bottom_up", "top_down")


class Deep(nn.Module):
    r"""The prior of :math:`z_1` in a hierarchy, :math:`p(z_1) = \int p(z_1 \mid z_2) \, p(z_2) \, dz_2`.

    It has no density in closed form, and needs none: :math:`z_2` is a site of its own, in the model and in the guide.

    Args:
        vae: the VAE whose data are :math:`z_1`: its likelihood is :math:`p(z_1 \mid z_2)`, its posterior
            :math:`q(z_2 \mid z_1)`, and its prior may be another VAE.
    """

    def __init__(self, vae: Any) -> None:  # noqa: ANN401 - the VAE lies below this in the order of imports
        super().__init__()
        self.vae = vae

    @property
    def piece(self) -> Piece:
        """The prior at the top."""
        return self.vae.prior.piece

    def has(self, trait: str) -> bool:
        """Whether the prior at the top has a trait; this has that of being ``deep``."""
        return trait == "deep" or self.vae.prior.has(trait)

    def example(self, condition_dim: int = 0) -> TorchDistribution:
        """p(z_1 | z_2) at two rows of zeros."""
        return self.vae.likelihood.example(condition_dim)


def deep(above: Any, below: Any) -> Deep:  # noqa: ANN401
    """The prior that the VAE ``above`` is of the VAE ``below``.

    Raises:
        ValueError: where they do not fit.
    """
    if above.event_shape != (below.latent_dim,):
        raise ValueError(
            f"prior: expected a VAE whose data are z, event_shape ({below.latent_dim},), got {tuple(above.event_shape)}"
        )
    if above.condition_dim not in (0, below.condition_dim):
        raise ValueError(
            f"prior: expected a VAE of condition_dim 0 or {below.condition_dim}, got {above.condition_dim}"
        )
    return Deep(above)


def layered(dims: Sequence[int], parts: dict[str, Any]) -> list[dict[str, Any]]:
    """The networks and the posterior of each layer, from the lowest: one of each given for all, or for each its own.

    A single network of the user's is that between x and the lowest layer; the others are MLPs.

    Raises:
        ValueError: for another number of them, and for one module or piece that all layers would have to share.
    """
    result: list[dict[str, Any]] = [{} for _ in dims]
    for name, value in parts.items():
        if isinstance(value, list | tuple):
            if len(value) != len(dims):
                raise ValueError(f"{name}: expected one for each of the {len(dims)} layers, got {len(value)}")
            values = list(value)
        elif name == "posterior":
            if not isinstance(value, str):
                raise ValueError(f"posterior: expected a name, or a list of {len(dims)}, one for each layer")
            values = [value] * len(dims)
        else:
            values = [value] + [None] * (len(dims) - 1)
        for layer, each in zip(result, values, strict=True):
            layer[name] = each
    return result


def above(vae: Any) -> Iterator[Any]:  # noqa: ANN401
    """The VAEs above one, from the next to the top."""
    while vae.prior.has("deep"):
        vae = vae.prior.vae
        yield vae


# What follows takes a VAE, and a condition that those of its layers see which were built with one.


def draw_prior(vae: Any, condition: Tensor | None, names: Sequence[str]) -> Tensor:  # noqa: ANN401
    """The latent sites of the model, from the top down; returns the lowest."""
    if not vae.prior.has("deep"):
        return pyro.sample(names[0], vae.prior(condition, condition))
    vae, condition = _next(vae, condition)
    return pyro.sample(names[0], vae.likelihood(draw_prior(vae, condition, names[1:]), condition))


def draw_posterior(vae: Any, x: Tensor, condition: Tensor | None, names: Sequence[str]) -> Tensor:  # noqa: ANN401
    """The latent sites of the guide, in the direction that the VAE has; returns the lowest."""
    q, direction = vae.posterior(x, condition), vae.inference
    if not vae.prior.has("deep"):
        return pyro.sample(names[0], q)
    vae, condition = _next(vae, condition)
    if direction == "bottom_up":
        z = pyro.sample(names[0], q)
        draw_posterior(vae, z, condition, names[1:])
        return z
    z_above = draw_posterior(vae, q.mean, condition, names[1:])
    return pyro.sample(names[0], product(q, vae.likelihood(z_above, condition)))


def sample(vae: Any, n: int, condition: Tensor | None) -> Tensor:  # noqa: ANN401
    """n draws of the lowest latent from the prior, ``(n, D)``."""
    if not vae.prior.has("deep"):
        return vae.prior(condition, condition).expand((n,)).sample()
    vae, condition = _next(vae, condition)
    return vae.likelihood(sample(vae, n, condition), condition).sample()


def initialize_top(vae: Any, x: Tensor, condition: Tensor | None, size: int) -> None:  # noqa: ANN401
    """Let the prior at the top start from what the encoders, as they are, make of rows x, of which there are ``size``
    in training."""
    while vae.prior.has("deep"):
        with evaluating(vae):
            x = centre(vae.posterior(x, condition))
        vae, condition = _next(vae, condition)
    vae.prior.initialize(x, condition)
    if counts_rows(vae):
        vae.prior.piece.count_rows(size)


def counts_rows(vae: Any) -> bool:  # noqa: ANN401
    """Whether the prior at the top must know how many rows there are in training."""
    return hasattr([vae, *above(vae)][-1].prior.piece, "count_rows")


def _next(vae: Any, condition: Tensor | None) -> tuple[Any, Tensor | None]:  # noqa: ANN401
    """The VAE above, and the condition if it sees it."""
    vae = vae.prior.vae
    return vae, condition if vae.condition_dim else None


def product(q: TorchDistribution, p: TorchDistribution) -> TorchDistribution:
    r"""The normal whose density is proportional to that of two normals together, precisions added:

    .. math:: \sigma^{-2} = \sigma_q^{-2} + \sigma_p^{-2}, \qquad
        \mu = \sigma^2 (\mu_q / \sigma_q^2 + \mu_p / \sigma_p^2)

    what the data say of a layer and what the layers above it say (the ladder of Sønderby et al. 2016,
    https://arxiv.org/abs/1602.02282).
    """
    for d in (q, p):
        if not (isinstance(d, Independent) and isinstance(d.base_dist, Normal)):
            raise ValueError(
                f"top_down: expected layers of independent normals, got {type(d).__name__}. Choose bottom_up."
            )
    of_q, of_p = (d.base_dist.scale.square().reciprocal() for d in (q, p))
    variance = (of_q + of_p).reciprocal()
    return dist.Normal(variance * (of_q * q.mean + of_p * p.mean), variance.sqrt()).to_event(1)
