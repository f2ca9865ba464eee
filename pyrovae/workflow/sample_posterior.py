"""Draws of p(z | x) itself, where the guide is not to be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from pyrovae.checks import count, trusted
from pyrovae.evaluation.coordinates import apart, check_chains
from pyrovae.evaluation.importance import checked
from pyrovae.evaluation.states import States
from pyrovae.inference_data import assemble, event_dims, latent_dim
from pyrovae.modes import evaluating, frozen, isolated
from pyrovae.registry import choose
from pyrovae.training.batches import ordered
from pyrovae.vae import VAE
from pyrovae.workflow.hmc import hmc, mala
from pyrovae.workflow.importance import guide, sir
from pyrovae.workflow.nuts import nuts
from pyrovae.workflow.task import Draws, Task

if TYPE_CHECKING:
    import arviz
    import xarray

SAMPLERS: dict[str, Callable[[Task], Draws]] = {"guide": guide, "sir": sir, "mala": mala, "hmc": hmc, "nuts": nuts}
REMEDY = "Run pyro.infer.NUTS on vae.model."


def sample_posterior(
    vae: VAE,
    x: Any,  # noqa: ANN401 - whatever a user has
    condition: Any = None,  # noqa: ANN401
    *,
    method: str = "hmc",
    num_samples: int = 1000,
    num_chains: int = 4,
    warmup: int = 500,
    leapfrog: int = 8,
    seed: int = 0,
    chunk: int | None = None,
    progress: bool = True,
) -> arviz.InferenceData | xarray.DataTree:
    r"""Draws of the posterior p(z | x) of each row, for ArviZ: what the guide should have said.

    ==========  ========================================================================================================
    method      what a draw is
    ==========  ========================================================================================================
    ``guide``   a draw of q(z | x), to hold against the others
    ``sir``     one of ten times as many draws of the guide, chosen by importance weights; right where k-hat < 0.7
    ``mala``    a state of a chain of Langevin moves, all rows and chains at once
    ``hmc``     the same, of Hamiltonian Monte Carlo; fewer, better moves
    ``nuts``    a state of Pyro's own NUTS on ``vae.model``, a row and a chain at a time; slow, for reference
    ==========  ========================================================================================================

    Chains of ``mala`` and ``hmc`` start from draws of the guide moved twice as far from their middle, in coordinates
    without bounds, with the guide's variances as masses. Masses and a step size for each row are adapted in the warm-up
    only, so that draws are of one fixed kernel, and r-hat and effective sample sizes mean what they say
    (``arviz.summary``). Where it takes long, log p(x, z) and its gradient are compiled. The groups:

    =============  ===============  ========================  ==========================================================
    group          variable         dims                      value
    =============  ===============  ========================  ==========================================================
    posterior      z                chain, draw, row, latent  draws
    sample_stats   lp               chain, draw, row          log p(x, z), nats
    ..             acceptance_rate  chain, draw, row          probability with which the move was accepted; of ``nuts``,
                                                              (chain, row), the share of moves that were
    ..             diverging        chain, draw, row          whether the trajectory left the posterior
    ..             step_size        row                       in standard deviations; of ``nuts``, (chain, row)
    ..             k_hat            row                       ``guide``, ``sir``: Pareto shape of the importance weights
    ..             importance_ess   chain, row                ``sir``: what the proposals of a chain are worth: draws
                                                              say no more than so many independent ones
    observed_data  x                row, event                the data
    constant_data  condition        row, condition_dim        where the VAE has one
    =============  ===============  ========================  ==========================================================

    Layered latents ``z1``, ``z2`` have a dim of their own each, ``z1_latent``.

    Args:
        vae: the model, with a continuous z for each row, of one layer or several.
        x: data ``(N, *event_shape)``.
        condition: ``(N, condition_dim)``, or one row for all, for a conditional VAE.
        method: see above.
        num_samples: draws of each chain.
        num_chains: chains of each row.
        warmup: moves of each chain before the first draw.
        leapfrog: of ``hmc``, the most steps in a move.
        seed: of the draws; the random state of the user is left alone.
        chunk: z's that go through the decoder at once; memory grows with it.
            None: as many as take about 40 MB (256 MB on a GPU), at most 5,000.
        progress: show a progress bar where it takes more than two seconds.

    Raises:
        ValueError: for data that the model does not take, an unknown method, numbers below 1, or a model whose z is
            discrete, on a sphere, or not of single rows.
        FloatingPointError: for a density that overflows.

    >>> vae = VAE((4,), 2, likelihood="gaussian")
    >>> idata = sample_posterior(vae, torch.randn(3, 4), num_samples=50, warmup=50)
    >>> idata["posterior"]["z"].shape
    (4, 50, 3, 2)
    """
    sampler = SAMPLERS[choose(method, SAMPLERS, "method")]
    for name, value in (("num_chains", num_chains), ("leapfrog", leapfrog)):
        count(value, name, 1)
    count(warmup, "warmup", 0)
    count(seed, "seed", 0)
    check_chains(vae, "sample_posterior", REMEDY)
    x, condition, chunk = checked(vae, x, condition, num_samples, chunk, gradients=True)
    moves = num_samples + (warmup if method in ("mala", "hmc", "nuts") else 0)
    total = len(x) * moves * (num_chains if method == "nuts" else 1)
    at_once = max(1, chunk // num_chains)
    gradients = moves * (1 if method == "mala" else (leapfrog + 1) / 2)  # on average
    states = States(vae, lambda space, u, _: space.joint(u), len(x), at_once, gradients)
    parts, log_joint = [], []
    with (
        isolated(seed, validation=False),
        evaluating(vae),
        frozen(vae),
        trusted(),
        tqdm(total=total, disable=not progress, unit="move", desc=method, delay=2) as bar,
    ):
        for _, rows, c in ordered(x, condition, at_once):
            task = Task(vae, rows, c, num_chains, num_samples, warmup, leapfrog, chunk, states, bar.update)
            task.space()  # refuses what has none, whatever the method
            parts.append(sampler(task))
            log_joint.append(task.log_joint(parts[-1].z))
    variables = {"lp": (("chain", "draw", "row"), torch.cat(log_joint, -1))}
    for name, (dims, _) in parts[0].stats.items():
        variables[name] = (dims, torch.cat([part.stats[name][1] for part in parts], -1))
    z = torch.cat([part.z for part in parts], 2)
    groups = {
        "posterior": {
            name: (("chain", "draw", "row", latent_dim(name)), values) for name, values in apart(vae, z).items()
        },
        "sample_stats": variables,
        "observed_data": {"x": (("row", *event_dims(x)), x)},
        "constant_data": {} if condition is None else {"condition": (("row", "condition_dim"), condition)},
    }
    return assemble(groups, {"sampler": method, "num_samples": num_samples, "warmup": warmup, "seed": seed})
