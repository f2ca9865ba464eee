"""Holes in a latent space, as numbers: how evenly the decoder changes between codes, and where prior samples land."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pyrovae.checks import count
from pyrovae.distributions import centre, expectation
from pyrovae.modes import evaluating, isolated
from pyrovae.registry import choose
from pyrovae.vae import VAE

if TYPE_CHECKING:
    import pandas as pd

ROWS_AT_ONCE = 2**10
DISTANCES = ("cosine", "euclidean")


def continuity(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    condition: Tensor | None = None,
    *,
    num_paths: int = 200,
    steps: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    r"""How evenly E[x | z] changes along straight lines between the codes of random pairs of rows.

    With :math:`z_0, \dots, z_S` evenly spaced from one code to the other and :math:`f(z) = \mathrm{E}[x \mid z]`,

    - ``change``: :math:`\sum_s \lVert f(z_s) - f(z_{s-1}) \rVert / \lVert z_S - z_0 \rVert`, decoded change per unit of
      z: in units of x over units of z, so that it depends on how widely a model spreads its codes;
    - ``jump``: the greatest step of f over its mean step: 1 where it changes evenly; it is free of the units of z;
    - ``detour``: :math:`\sum_s \lVert f(z_s) - f(z_{s-1}) \rVert / \lVert f(z_S) - f(z_0) \rVert`: 1 for a straight
      line, more for a way through other things.

    Args:
        vae: the model.
        x: rows ``(N, *event_shape)``, two or more.
        condition: ``(N, condition_dim)``, for a conditional VAE; that of a pair's first row holds along its path.
        num_paths: pairs.
        steps: S.
        seed: of the pairs.

    Returns:
        A DataFrame, a row a path.

    Raises:
        ValueError: for data that the model does not take, or fewer than two rows.

    >>> continuity(VAE((4,), 2, likelihood="gaussian"), torch.randn(30, 4), num_paths=5).columns.tolist()
    ['change', 'jump', 'detour']
    """
    import pandas as pd

    x = vae.check(x)
    condition = vae.check_condition(condition, len(x))
    count(num_paths, "num_paths", 1)
    count(steps, "steps", 2)
    if len(x) < 2:
        raise ValueError(f"continuity: expected two rows of x or more, got {len(x)}")
    with isolated(seed), evaluating(vae):
        first = torch.randint(len(x), (num_paths,))
        second = (first + torch.randint(1, len(x), (num_paths,))) % len(x)
        c = None if condition is None else condition[first]
        ends = [centre(vae.encode(x[rows], None if condition is None else condition[rows])) for rows in (first, second)]
        t = torch.linspace(0, 1, steps + 1, dtype=x.dtype, device=x.device)[:, None, None]
        path = torch.stack([_decoded(vae, z, c) for z in ends[0].lerp(ends[1], t)])
        moves = (path[1:] - path[:-1]).norm(dim=-1)
        whole = moves.sum(0)
        found = {
            "change": whole / (ends[1] - ends[0]).norm(dim=-1),
            "jump": moves.max(0).values / moves.mean(0),
            "detour": whole / (path[-1] - path[0]).norm(dim=-1),
        }
    table = pd.DataFrame({name: values.cpu().double().numpy() for name, values in found.items()})
    table.index.name = "path"
    return table


@dataclass(frozen=True)
class Completeness:
    """What `completeness` found.

    Attributes:
        share: of samples that lie near the data.
        threshold: how near that is: the distance within which ``level`` of held-out rows lie.
        distances: of each sample to its nearest row, ``(num_samples,)``.
        level: of the held-out rows.
    """

    share: float
    threshold: float
    distances: Tensor
    level: float

    def __str__(self) -> str:
        return (
            f"{100 * self.share:.1f} % of {len(self.distances)} samples are as near to the data "
            f"(within {self.threshold:.3g}) as {100 * self.level:g} % of held-out rows are, reconstructed"
        )


def completeness(
    vae: VAE,
    x: Any,  # noqa: ANN401
    held_out: Any,  # noqa: ANN401
    condition: Tensor | None = None,
    held_out_condition: Tensor | None = None,
    *,
    num_samples: int = 1000,
    level: float = 0.95,
    distance: str = "euclidean",
    seed: int = 0,
) -> Completeness:
    r"""The share of prior samples whose decodings lie near the data: 1 - that share are holes of the latent space.

    A sample :math:`x \sim p(x \mid z)`, :math:`z \sim p(z)`, is near if its distance from the nearest row of x is at
    most that within which ``level`` of the reconstructions of held-out rows lie from theirs, which are draws, too:
    :math:`x' \sim p(x \mid z)`, :math:`z \sim q(z \mid x)`. Means would not do: where a decoder knows nothing, its mean
    is the mean of all rows, which is near to each of them.

    Args:
        vae: the model.
        x: rows ``(N, *event_shape)`` that samples are held against, such as the training rows.
        held_out: rows that say how near is near.
        condition, held_out_condition: for a conditional VAE; samples have those of random rows of x.
        num_samples: samples.
        level: share of held-out rows that count as near.
        distance: "euclidean"; or "cosine", that of the rows scaled to norm 1, for images: a faint one is near to all.
        seed: of the samples.

    Raises:
        ValueError: for data that the model does not take, a level that is no share, or an unknown distance.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> completeness(vae, torch.randn(30, 4), torch.randn(9, 4), num_samples=50).distances.shape
    torch.Size([50])
    """
    if not 0 < level <= 1:
        raise ValueError(f"level: expected a share above 0 and at most 1, got {level!r}")
    count(num_samples, "num_samples", 1)
    choose(distance, DISTANCES, "distance")
    x, held_out = vae.check(x), vae.check(held_out)
    condition = vae.check_condition(condition, len(x))
    held_out_condition = vae.check_condition(held_out_condition, len(held_out))
    with isolated(seed), evaluating(vae):
        known = _nearest(vae.reconstruct(held_out, held_out_condition, mean=False), x, distance)
        c = None if condition is None else condition[torch.randint(len(x), (num_samples,))]
        distances = _nearest(vae.sample(num_samples, c), x, distance)
    threshold = float(known.quantile(level))
    return Completeness(float((distances <= threshold).float().mean()), threshold, distances.cpu(), level)


def _decoded(vae: VAE, z: Tensor, condition: Tensor | None) -> Tensor:
    """E[x | z] of each z, flat: ``(P, D)``."""
    return expectation(vae.decode(z, condition)).to(z.dtype).flatten(1)


def _nearest(a: Tensor, b: Tensor, distance: str) -> Tensor:
    """The distance of each row of a from the nearest row of b."""
    a, b = (normalize(rows.flatten(1)) if distance == "cosine" else rows.flatten(1) for rows in (a, b))
    return torch.cat([torch.cdist(part, b).min(1).values for part in a.split(ROWS_AT_ONCE)])
