"""The one latent site of a model and its guide, laid out as rows and dimensions: what every penalty is made of."""

from __future__ import annotations

from functools import cached_property

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution, kl_divergence

from pyrovae.distributions import centre
from pyrovae.elbos.draws import Draws, Site


class Latent:
    r"""Draws :math:`z_{kn} \sim q(z \mid x_n)` as ``(K, B, D)``, with their posterior and prior.

    The B rows are those of all plates that model and guide share; all else that z is made of are its D dimensions.

    Args:
        draws: what a guide and a model with one latent site gave.
        owner: who asks, for messages.

    Raises:
        ValueError: for any other number of latent sites, or one whose rows are masked or differ in scale.
    """

    def __init__(self, draws: Draws, owner: str) -> None:
        self.draws, self.owner = draws, owner
        if len(draws.guide_sites) != 1:
            names = ", ".join(map(repr, sorted(draws.guide_sites))) or "none"
            raise ValueError(f"{owner}: expected a model with one latent site, got {names}. Choose elbo.")
        ((name, self.posterior),) = draws.guide_sites.items()
        self.prior = draws.model_sites[name]
        for site in (self.posterior, self.prior):
            if site["mask"] is not None and site["mask"] is not True:
                raise ValueError(
                    f"{owner}: expected a latent site without a mask, got one at {name!r}: its penalty is a mean over "
                    "rows. Mask the observed sites alone."
                )
        self.scale = self._one(draws.latent_scale)

    def _one(self, scale: Tensor | float) -> Tensor | float:
        if isinstance(scale, Tensor) and scale.numel() > 1:
            raise ValueError(
                f"{self.owner}: expected one scale for all rows, got one of shape {tuple(scale.shape)}: its penalty is "
                "a mean over rows. Choose elbo."
            )
        return scale

    @cached_property
    def z(self) -> Tensor:
        """The draws, ``(K, B, D)``."""
        return self._arrange(self.posterior["value"])

    @property
    def rows(self) -> int:
        """B."""
        return self.z.shape[1]

    @property
    def all_rows(self) -> int:
        """N, the rows of which these are a batch, by the scale of the observed sites."""
        return round(float(self._one(self.draws.observed_scale)) * self.rows)

    def at_least(self, rows: int) -> None:
        """A ValueError unless there are so many rows."""
        if self.rows < rows:
            raise ValueError(
                f"{self.owner}: expected at least {rows} rows in a batch, to compare them, got {self.rows}"
            )

    @cached_property
    def log_q(self) -> Tensor:
        r""":math:`\log q(z_{kn} \mid x_n)`, ``(K, B)``."""
        return self.draws.log_q.flatten(1)

    @cached_property
    def log_p(self) -> Tensor:
        r""":math:`\log p(z_{kn})`, ``(K, B)``."""
        return self.draws.latent.flatten(1)

    @cached_property
    def kl(self) -> Tensor:
        r""":math:`\mathrm{KL}(q(z \mid x_n) \,\|\, p(z))`, ``(K, B)``: in closed form where torch knows it, else
        :math:`\log q - \log p` at the draws."""
        try:
            kl = kl_divergence(self.posterior["fn"], self.prior["fn"])
        except NotImplementedError:
            return self.log_q - self.log_p
        return self.draws.fold(kl).flatten(1)

    @cached_property
    def kl_by_dim(self) -> Tensor:
        r""":math:`\mathrm{KL}(q(z_d \mid x_n) \,\|\, p(z_d))`, ``(K, B, D)``, in the same way."""
        q, p = self.factors
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            kl = q.log_prob(self.posterior["value"]) - p.log_prob(self.posterior["value"])
        return self._arrange(kl)

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        r"""Means and variances of :math:`q(z_d \mid x_n)`, ``(K, B, D)``."""
        q = self._factors(self.posterior, "posterior")
        try:
            return self._arrange(q.mean), self._arrange(q.variance)
        except NotImplementedError as error:
            raise ValueError(
                f"{self.owner}: expected a posterior whose means and variances are known, got {_name(q)}. "
                "Choose posterior='normal'."
            ) from error

    @cached_property
    def centre(self) -> Tensor:
        """Where each row's posterior is, ``(K, B, D)``: its mean, or mode."""
        q = self.posterior["fn"]
        return self._arrange(centre(q).expand_as(self.posterior["value"]))

    @cached_property
    def factors(self) -> tuple[Distribution, Distribution]:
        """Posterior and prior of each dimension, of the batch shape of z itself."""
        return self._factors(self.posterior, "posterior"), self._factors(self.prior, "prior")

    def log_q_between(self) -> Tensor:
        r""":math:`\log q(z_{kid} \mid x_j)`, each draw under each row's posterior: ``(K, B, B, D)``, i before j."""
        q, _ = self.factors
        if isinstance(q.base_dist if isinstance(q, TransformedDistribution) else q, dist.Delta):
            raise ValueError(f"{self.owner}: expected a posterior with a density, got a Delta. Choose elbo.")
        value, nesting = self.posterior["value"], self.draws.fold.nesting
        shape = list(value.shape)
        for dim in self.draws.fold.dims:
            shape[1 + nesting + dim] = 1
        # One row's draw for all rows, and the rows' own numbers in front.
        each = self.z.transpose(0, 1).reshape(self.rows, *shape)
        return self._arrange(q.log_prob(each)).transpose(0, 1)

    def draw_prior(self) -> Tensor:
        """A draw from the prior for each draw from the posterior, ``(K, B, D)``, with gradients where it has them."""
        # A model that is replayed draws nothing, and so has no distribution for each draw.
        prior = self.prior["fn"].expand(self.posterior["fn"].batch_shape)
        return self._arrange(prior.rsample() if prior.has_rsample else prior.sample())

    def _factors(self, site: Site, role: str) -> Distribution:
        factors = _factors(site["fn"])
        if factors is None:
            raise ValueError(
                f"{self.owner}: expected a {role} whose dimensions are independent, a product over d, got "
                f"{_name(site['fn'])}. Choose {role}='normal', or an estimator that needs none (elbo, capacity)."
            )
        return factors

    def _arrange(self, values: Tensor) -> Tensor:
        """What is given for each element of z, ``(..., K, *plates, *event)``, as ``(..., K, B, D)``."""
        fold, event_dim = self.draws.fold, self.posterior["fn"].event_dim
        lead = values.ndim - fold.nesting - event_dim
        inner = [dim - event_dim for dim in range(-fold.nesting, 0) if dim not in fold.dims]
        # Plates that are no rows, such as one of independent elements of z, go behind those that are.
        values = values.movedim(inner, list(range(-event_dim - len(inner), -event_dim)))
        rows = values.shape[lead : lead + len(fold.dims)].numel()
        return values.reshape(*values.shape[:lead], rows, -1)


def _factors(d: Distribution) -> Distribution | None:
    """The distributions of single elements of which d is the product, their batch shape that of d's values."""
    if not d.event_shape:
        return d
    if isinstance(d, Independent):
        return _factors(d.base_dist)
    if isinstance(d, dist.Delta) and not d.log_density.any():
        return dist.Delta(d.v, event_dim=0)
    if isinstance(d, TransformedDistribution) and all(t.domain.event_dim == 0 for t in d.transforms):
        base = _factors(d.base_dist)
        return None if base is None else dist.TransformedDistribution(base, d.transforms)
    return None


def _name(d: Distribution) -> str:
    return type(d.base_dist if isinstance(d, Independent) else d).__name__
