"""The latents of rows as real vectors, without bounds, for chains that move in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Transform, constraints, identity_transform
from torch.distributions.transforms import CatTransform

from pyrovae import hierarchy
from pyrovae.distributions import base, bijection
from pyrovae.evaluation.importance import check_marginal
from pyrovae.vae import VAE

Density = Callable[[Tensor], Tensor]


def check_chains(vae: VAE, name: str, remedy: str) -> None:
    """Raise a ValueError, in the name of a function, unless latents are vectors for each row, independent of other
    rows', and the only latent sites; whether they are continuous `coordinates` finds out."""
    check_marginal(vae, name)
    if vae.label is not None:
        raise ValueError(f"{name}: expected no label, which is a site of its own. {remedy}")
    if vae.mechanism is not None:
        raise ValueError(f"{name}: expected no mechanism, whose missing cells are a site of their own. {remedy}")


@dataclass(frozen=True)
class Coordinates:
    r"""The densities of z of B rows as densities of :math:`u`, a real vector, with :math:`z = t(u)`:

    .. math:: \log f(u) = \log f(z) + \log \left| \partial t / \partial u \right|

    Of several layers, z is all of them side by side, from x upwards. Densities take u ``(K, B, D)`` to ``(K, B)``, in
    nats; draws are K u's, ``(K, B, D)``.

    Attributes:
        onto: t, from real vectors to where z lives.
        latents: the densities of z.
        scale: standard deviations of u under the guide, ``(B, D)``, from 64 draws.
    """

    onto: Transform
    latents: Latents
    scale: Tensor

    def prior(self, u: Tensor) -> Tensor:
        """log p(z), with the Jacobian."""
        return self._density(self.latents.prior, u)

    def guide(self, u: Tensor) -> Tensor:
        """log q(z | x), with the Jacobian."""
        return self._density(self.latents.guide, u)

    def joint(self, u: Tensor) -> Tensor:
        """log p(x, z), with the Jacobian."""
        return self._density(self.latents.joint, u)

    def from_prior(self, count: int) -> Tensor:
        """Draws of p(z)."""
        return self.onto.inv(self.latents.from_prior(count))

    def from_guide(self, count: int) -> Tensor:
        """Draws of q(z | x)."""
        return self.onto.inv(self.latents.from_guide(count))

    def of(self, rows: Rows) -> Coordinates:
        """The same coordinates with the densities of other rows; ``scale`` stays."""
        return replace(self, latents=self.latents.of(rows))

    def _density(self, log_prob: Density, u: Tensor) -> Tensor:
        z = self.onto(u)
        slope = self.onto.log_abs_det_jacobian(u, z)
        # Of an elementwise transform one for each element, of stick-breaking one for each vector.
        return log_prob(z) + (slope.sum(-1) if slope.ndim == u.ndim else slope)


def coordinates(vae: VAE, x: Tensor, condition: Tensor | None, name: str) -> Coordinates:
    """The densities of rows x; a ValueError, in the name of a function, for a z that is discrete or on a sphere."""
    ontos, z = [_onto(support, name) for support in supports(vae)], latents(vae, x, condition)
    onto = ontos[0] if len(ontos) == 1 else _side_by_side(ontos, _dims(vae), name)
    return Coordinates(onto, z, onto.inv(z.from_guide(64)).std(0))


class Rows(NamedTuple):
    """All tensors of rows that densities of their latents depend on: ``(B, *event_shape)``, ``(B, condition_dim)`` and
    what the encoder's network makes of these, ``(B, n)``, where it is asked but once."""

    x: Tensor
    condition: Tensor | None
    numbers: Tensor | None = None


class Latents(Protocol):
    """The densities and draws of z of B rows, where it lives, as `Coordinates` has them of u."""

    rows: Rows
    prior: Density
    guide: Density
    joint: Density
    from_prior: Callable[[int], Tensor]
    from_guide: Callable[[int], Tensor]

    def of(self, rows: Rows) -> Latents:
        """Those of other rows."""
        ...


def latents(vae: VAE, x: Tensor, condition: Tensor | None) -> Latents:
    """The densities of rows x."""
    if vae.prior.has("deep"):
        return _Several(vae, Rows(x, condition))
    numbers = None if vae.posterior.network is None else vae.posterior.params(x, condition)
    return _Single(vae, Rows(x, condition, numbers))


def supports(vae: VAE) -> list[constraints.Constraint]:
    """Where the latents of each site live."""
    layers = [vae, *hierarchy.above(vae)]
    return [layer.prior.example(vae.condition_dim).support for layer in layers]


def apart(vae: VAE, z: Tensor) -> dict[str, Tensor]:
    """The latents of each site, of all of them side by side."""
    return dict(zip(vae.sites, z.split(_dims(vae), -1), strict=True))


def joined(sites: Mapping[str, Any], names: Sequence[str]) -> Tensor:
    """The values of the latent sites of a trace side by side."""
    return torch.cat([sites[name]["value"] for name in names], -1)


class _Single:
    """The densities and draws of a single layer."""

    def __init__(self, vae: VAE, rows: Rows) -> None:
        x, condition, numbers = rows
        prior, guide = vae.prior(condition, condition), vae.posterior.distribution(numbers, x, condition)
        self.vae, self.rows = vae, rows
        self.prior, self.guide = prior.log_prob, guide.log_prob
        self.joint = lambda z: prior.log_prob(z) + vae.decode(z, condition).log_prob(x)
        self.from_prior = lambda count: prior.expand((len(x),)).sample((count,))
        self.from_guide = lambda count: guide.sample((count,))

    def of(self, rows: Rows) -> _Single:
        return _Single(self.vae, rows)


class _Several:
    """The densities and draws of several layers, by the programs that draw them."""

    def __init__(self, vae: VAE, rows: Rows) -> None:
        self.vae, self.rows = vae, rows

    def of(self, rows: Rows) -> _Several:
        return _Several(self.vae, rows)

    def prior(self, z: Tensor) -> Tensor:
        return self._log_prob(self._draw_prior, z)

    def guide(self, z: Tensor) -> Tensor:
        return self._log_prob(self._draw_guide, z)

    def joint(self, z: Tensor) -> Tensor:
        return self.prior(z) + self.vae.decode(z[..., : self.vae.latent_dim], self.rows.condition).log_prob(self.rows.x)

    def from_prior(self, count: int) -> Tensor:
        return joined(self._trace(self._draw_prior, count), self.vae.sites)

    def from_guide(self, count: int) -> Tensor:
        return joined(self._trace(self._draw_guide, count), self.vae.sites)

    def _draw_prior(self) -> Tensor:
        return hierarchy.draw_prior(self.vae, self.rows.condition, self.vae.sites)

    def _draw_guide(self) -> Tensor:
        return hierarchy.draw_posterior(self.vae, self.rows.x, self.rows.condition, self.vae.sites)

    def _trace(self, program: Callable[[], Tensor], count: int) -> Mapping[str, Any]:
        with pyro.plate("particles", count, dim=-2), pyro.plate("data", len(self.rows.x), dim=-1):
            return poutine.trace(program).get_trace().nodes

    def _log_prob(self, program: Callable[[], Tensor], z: Tensor) -> Tensor:
        values = apart(self.vae, z)
        sites = self._trace(poutine.condition(program, data=values), len(z))
        return sum(sites[name]["fn"].log_prob(value) for name, value in values.items())


def _dims(vae: VAE) -> list[int]:
    """The length of the latents of each site."""
    return [layer.latent_dim for layer in (vae, *hierarchy.above(vae))]


def _onto(support: constraints.Constraint, name: str) -> Transform:
    """From real vectors to a support."""
    support = base(support)
    onto = bijection(support)
    if onto is None and support is not constraints.real:
        raise ValueError(f"{name}: expected a z that is continuous and without curvature, got one on {support}")
    return identity_transform if onto is None else onto


def _side_by_side(ontos: Sequence[Transform], dims: Sequence[int], name: str) -> Transform:
    """The transform of several latents side by side."""
    if any(onto.domain.event_dim for onto in ontos):
        raise ValueError(f"{name}: expected several layers of numbers or positive numbers, got one on the simplex")
    return CatTransform(ontos, dim=-1, lengths=dims)
