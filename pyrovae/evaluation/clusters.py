"""The cluster of each row, under a prior that is a mixture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import MixtureSameFamily

from pyrovae.checks import count, trusted
from pyrovae.modes import evaluating, isolated
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE


def clusters(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    condition: Any = None,  # noqa: ANN401
    *,
    num_samples: int = 100,
    seed: int = 0,
) -> Tensor:
    r"""The probability of each component of a mixture prior for each row, ``(N, K)``,

    .. math:: q(k \mid x) = \mathrm{E}_{q(z \mid x)} \, p(k \mid z), \qquad
        p(k \mid z) \propto \pi_k \, \mathcal{N}(z; \mu_k, \Sigma_k)

    the posterior of the cluster that makes the ELBO greatest, with the component summed out of the model: variational
    deep embedding (Jiang et al. 2017, https://arxiv.org/abs/1611.05148). Of a VAE with classes as its label, which is a
    mixture whose components have a decoder input of their own (Dilokthanakul et al. 2016,
    https://arxiv.org/abs/1611.02648), it is q(y | x).

    Args:
        vae: a model with the prior ``"mixture"`` or ``"vamp"``, or with a label.
        x: rows ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        num_samples: draws of z for each row.
        seed: of the draws.

    Raises:
        ValueError: for another prior, or data that the model does not take.

    >>> vae = VAE((4,), 2, likelihood="gaussian", prior="mixture(components=3)")
    >>> clusters(vae, torch.randn(5, 4)).shape
    torch.Size([5, 3])
    """
    count(num_samples, "num_samples", 1)
    if isinstance(vae.label, int):
        return vae.predict_proba(x)
    x = vae.check(x)
    condition = vae.check_condition(condition, len(x))
    parts = []
    with isolated(seed), evaluating(vae), trusted():
        if vae.prior.has("deep") or not isinstance(vae.prior(condition, condition), MixtureSameFamily):
            raise ValueError(
                f"clusters: expected a prior that is a mixture, or a label, got {type(vae.prior.piece).__name__}. "
                "Build the VAE with prior='mixture(components=10)', or with label=10."
            )
        for _, part, c in ordered(x, condition, 1000):
            prior, z = vae.prior(c, c), vae.encode(part, c).sample((num_samples,))
            each = prior.component_distribution.log_prob(z.unsqueeze(-2)) + prior.mixture_distribution.logits
            parts.append(each.softmax(-1).mean(0))
    return torch.cat(parts)
