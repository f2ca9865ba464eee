"""One-hot prior."""

from __future__ import annotations

from pyrovae.priors.categorical import Categorical


class OneHot(Categorical):
    r"""One-hot prior: a single categorical variable of latent_dim classes, :math:`p(z = e_j) = \pi_j`.

    For one cluster a row: `Categorical` with all of z as one variable. Kingma, Rezende, Mohamed & Welling (2014),
    https://arxiv.org/abs/1406.5298.

    Args:
        temperature: None, or that of the Concrete density, above 0.
        learned: train the weights.

    >>> import torch
    >>> prior = OneHot()
    >>> prior.build((4,))
    0
    >>> prior(None).log_prob(torch.tensor([0.0, 1.0, 0.0, 0.0]))  # -log 4
    tensor(-1.3863)
    """

    def __init__(self, temperature: float | None = None, learned: bool = False) -> None:
        super().__init__(temperature=temperature, learned=learned)
