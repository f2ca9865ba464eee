"""What the latent units mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions import same_support
from pyrovae.evaluation.units import ACTIVE, posterior_moments
from pyrovae.modes import evaluating, isolated
from pyrovae.plots.grid import centres, grid, short
from pyrovae.plots.rows import MAX_ROWS, column_names, decode, first_rows, is_image
from pyrovae.plots.style import counted, cut, new_figure, with_unit
from pyrovae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_UNITS = 8
"""Rows of a picture that is still read at first look."""


def plot_traversal(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    *,
    condition: Any = None,  # noqa: ANN401
    columns: Sequence[str] | None = None,
    unit: str = "",
    seed: int = 0,
) -> Figure:
    """What the latent units mean: E[x | z] as z varies.

    Two real units and images: the plane, on a grid of quantiles of the prior. Otherwise the most active units (those
    whose posterior mean varies most over ``x``), each varied from -3 to 3 with the others at 0; where z is no real
    vector (on the simplex, say), draws of z from the prior, at quantiles of each unit.

    Args:
        vae: the model.
        x: data ``(N, *event_shape)`` that tell which units are active.
        condition: ``(N, condition_dim)``, for a conditional VAE; everything is decoded under its first row.
        columns: names of the columns of a table.
        unit: what the values are in, for the axes of a table.
        seed: of the draws of the prior that give its quantiles; the random state of the user is left alone.

    Raises:
        ValueError: for data that the model does not take.

    >>> figure = plot_traversal(VAE((4,), 2, likelihood="gaussian"), torch.randn(9, 4))
    >>> figure.axes[-1].get_ylabel()
    'value of the unit'
    """
    x, condition, _ = first_rows(vae, x, condition, MAX_ROWS, columns)
    first = None if condition is None else condition[:1]
    real = same_support(vae.prior.example(vae.condition_dim).support, constraints.real)
    if is_image(vae) and vae.latent_dim == 2 and real:
        return _plane_of_images(vae, first, seed)
    variance = posterior_moments(vae, x, condition)[0].var(0, correction=0)
    active = int((variance > ACTIVE).sum())
    units = variance.argsort(descending=True, stable=True)[: max(1, min(active, MAX_UNITS))].tolist()
    count = 11 if is_image(vae) else 7
    steps = torch.linspace(-3, 3, count) if real else torch.linspace(0, 1, count)
    z = _lines(vae, units, steps) if real else _draws(vae, units, steps, first, seed)
    decoded = decode(vae, z, first)
    scale = "value of the unit" if real else "quantile of the unit"
    labels = [f"z[{latent}]\nVar {variance[latent]:.2g}" for latent in units]
    which = "the latent unit" if vae.latent_dim == 1 else _most_active(len(units), vae.latent_dim)
    if not real:
        which += ", at draws from the prior"
    elif vae.latent_dim > 1:
        which += ", others at 0"
    where = "" if condition is None else ", under the condition of row 0"
    title = (
        f"{with_unit('E[x | z]', unit)} along {which}{where}\n"
        f"(Var: variance of the unit's posterior mean over {counted(len(x), 'row')})"
    )
    if not is_image(vae):
        return _table_traversal(decoded, steps, labels, column_names(vae, columns), title, scale)
    figure, ax = grid(decoded, title)
    ax.set_yticks(*centres(decoded, 0, labels))
    ax.set_xticks(*centres(decoded, 1, short(steps)))
    ax.set_xlabel(scale)
    return figure


def _lines(vae: VAE, units: list[int], steps: Tensor) -> Tensor:
    """z ``(units, steps, D)``: each unit at each step, the others at 0."""
    z = torch.zeros(len(units), len(steps), vae.latent_dim)
    for i, latent in enumerate(units):
        z[i, :, latent] = steps
    return z


def _draws(vae: VAE, units: list[int], quantiles: Tensor, condition: Tensor | None, seed: int) -> Tensor:
    """z ``(units, quantiles, D)``: draws from the prior in the order of each unit, at its quantiles."""
    with isolated(seed), evaluating(vae):
        draws = vae.sample_latent(1000, condition)
    places = (quantiles * (len(draws) - 1)).round().long()
    return torch.stack([draws[draws[:, latent].argsort()[places]] for latent in units])


def _most_active(shown: int, total: int) -> str:
    if shown == total:
        return f"each of {total} latent units"
    return f"the {f'{shown} ' if shown > 1 else ''}most active of {total} latent units"


def _plane_of_images(vae: VAE, condition: Tensor | None, seed: int) -> Figure:
    """E[x | z] on a grid of quantiles of the prior, for two units."""
    with isolated(seed), evaluating(vae):
        draws = vae.sample_latent(20_000, condition).cpu()
    where = "" if condition is None else ",\nunder the condition of row 0"
    count = 15 if max(vae.event_shape) <= 64 else 8
    quantiles = draws.float().quantile(torch.linspace(0.025, 0.975, count), dim=0)
    across, up = quantiles[:, 0].expand(count, -1), quantiles[:, 1].flip(0)[:, None].expand(-1, count)
    images = decode(vae, torch.stack([across, up], -1), condition)
    figure, ax = grid(images, "E[x | z] over the latent plane, at quantiles of the prior from 2.5 % to 97.5 %" + where)
    ax.set_xticks(*centres(images, 1, short(across[0])))
    ax.set_yticks(*centres(images, 0, short(up[:, 0])))
    ax.set(xlabel="z[0]", ylabel="z[1]")
    return figure


def _table_traversal(
    decoded: Tensor, steps: Tensor, labels: list[str], names: list[str], title: str, scale: str
) -> Figure:
    """A panel for each unit: decoded means over the columns, a line for each value of the unit."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values = decoded.flatten(2).float().cpu().numpy()
    figure = new_figure(max(6.5, min(13, 2.5 + 0.45 * len(names))), 1.5 * len(labels) + 2.6)
    axes = figure.subplots(len(labels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    colours = ScalarMappable(Normalize(float(steps[0]), float(steps[-1])), colormaps["cividis"])
    for ax, lines, label in zip(axes, values, labels, strict=True):
        for line, step in zip(lines, steps.tolist(), strict=True):
            ax.plot(line, color=colours.to_rgba(step), marker="." if len(names) <= 40 else None, linewidth=1.2)
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
        ax.spines[["top", "right"]].set_visible(False)
    if len(names) <= 40:
        axes[-1].set_xticks(range(len(names)), [cut(name, 24) for name in names])
        axes[-1].tick_params(axis="x", rotation=90 if max(map(len, names)) > 3 else 0)
    axes[-1].set_xlabel("column")
    figure.colorbar(colours, ax=list(axes), label=scale, ticks=steps.tolist(), aspect=30)
    figure.suptitle(title, fontsize=11)
    return figure
