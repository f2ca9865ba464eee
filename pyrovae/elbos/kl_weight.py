"""A weight on the KL term of an ELBO."""

from __future__ import annotations

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor


class KLWeight(Messenger):
    r"""Handler that multiplies log-densities of latent sites by a weight: around both model and guide it makes

    .. math:: \mathrm{E}_q[\log p(x \mid z)] - \beta \, \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    of a plain ELBO (Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl). ``poutine.scale`` refuses a
    weight of 0; here it works. ``weight`` may be changed between steps, in a compiled one if it is a tensor.

    >>> import pyro, pyro.distributions as dist
    >>> def model(): return pyro.sample("z", dist.Normal(0.0, 1.0))
    >>> trace = pyro.poutine.trace(KLWeight(0.0)(model)).get_trace()
    >>> float(trace.log_prob_sum())
    0.0
    """

    def __init__(self, weight: float | Tensor) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Message) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.weight
