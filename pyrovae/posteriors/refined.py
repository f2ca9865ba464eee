"""Refined posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence

from pyrovae.checks import count
from pyrovae.distributions import positive
from pyrovae.modes import seeded
from pyrovae.piece import Piece

SEED = 180202550
RATES = (1.0, 0.1, 0.01, 0.001)
"""The steps that each row tries, as parts of ``lr``."""


class Refined(Piece):
    r"""Refined posterior: the encoder's, then a few steps up the ELBO of each row by itself.

    .. math::
        \eta_{t+1} = \eta_t + \rho \nabla_\eta \big( \operatorname{E}_{q_\eta} [\log p(x \mid z)]
        - \operatorname{KL}(q_\eta \| p) \big), \quad \eta_0 = \text{encoder}(x)

    For the amortisation gap: what is lost because one network answers for all rows (Cremer, Li & Duvenaud 2018,
    https://arxiv.org/abs/1801.03558). Training goes through the steps to the encoder and, by second derivatives, to the
    decoder, as in the semi-amortised VAE of Kim et al. (2018), https://arxiv.org/abs/1802.02550. Each step costs one
    gradient and five values of the ELBO.

    Each row takes the best of the lengths 0 and ``lr`` times 1, 0.1, 0.01 and 0.001, so that no step can overshoot. The
    noise in these ELBOs is the same at each call: q(z | x) is a function of x and of its place in the batch.

    Args:
        base: the posterior to refine, by name or saved config; its draws must have second derivatives.
        steps: how many steps.
        lr: the longest step, in units of the network's numbers per nat.
        num_particles: draws in each ELBO.

    Raises:
        ValueError: when the VAE is built, for a base whose draws have no second derivatives (``"gamma"``), or a prior
            whose rows depend on one another.

    >>> import pyrovae
    >>> vae = pyrovae.VAE((4,), 2, likelihood="gaussian", posterior=Refined("normal", steps=2))
    >>> vae.encode(torch.randn(5, 4)).batch_shape
    torch.Size([5])
    """

    contextual = True

    def __init__(
        self, base: str | Mapping[str, Any] = "normal", steps: int = 4, lr: float = 0.1, num_particles: int = 4
    ) -> None:
        super().__init__()
        # The family of which this is a member.
        from pyrovae import posteriors

        if not isinstance(base, str | Mapping):
            raise ValueError(f"refined base: expected a name such as 'normal', got a {type(base).__name__}")
        self.base = base
        self.steps = count(steps, "refined steps", 1)
        self.lr = positive(lr, "refined lr: expected")
        self.num_particles = count(num_particles, "refined num_particles", 1)
        self.piece = posteriors.make(base)
        self.support, self.point = self.piece.support, self.piece.point
        self._vae: tuple[Any, ...] = ()
        self._inside = False

    def build(self, event_shape: Sequence[int]) -> int:
        super().build(event_shape)
        self.count = self.piece.build(event_shape)
        self.support = self.piece.support
        return self.count

    def bind(self, vae: Any) -> None:  # noqa: ANN401 - the VAE lies below this in the order of imports
        if hasattr(self.piece, "bind"):
            raise ValueError(f"refined base: expected a posterior of the encoder alone, got {self.base!r}")
        if vae.prior.has("joint"):
            raise ValueError(
                f"refined: expected a prior whose rows are independent, got {type(vae.prior.piece).__name__}. "
                "Choose posterior='normal'."
            )
        if vae.prior.has("deep"):
            raise ValueError("refined: expected one layer of latents, got several. Choose posterior='normal'.")
        # In a tuple, so that the VAE does not become a part of its own posterior.
        self._vae = (vae,)
        try:
            with torch.enable_grad(), torch.random.fork_rng():
                params = vae.like.new_zeros(2, self.count).requires_grad_()
                z = self.piece(params).rsample()
                (slope,) = torch.autograd.grad(z.square().sum(), params, create_graph=True)
                torch.autograd.grad(slope.sum(), params)
        except (NotImplementedError, RuntimeError) as error:
            raise ValueError(
                f"refined base: expected a posterior whose draws have second derivatives, got {self.base!r} ({error}). "
                "Choose base='normal'."
            ) from error

    def initial(self, x: Tensor, condition: Tensor | None = None) -> Tensor | None:
        return self.piece.initial(x, condition) if self.piece.contextual else self.piece.initial(x)

    def forward(
        self, params: Tensor, inputs: Tensor | None = None, condition: Tensor | None = None
    ) -> TorchDistribution:
        if not self._inside:
            params = self.refine(params, inputs, condition)
        return self.piece(params, inputs, condition) if self.piece.contextual else self.piece(params)

    def refine(self, params: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Better numbers ``(..., n)`` for rows x ``(..., *event_shape)``, from the encoder's."""
        if not self._vae:
            raise ValueError("refined: expected to be the posterior of a VAE before it is used, got no VAE")
        (vae,) = self._vae
        valid = vae.likelihood.piece.support.check(x) | x.isnan()
        if not valid.all():  # no data: the zeros with which a VAE learns shapes
            return params
        training = torch.is_grad_enabled()
        self._inside = True
        try:
            with torch.enable_grad():
                for step in range(self.steps):
                    params = self._step(params, x, condition, SEED + 2 * step, training)
        finally:
            self._inside = False
        return params if training else params.detach()

    def _step(self, params: Tensor, x: Tensor, condition: Tensor | None, seed: int, training: bool) -> Tensor:
        if not (training and params.requires_grad):
            params = params.detach().requires_grad_()
        elbo = self._elbos(params.unsqueeze(0), x, condition, seed)
        (slope,) = torch.autograd.grad(elbo.sum(), params, create_graph=training)
        rates = params.new_tensor([0.0, *(self.lr * rate for rate in RATES)])
        with torch.no_grad():
            tries = params + rates.reshape(-1, *[1] * params.ndim) * slope
            # With other draws than the slope's, so that a step that fits noise finds no favour.
            elbos = self._elbos(tries, x, condition, seed + 1)
            # A step to where the ELBO is not a number is worse than none.
            best = rates[elbos.nan_to_num(nan=-torch.inf).argmax(0)].unsqueeze(-1)
        return params + torch.where(best > 0, best * slope, 0.0)

    def _elbos(self, tries: Tensor, x: Tensor, condition: Tensor | None, seed: int) -> Tensor:
        """The ELBO of each row at tries ``(T, ..., n)``, with the same noise in each: ``(T, ...)``."""
        (vae,) = self._vae
        prior = vae.prior(condition, condition)
        draws, kls = [], []
        for params in tries:
            q = vae.posterior.distribution(params, x, condition)
            with seeded(seed, params.device):
                z = q.rsample((self.num_particles,))
            try:
                kl = kl_divergence(q, prior)
            except NotImplementedError:
                kl = (q.log_prob(z) - prior.log_prob(z)).mean(0)
            draws.append(z)
            kls.append(kl)
        return vae.likelihood(torch.stack(draws), condition).log_prob(x).mean(1) - torch.stack(kls)
