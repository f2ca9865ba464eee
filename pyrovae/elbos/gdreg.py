"""The generalised doubly reparameterised gradient, for learned priors."""

from __future__ import annotations

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyrovae.distributions import pathwise
from pyrovae.elbos.bound import Weights
from pyrovae.elbos.draws import Draws, along
from pyrovae.elbos.dreg import DReG


class GDReG(DReG):
    r"""Generalised doubly reparameterised gradient: `DReG`, with the score of a learned prior reparameterised as well.

    A draw from q is read as :math:`z = T(\epsilon; \lambda)`, what the prior would have made of some noise, and for
    the prior's parameters

    .. math:: \nabla_\lambda = \mathrm{E} \sum_k \bigl[ \tilde w_k \, \partial_{z_k} \log p(x \mid z_k)
        - \tilde w_k^2 \, \partial_{z_k} \log w_k \bigr] \cdot \partial_\lambda T(\epsilon_k; \lambda).

    The same mean as `DReG`'s, for one more pass back through the decoder. With a prior that has nothing to learn, it
    is DReG.

    For a single latent site, whose prior says how it makes z of noise: see `pyrovae.distributions.pathwise`. A mixture
    (so a VampPrior) does not.

    Reference: Bauer and Mnih, 2021, https://arxiv.org/abs/2101.11046, from whose identity for
    :math:`\mathrm{E}_q[g \nabla_\lambda \log p_\lambda]` this follows with :math:`g = \tilde w_k`
    """

    def surrogate(self, draws: Draws, weights: Weights) -> Tensor:
        prior = _prior(draws)
        drawn = next(iter(draws.guide_sites.values()))["value"]
        at = drawn.detach().requires_grad_()
        score = draws.fold.log_prob([prior], {prior["name"]: drawn.detach()})
        if not drawn.requires_grad or not score.requires_grad:
            return super().surrogate(draws, weights)
        log_prior = draws.fold.log_prob([prior], {prior["name"]: at})
        (of_prior,) = torch.autograd.grad(log_prior.sum(), at, retain_graph=True)
        (of_joint,) = torch.autograd.grad(draws.log_p.sum(), prior["value"], retain_graph=True)
        (of_guide,) = torch.autograd.grad(draws.path.sum(), drawn, retain_graph=True)
        once, twice = (
            (weight * draws.scale)[(..., *[None] * prior["fn"].event_dim)] for weight in (weights.model, weights.path)
        )
        slope = once * (of_joint - of_prior) - twice * (of_joint - of_guide)
        path = scale_and_mask(along(prior, pathwise(prior["fn"], drawn.detach()), slope), mask=prior["mask"])
        # In place of the prior's score, which is part of log p(x, z), its path.
        score = (weights.model * draws.scale * score).sum()
        return super().surrogate(draws, weights) - score + path.sum()


def _prior(draws: Draws) -> dict:
    """The model's site of the only latent."""
    if len(draws.guide_sites) != 1:
        raise ValueError(
            f"gdreg: expected a model with one latent site, got {', '.join(draws.guide_sites)}. Choose dreg."
        )
    return draws.model_sites[next(iter(draws.guide_sites))]
