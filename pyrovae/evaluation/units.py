"""Latent units: where their posteriors lie, which of them carry information, and how much."""

from __future__ import annotations

import math

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution, kl_divergence

from pyrovae.checks import trusted
from pyrovae.distributions import moments
from pyrovae.elbos.draws import draw
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE

ACTIVE = 0.01
"""A unit is active where the variance over rows of its posterior mean is above this (Burda et al. 2015)."""
DRAWS = 100
"""Draws that a mean is taken over: of the layers that another one depends on, or of a KL without a closed form."""
AT_ONCE = 40
"""Rows whose draws go through the decoder at once."""


def posterior_moments(vae: VAE, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z | x) for checked rows, each ``(N, D)``, on the CPU."""
    with isolated(0), evaluating(vae), trusted():
        # A thousand rows at a time, so that a large network has room.
        parts = [moments(vae.encode(part, c)) for _, part, c in ordered(x, condition, 1000)]
        mean, deviation = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        return mean, deviation


def unit_variances(vae: VAE, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
    r"""Of each latent site and unit, :math:`\operatorname{Var}_x(\mathrm{E}_q[z_d])` over checked rows.

    Of several layers, where one is drawn given another, the mean of its own mean is taken over draws of the other, and
    what that leaves of their noise is taken off the variance.
    """
    if not vae.prior.has("deep"):
        (site,) = vae.sites
        return {site: posterior_moments(vae, x, condition)[0].var(0, correction=0)}
    means: dict[str, list[Tensor]] = {}
    noise: dict[str, list[Tensor]] = {}
    with isolated(0), evaluating(vae), trusted():
        for _, part, c in ordered(x, condition, 100):
            with pyro.plate("particles", DRAWS, dim=-2):
                trace = poutine.trace(vae.guide).get_trace(part, c)
            for site in vae.sites:
                mean = moments(trace.nodes[site]["fn"])[0].expand(DRAWS, len(part), -1)
                means.setdefault(site, []).append(mean.mean(0).cpu())
                noise.setdefault(site, []).append(mean.var(0).cpu() / DRAWS)
    return {
        site: (torch.cat(means[site]).var(0, correction=0) - torch.cat(noise[site]).mean(0)).clamp_min(0.0)
        for site in vae.sites
    }


def unit_kls(vae: VAE, x: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
    r"""Of each latent site and unit, :math:`\operatorname{E}_x \mathrm{KL}(q(z_d \mid x) \,\Vert\, p(z_d))` in nats,
    mean over checked rows, ``(D,)`` in float64 on the CPU.

    In closed form where torch or this library know it, else over 100 draws for each row, as of several layers,
    where it is that of the conditional distributions that model and guide draw from. NaN where prior or posterior is no
    product over units, whose KL is that of all of them together.
    """
    with isolated(0), evaluating(vae), trusted():
        if vae.prior.has("deep") or vae.label is not None:
            parts = [_drawn_kls(vae, rows, c) for _, rows, c in ordered(x, condition, AT_ONCE)]
        else:
            parts = [_kls(vae, rows, c) for _, rows, c in ordered(x, condition, 1000)]
    return {site: torch.cat([part[site] for part in parts]).double().cpu().mean(0) for site in vae.sites}


def _kls(vae: VAE, x: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
    """The KL of each row and unit, ``(B, D)``, of the only site."""
    (site,) = vae.sites
    q, p = _units(vae.posterior(x, condition)), _units(vae.prior(condition, condition))
    if q is None or p is None:
        return {site: x.new_full((len(x), vae.latent_dim), math.nan)}
    try:
        return {site: kl_divergence(q, p)}
    except NotImplementedError:
        z = q.sample((DRAWS,))
        return {site: (q.log_prob(z) - p.log_prob(z)).mean(0)}


def _drawn_kls(vae: VAE, x: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
    """The KL of each row and unit, ``(B, D)``, of each site, from draws of all of them."""
    draws = draw(vae.model, vae.guide, (x, condition), {}, DRAWS, nesting=1)
    found = {}
    for site in vae.sites:
        z = draws.guide_sites[site]["value"]
        q, p = (_units(sites[site]["fn"]) for sites in (draws.guide_sites, draws.model_sites))
        if q is None or p is None:
            found[site] = z.new_full((len(x), z.shape[-1]), math.nan)
        else:
            found[site] = (q.log_prob(z) - p.log_prob(z)).mean(0)
    return found


def _units(d: Distribution) -> Distribution | None:
    """The distributions of the elements of a vector, as a batch; None where they are not independent."""
    if isinstance(d, Independent) and d.reinterpreted_batch_ndims == 1 and not d.base_dist.event_shape:
        return d.base_dist
    if isinstance(d, TransformedDistribution) and all(t.domain.event_dim == 0 for t in d.transforms):
        base = _units(d.base_dist)
        return None if base is None else TransformedDistribution(base, d.transforms)
    return None
