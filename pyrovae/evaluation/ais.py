"""Annealed importance sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints, identity_transform
from tqdm import tqdm

from pyrovae.checks import count, trusted
from pyrovae.distributions import base, bijection
from pyrovae.evaluation.importance import CHUNK, checked, no_marginal
from pyrovae.evaluation.log_marginal import LogMarginal, log_mean_weight
from pyrovae.modes import evaluating, frozen, isolated
from pyrovae.registry import choose
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE

STARTS = ("posterior", "prior")
TARGET = 0.65
"""Rate of acceptance that step sizes are brought to (Beskos et al. 2013, https://doi.org/10.3150/12-BEJ414)."""
FIRST, CHANGE = 0.3, 1.2
"""The first step size, in standard deviations of the guide, and the factor by which it may change from move to move."""
PILOT = 8
"""Chains that find the step sizes."""
Density = Callable[[Tensor], Tensor]


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
    chunk: int = CHUNK,
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
    guide's standard deviations.

    Args:
        vae: the model, with a continuous z.
        x: data ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, for a conditional VAE.
        num_chains: chains for each row.
        num_steps: T.
        leapfrog: steps of the integrator in a move, each with a gradient of log p(x, z).
        start: :math:`f_0`: "posterior", the guide q(z | x), or "prior", which knows nothing of the guide.
        seed: of the draws.
        chunk: chains times rows that go through the decoder at once; memory grows with it.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        ``(value, standard_error)``, each ``(N,)``, in nats.

    Raises:
        ValueError: for data that the model does not take, or a z that is discrete or on a sphere.
    """
    choose(start, STARTS, "start")
    for name, value in (("num_chains", num_chains), ("num_steps", num_steps), ("leapfrog", leapfrog)):
        count(value, name, 1)
    if reason := no_marginal(vae):
        raise ValueError(f"ais: expected independent rows and a posterior with a density, but {reason}")
    if vae.prior.has("deep"):
        raise ValueError(f"ais: expected one layer of latents, got {', '.join(vae.sites)}. Use pyrovae.log_marginal.")
    if vae.label is not None:
        raise ValueError("ais: expected no label, which is a site of its own. Use pyrovae.log_marginal.")
    if vae.mechanism is not None:
        raise ValueError("ais: expected no mechanism, whose missing cells are a site of their own. Use log_marginal.")
    x, condition = checked(vae, x, condition, num_chains, chunk)
    parts = []
    with (
        isolated(seed, validation=False),
        evaluating(vae),
        frozen(vae),
        trusted(),
        tqdm(total=2 * num_steps * len(x), disable=not progress, unit="step", desc="annealing", delay=2) as bar,
    ):
        for _, rows, c in ordered(x, condition, max(1, chunk // num_chains)):
            path = _path(vae, rows, c, start)
            sizes = torch.full((num_steps, len(rows)), FIRST, dtype=rows.dtype, device=rows.device)
            for _ in _anneal(path, sizes, PILOT, leapfrog, adapt=True):
                bar.update(len(rows))
            for log_weights in _anneal(path, sizes, num_chains, leapfrog, adapt=False):
                bar.update(len(rows))
                last = log_weights
            parts.append(log_mean_weight(last))
    return LogMarginal(*(torch.cat(part) for part in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Path:
    """From a density that can be sampled to log p(x, z), for B rows, in coordinates u without bounds."""

    sample: Callable[[int], Tensor]  # count -> u, (count, B, D)
    first: Density  # u -> log f_0, (count, B)
    last: Density
    scale: Tensor  # (B, D)

    def slope(self, u: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """log f at beta and its gradient."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            value = self.first(u).lerp(self.last(u), beta)
            return value.detach(), torch.autograd.grad(value.sum(), u)[0]


def _path(vae: VAE, x: Tensor, condition: Tensor | None, start: str) -> _Path:
    prior, guide = vae.prior(condition, condition), vae.encode(x, condition)
    support = base(prior.support)
    carry = bijection(support)
    if carry is None and support is not constraints.real:
        raise ValueError(f"ais: expected a z that is continuous and without curvature, got one on {support}")
    if carry is None:
        carry = identity_transform

    def density(log_prob: Density) -> Density:
        def of(u: Tensor) -> Tensor:
            z = carry(u)
            slope = carry.log_abs_det_jacobian(u, z)
            # Of an elementwise transform one for each element, of stick-breaking one for each vector.
            return log_prob(z) + (slope.sum(-1) if slope.ndim == u.ndim else slope)

        return of

    first = guide if start == "posterior" else prior.expand((len(x),))
    draws = carry.inv(guide.sample((64,)))
    return _Path(
        sample=lambda count: carry.inv(first.sample((count,))),
        first=density(first.log_prob),
        last=density(lambda z: prior.log_prob(z) + vae.decode(z, condition).log_prob(x)),
        scale=draws.std(0),
    )


def _anneal(path: _Path, sizes: Tensor, chains: int, leapfrog: int, *, adapt: bool) -> Iterator[Tensor]:
    """Log-weights ``(chains, B)`` after each step; with ``adapt``, ``sizes`` become those that the chains liked."""
    steps = len(sizes)
    ends = torch.linspace(-4, 4, steps + 1, dtype=sizes.dtype, device=sizes.device).sigmoid()
    betas = (ends - ends[0]) / (ends[-1] - ends[0])
    u = path.sample(chains)
    log_weights = torch.zeros(u.shape[:2], dtype=u.dtype, device=u.device)
    for t in range(steps):
        with torch.no_grad():
            log_weights = log_weights + (betas[t + 1] - betas[t]) * (path.last(u) - path.first(u))
        u, accepted = _move(path, u, betas[t + 1], sizes[t, :, None] * path.scale, leapfrog)
        if adapt:
            sizes[t + 1 :] = sizes[t] * torch.where(accepted.mean(0) > TARGET, CHANGE, 1 / CHANGE)
        yield log_weights


def _move(path: _Path, u: Tensor, beta: Tensor, size: Tensor, leapfrog: int) -> tuple[Tensor, Tensor]:
    """One move of Hamiltonian Monte Carlo that leaves f at beta as it is, and the probability that it was accepted."""
    momentum = torch.randn_like(u)
    value, slope = path.slope(u, beta)
    before = value - 0.5 * momentum.square().sum(-1)
    there = u
    momentum = momentum + 0.5 * size * slope
    for step in range(leapfrog):
        there = there + size * momentum
        value, slope = path.slope(there, beta)
        momentum = momentum + (1.0 if step < leapfrog - 1 else 0.5) * size * slope
    after = value - 0.5 * momentum.square().sum(-1)
    probability = (after - before).exp().clamp(max=1).nan_to_num(0.0)
    moved = torch.rand_like(probability) < probability
    return torch.where(moved.unsqueeze(-1), there, u), probability
