"""The best posterior of the guide's family for each row by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.evaluation.importance import no_marginal
from pyrovae.modes import frozen, seeded
from pyrovae.vae import VAE

LAST = 1000
"""Draws by which two ELBOs of a row are compared."""
AT_ONCE = 20
"""How many of them go through the decoder at once."""


def not_refinable(vae: VAE, x: Tensor, condition: Tensor | None) -> str | None:
    """Why no posterior can be fitted to single rows of checked data; None where one can be."""
    if reason := no_marginal(vae):
        return reason
    if vae.prior.has("deep") or vae.label is not None or vae.mechanism is not None:
        return "it has more latent sites than z"
    if not vae.encode(x[:1], None if condition is None else condition[:1]).has_rsample:
        return "z is not reparameterised"
    return None


def refine(
    vae: VAE, x: Tensor, condition: Tensor | None, *, steps: int, lr: float, draws: int
) -> tuple[Tensor, Tensor]:
    r"""The guide's numbers for rows x, ``(B, n)``, before and after each row's were moved up its own ELBO by Adam.

    What the rows gain is the amortisation gap (Cremer, Li & Duvenaud 2018, https://arxiv.org/abs/1801.03558).
    """
    first = vae.posterior.params(x, condition).detach()
    with frozen(vae), torch.enable_grad():
        params = first.clone().requires_grad_()
        optimizer = torch.optim.Adam([params], lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            (-log_weights(vae, params, x, condition, draws).mean(0).sum()).backward()
            optimizer.step()
            schedule.step()
    return first, params.detach()


def log_weights(vae: VAE, params: Tensor, x: Tensor, condition: Tensor | None, draws: int) -> Tensor:
    """log p(x, z) - log q(z) of draws from the posterior of these numbers, ``(draws, B)``."""
    q = vae.posterior.distribution(params, x, condition)
    z = q.rsample((draws,))
    log_p = vae.prior(condition, condition).log_prob(z) + vae.likelihood(z, condition).log_prob(x)
    return log_p - q.log_prob(z)


def many_log_weights(vae: VAE, params: Tensor, x: Tensor, condition: Tensor | None, draws: int = LAST) -> Tensor:
    """The same of many draws, a few at a time, with the same noise at each call."""
    with seeded(0, params.device), torch.no_grad():
        sizes = [min(AT_ONCE, draws - start) for start in range(0, draws, AT_ONCE)]
        return torch.cat([log_weights(vae, params, x, condition, size) for size in sizes])
