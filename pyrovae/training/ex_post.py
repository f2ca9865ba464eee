"""A density on the codes of a trained model, in place of its prior."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae import priors
from pyrovae.checks import count
from pyrovae.conditional import Conditional
from pyrovae.distributions import inverse_scale, same_support
from pyrovae.modes import evaluating, isolated
from pyrovae.vae import VAE


def ex_post(vae: VAE, x: Any, condition: Any = None, *, components: int = 10, seed: int = 0) -> VAE:  # noqa: ANN401
    r"""A copy of ``vae`` whose prior is a mixture of full normals, fitted to its codes of rows x.

    .. math:: p(z) = \sum_k \pi_k \mathcal{N}(z; \mu_k, \Sigma_k) \quad \text{by EM on} \quad z_n \sim q(z \mid x_n)

    It makes an autoencoder generative, and mends the gap between prior and aggregate posterior that a VAE's samples
    show: Ghosh et al. (2020), https://arxiv.org/abs/1903.12436; Dai & Wipf (2019), https://arxiv.org/abs/1903.05789.
    Encoder and decoder stay as they are.

    Args:
        vae: a trained model, with real codes in one layer.
        x: rows ``(N, *event_shape)``, such as those that it was trained on.
        condition: ``(N, condition_dim)``, for a conditional VAE; the mixture is the same under each.
        components: K; 1 is a single normal.
        seed: of the draws of the codes and of EM's first guess.

    Raises:
        ValueError: for codes that are not real numbers, several layers, or fewer rows than components.

    >>> vae = VAE((4,), 2, likelihood="gaussian", posterior="delta")
    >>> ex_post(vae, torch.randn(50, 4), components=2).prior.piece.components
    2
    """
    from sklearn.mixture import GaussianMixture

    if vae.prior.has("deep") or not same_support(vae.posterior.example(vae.condition_dim).support, constraints.real):
        raise ValueError("ex_post: expected codes that are real numbers, in one layer of latents")
    x = vae.check(x)
    condition = vae.check_condition(condition, len(x))
    if len(x) < count(components, "components", 1):
        raise ValueError(f"components: expected at most the {len(x)} rows of x, got {components}")
    with isolated(seed), evaluating(vae):
        codes = vae.encode(x, condition).sample().double().cpu()
    found = GaussianMixture(components, random_state=seed, reg_covar=1e-6).fit(codes.numpy())
    result = copy.deepcopy(vae)
    piece = priors.Mixture(components, covariance="full")
    result.prior = Conditional(piece, None, (vae.condition_dim,), (vae.latent_dim,), name="prior").to(vae.like)
    _put(piece, *(torch.as_tensor(values) for values in (found.weights_, found.means_, found.covariances_)))
    return result


@torch.no_grad()
def _put(piece: priors.Mixture, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
    """Give a mixture prior its parameters, by what `pyrovae.distributions.cholesky` makes of them."""
    factor = torch.linalg.cholesky(covariances)
    size = factor.shape[-1]
    row, column = torch.tril_indices(size, size, -1)
    scale = factor.diagonal(dim1=-2, dim2=-1).clamp_min(piece.floor * (1 + 1e-6))
    piece.logits.copy_(weights.log())
    piece.loc.copy_(means)
    piece.raw_scale.copy_(inverse_scale(scale, piece.floor))
    piece.raw_lower.copy_((factor[..., row, column] * size**0.5 / scale[..., row]).sinh())
