"""Annealed importance sampling."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae.checks import trusted
from pyrovae.evaluation.annealing import check_annealing, forward, path, pilot, tempered
from pyrovae.evaluation.coordinates import check_chains, coordinates
from pyrovae.evaluation.importance import checked
from pyrovae.evaluation.shares import Share, by_shares, reseed_for
from pyrovae.evaluation.weights import LogMarginal, log_mean_weight
from pyrovae.modes import evaluating, frozen, isolated
from pyrovae.vae import VAE


def ais(
    vae: VAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    num_chains: int = 16,
    num_steps: int = 500,
    leapfrog: int = 10,
    start: str = "posterior",
    seed: int = 0,
    chunk: int | None = None,
    n_jobs: int = 1,
    progress: bool = True,
) -> LogMarginal:
    r"""Estimate log p(x) of each row by annealed importance sampling,

    .. math:: \log w = \sum_{t=1}^T \log f_t(z_{t-1}) - \log f_{t-1}(z_{t-1}), \qquad
        f_t(z) = f_0(z)^{1 - \beta_t} \, p(x, z)^{\beta_t},

    where :math:`z_0 \sim f_0` and a move of Hamiltonian Monte Carlo takes :math:`z_{t-1}` to :math:`z_t` and leaves
    :math:`f_t` as it is (Neal 2001, https://doi.org/10.1023/A:1008923215028; for decoders, Wu et al. 2017,
    https://arxiv.org/abs/1611.04273). :math:`\mathrm{E}[w] = p(x)`, so that the logarithm is low on average, and rises
    to log p(x) with steps and chains, however far the guide is from the posterior.

    Betas follow a sigmoid. Step sizes, for each row and step, are found by a few chains that are then thrown away, so
    that they depend on none of the chains that count. Chains move in coordinates without bounds, scaled by the
    guide's standard deviations. Where they take long, densities and their gradients are compiled.

    Args:
        vae: the model, with a continuous z, of one layer or several.
        x: data ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        num_chains: chains for each row.
        num_steps: T.
        leapfrog: steps of the integrator in a move, each with a gradient of log p(x, z).
        start: :math:`f_0`: "posterior", the guide q(z | x), or "prior", which knows nothing of the guide.
        seed: of the draws.
        chunk: chains times rows that go through the decoder at once; memory grows with it.
            None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
        n_jobs: processes that share the rows, a chunk of chains at least each, as those of `log_marginal` do.
        progress: show a progress bar where it takes more than two seconds; with several jobs, that of the first.

    Returns:
        ``(value, standard_error)``, each ``(N,)``, in nats.

    Raises:
        ValueError: for data that the model does not take, or a z that is discrete or on a sphere.
    """
    check_annealing(num_chains, num_steps, leapfrog, start)
    check_chains(vae, "ais", "Use pyrovae.log_marginal.")
    x, condition, chunk = checked(vae, x, condition, num_chains, chunk, gradients=True)
    at_once = max(1, chunk // num_chains)

    def estimates(share: Share) -> list[LogMarginal]:
        groups, found = share.groups(x, condition, at_once), []
        total = sum(len(rows) for _, rows, _ in groups)
        states = tempered(vae, start, num_steps, leapfrog, total, at_once)
        with (
            isolated(seed, validation=False),
            evaluating(vae),
            frozen(vae),
            trusted(),
            tqdm(
                total=2 * num_steps * total, disable=not share.shown(progress), unit="step", desc="annealing", delay=2
            ) as bar,
        ):
            for which, rows, c in groups:
                reseed_for(which, seed)
                steps = path(coordinates(vae, rows, c, "ais"), states, start, num_steps, leapfrog)
                sizes = pilot(steps, bar)
                found.append(log_mean_weight(forward(steps, sizes, num_chains, bar)))
        return found

    return LogMarginal(*(torch.cat(part) for part in zip(*by_shares(estimates, n_jobs), strict=True)))
