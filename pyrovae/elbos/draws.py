"""K draws from a guide for each row, and their log-densities: what every bound is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import broadcast_shape, scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from pyro.util import check_site_shape
from torch import Tensor
from torch._subclasses import FakeTensor

Program = Callable[..., Any]
Site = dict[str, Any]
Gradient = Literal["total", "path", "score"]

PARTICLES = "num_particles_vectorized"
"""The plate of the draws, under the name that Pyro's own estimators give it."""

ASIDE = "_aside"
"""What an estimator marks sites with that it runs beside the data, in their ``infer``."""


@dataclass(frozen=True)
class Draws:
    r"""Log-densities in nats of K draws for each row, each of shape ``(K, *rows)``, unscaled by any subsampling.

    Rows are the plates that all sites share, with a dim of size 1 for any other plate; a model without such a plate is
    one row.

    Attributes:
        observed: :math:`\log p(x \mid z)`.
        latent: :math:`\log p(z)`.
        log_q: :math:`\log q(z \mid x)`.
        guide_sites, model_sites: the sites of both traces by name.
        path: zeros whose gradient by the guide's parameters is :math:`\partial_z \log q \cdot \partial_\phi z`.
        through: how the model's slope in z goes back to the guide.
        fold: brings what a site has for each draw and plate to the shape ``(K, *rows)``.
        inputs: x, of an estimator that takes slopes in it.
    """

    observed: Tensor
    latent: Tensor
    log_q: Tensor
    guide_sites: dict[str, Site]
    model_sites: dict[str, Site]
    path: Tensor | None
    through: Through
    fold: Fold
    inputs: Tensor | None = None

    @property
    def log_p(self) -> Tensor:
        return self.observed + self.latent

    @property
    def log_weights(self) -> Tensor:
        r""":math:`\log w = \log p(x, z) - \log q(z \mid x)`."""
        return self.log_p - self.log_q

    @cached_property
    def scale(self) -> Tensor | float:
        """Of the rows, from subsampling and ``poutine.scale``; it belongs outside of every bound.

        Raises:
            ValueError: for sites of different scale, which have no bound that is formed row by row.
        """
        return _scale([*self.model_sites.values(), *self.guide_sites.values()])

    @cached_property
    def observed_scale(self) -> Tensor | float:
        """Of the observed sites alone."""
        return _scale([site for site in self.model_sites.values() if site["is_observed"]])

    @cached_property
    def latent_scale(self) -> Tensor | float:
        """Of the latent sites alone: with a weight on the KL term, another than that of the observed ones."""
        free = [site for site in self.model_sites.values() if not site["is_observed"]]
        return _scale([*free, *self.guide_sites.values()])


class Through:
    """The identity on z whose gradient is multiplied, on its way back to the guide, by a factor ``(K, *rows)``.

    So one pass back through the decoder serves one weight for its own parameters and another for the guide's. The
    factor is set between the pass forward and the pass back; None is 1.
    """

    factor: Tensor | None = None

    def __call__(self, z: Tensor, event_dim: int) -> Tensor:
        if not z.requires_grad:
            return z
        z = z.view_as(z)
        z.register_hook(lambda slope: slope if self.factor is None else slope * self.factor[(..., *[None] * event_dim)])
        return z


def draw(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_particles: int,
    nesting: int,
    gradient: Gradient = "total",
) -> Draws:
    r"""Run the guide and the model with K draws at once, in a plate to the left of their own ``nesting`` ones.

    Args:
        gradient: how the draws depend on the guide's parameters. "total": as written. "path": z does; log_q is that
            of a z held fixed, and ``Draws.path`` has the rest of it. "score": z does not, log_q does.

    Raises:
        ValueError: for a latent site that only one of model and guide has, or (except for "score") a site that is not
            reparameterised.
    """
    if not torch.is_grad_enabled():
        gradient = "total"
    plate = pyro.plate(PARTICLES, num_particles, dim=-1 - nesting)
    with plate:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    latent = {name: site for name, site in _sites(guide_trace).items() if not site["is_observed"]}
    through, fixed = Through(), {}
    if gradient != "total":
        fixed = {name: site["value"].detach() for name, site in latent.items()}
    if gradient != "score" and torch.is_grad_enabled():
        _check_reparameterized(latent)
    seen = fixed
    if gradient == "path":
        fixed = {name: value.requires_grad_() for name, value in fixed.items()}
        seen = {name: through(site["value"], site["fn"].event_dim) for name, site in latent.items()}
    with plate:
        model_trace = _replay(model, args, kwargs, guide_trace, seen)
    own = _sites(model_trace)
    _check_match(own, latent)
    sites = [*own.values(), *latent.values()]
    fold = Fold(nesting, _shared_dims(sites))

    path, asked = None, latent
    if gradient != "total" and len(latent) > 1:
        # The distribution of a single site cannot depend on its own value; those of several on each other's do.
        with plate:
            asked = _sites(_replay(guide, args, kwargs, guide_trace, fixed))
    parts = [
        fold.log_prob(site for site in own.values() if site["is_observed"]),
        fold.log_prob(site for site in own.values() if not site["is_observed"]),
        fold.log_prob((asked[name] for name in latent), fixed),
    ]
    if gradient == "path":
        path = _path(parts[2], latent, fixed, fold)
    # Torch's imports sympy.
    shape = broadcast_shape((num_particles,) + (1,) * nesting, *(part.shape for part in parts))
    return Draws(*(part.expand(shape) for part in parts), latent, own, path, through, fold)


class SameRows:
    """A guide whose plates, where they subsample at random, do so in its first run only: for draws in several runs."""

    def __init__(self, guide: Program) -> None:
        self.guide = guide
        self.forget()

    def forget(self) -> None:
        """The next run is a first one."""
        self._rows: Trace | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the guide has it
        if self._rows is not None:
            return poutine.replay(self.guide, trace=self._rows)(*args, **kwargs)
        with poutine.trace() as handler:
            value = self.guide(*args, **kwargs)
        self._rows = handler.trace
        for name in [name for name, site in self._rows.nodes.items() if not site_is_subsample(site)]:
            self._rows.remove_node(name)
        return value


def _sites(trace: Trace) -> dict[str, Site]:
    """Sample sites, but for those of subsampling and of ``pyro.deterministic``."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")
    }


def _replay(
    program: Program, args: tuple[Any, ...], kwargs: dict[str, Any], trace: Trace, values: dict[str, Tensor]
) -> Trace:
    """A trace of ``program`` run with the values of ``trace``, or with ``values`` in their place."""
    trace = trace.copy()
    for name, value in values.items():
        trace.nodes[name] = {**trace.nodes[name], "value": value}
    return poutine.trace(poutine.replay(program, trace=trace)).get_trace(*args, **kwargs)


@dataclass(frozen=True)
class Fold:
    """Brings what sites have for each draw and plate to the shape ``(K, *rows)``."""

    nesting: int
    dims: set[int]

    def log_prob(self, sites: Iterable[Site], values: dict[str, Tensor] | None = None) -> Tensor:
        """Sum of the sites' log-densities at their own values, or at those of ``values``."""
        terms = [self._site(site, (values or {}).get(site["name"], site["value"])) for site in sites]
        return sum(terms[1:], terms[0]) if terms else torch.zeros((1,) * (1 + self.nesting))

    def _site(self, site: Site, value: Tensor) -> Tensor:
        log_prob = site["fn"].log_prob(value, *site["args"], **site["kwargs"])
        log_prob = scale_and_mask(log_prob, mask=site["mask"])
        if is_validation_enabled():
            check_site_shape({**site, "log_prob": log_prob}, 1 + self.nesting)
        return self(log_prob)

    def __call__(self, values: Tensor) -> Tensor:
        values = values.reshape((1,) * (1 + self.nesting - values.ndim) + values.shape)
        inner = [dim for dim in range(-self.nesting, 0) if dim not in self.dims]
        return values.sum(inner, keepdim=True) if inner else values


def _path(log_q: Tensor, latent: dict[str, Site], fixed: dict[str, Tensor], fold: Fold) -> Tensor | None:
    """Zeros with the slope of log q in z, as it goes through z to the guide's parameters."""
    moved = [name for name, site in latent.items() if site["value"].requires_grad]
    if not moved or not log_q.requires_grad:
        return None
    at = [fixed[name] for name in moved]
    slopes = torch.autograd.grad(log_q.sum(), at, retain_graph=True, allow_unused=True, materialize_grads=True)
    terms = [along(latent[name], latent[name]["value"], slope) for name, slope in zip(moved, slopes, strict=True)]
    return sum(map(fold, terms[1:]), fold(terms[0]))


def along(site: Site, z: Tensor, slope: Tensor) -> Tensor:
    """Zeros of z's batch shape, whose gradient is that of z times ``slope``."""
    product = slope * (z - z.detach())
    event_dim = site["fn"].event_dim
    return product.flatten(-event_dim).sum(-1) if event_dim else product


def _shared_dims(sites: list[Site]) -> set[int]:
    """Dims of the plates in which all sites lie: the rows."""
    plates = [
        {(frame.name, frame.dim) for frame in site["cond_indep_stack"] if frame.vectorized and frame.name != PARTICLES}
        for site in sites
    ]
    return {dim for _, dim in set.intersection(*plates)} if plates else set()


def _scale(sites: list[Site]) -> Tensor | float:
    """What the log-densities of all sites are multiplied by."""
    if not sites:
        return 1.0
    first = sites[0]
    for site in sites[1:]:
        if not _same(first["scale"], site["scale"]):
            raise ValueError(
                f"expected one scale for all sites of a row, got {_words(first)} at {first['name']!r} and "
                f"{_words(site)} at {site['name']!r}. Bounds are formed by row and scaled as a whole: put all sites "
                "in the subsampled plate, and weigh single terms (beta) with the plain ELBO only."
            )
    return first["scale"]


def _same(a: Tensor | float, b: Tensor | float) -> bool:
    if isinstance(a, FakeTensor) and isinstance(b, FakeTensor):
        # While a step is traced they have no values; those of the first step were looked at.
        return a.shape == b.shape
    if a is not b and (isinstance(a, Tensor) or isinstance(b, Tensor)):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        return a.shape == b.shape and bool((a == b).all())
    return a is b or a == b


def _words(site: Site) -> str:
    scale = torch.as_tensor(site["scale"])
    return f"{scale.item():g}" if scale.ndim == 0 else f"a scale of shape {tuple(scale.shape)}"


def _check_match(own: dict[str, Site], latent: dict[str, Site]) -> None:
    free = {name for name, site in own.items() if not site["is_observed"]}
    guided = {name for name, site in latent.items() if not site["infer"].get("is_auxiliary")}
    if free != guided:
        raise ValueError(
            f"expected the same latent sites in model and guide, got {sorted(free)} in the model and {sorted(guided)} "
            'in the guide. Mark a site that only the guide has with infer={"is_auxiliary": True}.'
        )


def _check_reparameterized(latent: dict[str, Site]) -> None:
    for name, site in latent.items():
        if not site["fn"].has_rsample:
            raise ValueError(
                f"expected a reparameterised guide, and site {name!r} ({type(site['fn']).__name__}) has no rsample: "
                "choose an estimator that needs none (score_function, vimco, rws, tvo), or a relaxed distribution."
            )
