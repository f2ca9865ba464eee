"""A VAE's prior and decoder as a part of a bigger Pyro model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.hierarchy import draw_prior
from pyrovae.modes import evaluating
from pyrovae.parameters import register
from pyrovae.registry import choose
from pyrovae.vae import VAE

GIVES = ("mean", "likelihood")


class Field:
    """What `as_prior` returns: ``field(name, condition)`` draws z under names of its own and decodes it.

    Attributes:
        vae: the VAE, or the copy of it that is frozen.
        train: whether its weights are trained with the model.
        gives: "mean" or "likelihood".
    """

    def __init__(self, vae: VAE, *, train: bool = False, gives: str = "mean") -> None:
        self.train, self.gives = bool(train), choose(gives, GIVES, "gives")
        if not isinstance(vae, VAE):
            raise ValueError(f"as_prior: expected a VAE, got {type(vae).__name__}")
        if vae.prior.has("joint"):
            raise ValueError(
                f"as_prior: expected a prior of independent rows, got {type(vae.prior.piece).__name__}, which makes "
                "rows depend on one another. Use vae.model."
            )
        if gives == "mean":
            _check_mean(vae)
        self.vae = vae if train else copy.deepcopy(vae).eval().requires_grad_(False)

    def sites(self, name: str) -> tuple[str, ...]:
        """The names of the sample sites of a field: ``name_z``, or of several layers ``name_z1``, ``name_z2``, ..."""
        return tuple(f"{name}_{site}" for site in self.vae.sites)

    def __call__(self, name: str, condition: Any = None) -> Tensor | TorchDistribution:  # noqa: ANN401
        """Draw the sites of a field, and decode it.

        Args:
            name: what its sites begin with; each field of a model has a name of its own.
            condition: ``(..., condition_dim)``, for a conditional VAE, of the shape of the plates or one for all; where
                it is a class, integers ``(...)`` will do. Of a VAE with a label, the label.

        Returns:
            E[x | z], ``(..., *event_shape)``, or p(x | z) of batch shape ``(...)``, that of the plates around it.

        Raises:
            ValueError: for a name that the model has used already, and a condition that is missing, not wanted, of
                another shape or not finite.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"name: expected a text such as 'field', got {name!r}")
        condition = self._condition(condition)
        if self.train:
            register(self.vae)
        try:
            z = draw_prior(self.vae, condition, self.sites(name))
        except RuntimeError as error:
            if "Multiple sample sites named" not in str(error):
                raise
            raise ValueError(
                f"name: expected one for each field of a model, got {name!r} for a second time ({error})"
            ) from error
        p = self.vae.likelihood(z, condition)
        return p.mean if self.gives == "mean" else p

    def _condition(self, condition: Any) -> Tensor | None:  # noqa: ANN401
        """The condition as a tensor ``(..., condition_dim)``."""
        vae = self.vae
        if condition is None or not vae.condition_dim:
            condition = vae.check_condition(condition, 1)
        else:
            values = torch.as_tensor(condition, device=vae.like.device)
            if vae.condition_shape is not None and values.shape[-3:] == vae.condition_shape:
                values = values.flatten(-3)
            whole = values.ndim > 0 and values.shape[-1] == vae.condition_dim
            # Classes, and of a label that is a number, numbers.
            alone = not whole and (not values.is_floating_point() or vae.label is not None)
            lead = values.shape if alone else values.shape[:-1]
            flat = values.reshape(-1) if alone or not values.ndim else values.reshape(-1, values.shape[-1])
            condition = vae.check_condition(flat, len(flat)).reshape(*lead, vae.condition_dim)
        if vae.label is not None and condition.isnan().any():
            raise ValueError(
                "condition: expected the label of each row, got some without. Pass condition=, or draw it first."
            )
        return condition


def as_prior(vae: VAE, *, train: bool = False, gives: str = "mean") -> Field:
    r"""The VAE as a prior in a bigger Pyro model: ``y = field("y")`` is a draw of

    .. math:: z \sim p(z), \qquad y = \mathrm{E}[x \mid z],

    with the sample site ``y_z``. So a model of fields, curves or images that is slow or has no density becomes a few
    numbers with a simple prior, of which NUTS and autoguides make short work: PriorVAE, Semenova et al. (2022),
    https://doi.org/10.1098/rsif.2022.0094; for compressed sensing, Bora et al. (2017), https://arxiv.org/abs/1703.03208.

    It is a function to be called inside of a model, in plates (a draw for each row) or outside (one draw), under as
    many names as there are fields. The rest is Pyro's: NUTS, SVI with an autoguide, Predictive, ``poutine.condition``
    on ``y_z``, a likelihood of a part of y.

    Args:
        vae: the model. Its posterior is not used.
        train: False: a copy of the VAE as it is now, in evaluation mode, whose weights take no gradient and no part in
            the param store; training the VAE later does not move it. True: the VAE itself, in the mode that it is in,
            its weights registered with Pyro and trained with the model.
        gives: "mean", E[x | z], or "likelihood", the distribution p(x | z), for ``pyro.sample``.

    Raises:
        ValueError: for a prior that joins the rows, and a likelihood without a mean that moves with z (classes; ask for
            "likelihood").

    >>> import pyro, pyro.distributions as dist
    >>> field = as_prior(VAE((4,), 2, likelihood="gaussian"))
    >>> def model(observed):
    ...     y = field("y")
    ...     pyro.sample("observed", dist.Normal(y[..., :2], 0.1).to_event(1), obs=observed)
    >>> pyro.poutine.trace(model).get_trace(torch.zeros(2)).nodes["y_z"]["value"].shape
    torch.Size([2])
    """
    return Field(vae, train=train, gives=gives)


def _check_mean(vae: VAE) -> None:
    """Raise a ValueError unless the likelihood has a finite mean through which a gradient reaches z."""
    zeros = [vae.like.new_zeros(2, size) for size in (vae.latent_dim, vae.condition_dim) if size]
    zeros[0].requires_grad_()
    slope = None
    with evaluating(vae), torch.enable_grad():
        try:
            mean = vae.likelihood(*zeros).mean
        except (NotImplementedError, AttributeError):
            mean = zeros[0].new_full((), torch.nan)
        if mean.requires_grad and torch.isfinite(mean).all():
            (slope,) = torch.autograd.grad(mean.sum(), zeros[0], allow_unused=True)
    if slope is None:
        raise ValueError(
            f"as_prior: expected a likelihood with a mean that moves with z, got "
            f"{type(vae.likelihood.piece).__name__}. Ask for gives='likelihood'."
        )
