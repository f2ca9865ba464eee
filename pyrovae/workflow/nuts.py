"""Pyro's own no-U-turn sampler, a row at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor
from torch.distributions import biject_to

from pyrovae.evaluation.coordinates import apart, supports
from pyrovae.training.batches import ordered
from pyrovae.workflow.task import Draws, Task


def nuts(task: Task) -> Draws:
    """``pyro.infer.NUTS`` on ``vae.model``, which shares nothing with the other samplers but where chains start.

    A loop over rows and chains, so slow: for reference. Hoffman & Gelman (2014),
    https://jmlr.org/papers/v15/hoffman14a.html
    """
    z, stats = [], []
    for _, x, c in ordered(task.x, task.condition, 1):
        row = replace(task, x=x, condition=c)
        chains = [_chain(row, start) for start in _starts(row)]
        z.append(torch.stack([chain[0] for chain in chains]))
        stats.append([torch.stack(values) for values in zip(*(chain[1:] for chain in chains), strict=True)])
    diverging, accepted, size = (torch.stack(values, -1) for values in zip(*stats, strict=True))
    return Draws(
        torch.cat(z, 2),
        {
            "acceptance_rate": (("chain", "row"), accepted),
            "diverging": (("chain", "draw", "row"), diverging),
            "step_size": (("chain", "row"), size),
        },
    )


def _starts(task: Task) -> list[dict[str, Tensor]]:
    """The first point of each chain of a row, ``(1, D)`` of each site, in Pyro's coordinates."""
    space, onto = task.space(), [biject_to(support) for support in supports(task.vae)]
    chains = [apart(task.vae, z).items() for z in space.onto(task.starts(space))]
    return [{name: t.inv(value) for (name, value), t in zip(chain, onto, strict=True)} for chain in chains]


def _chain(task: Task, start: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draws ``(num_samples, 1, D)`` of one chain of a row, which of them diverged, the share of moves that were
    accepted, and the step size."""
    found: dict[str, Any] = {}

    def hook(kernel: NUTS, params: object, stage: str, i: int) -> None:
        task.tick(1)
        # When all is done the kernel forgets them.
        if i == task.num_samples - 1 and stage.lower() == "sample":
            found.update(kernel.diagnostics(), step_size=kernel.step_size)

    mcmc = MCMC(
        NUTS(task.vae.model),
        num_samples=task.num_samples,
        warmup_steps=task.warmup,
        initial_params=start,
        hook_fn=hook,
        disable_progbar=True,
    )
    with torch.enable_grad():
        mcmc.run(task.x, task.condition)
    draws = mcmc.get_samples()
    z = torch.cat([draws[site] for site in task.vae.sites], -1).detach()
    diverging = torch.zeros(task.num_samples, dtype=torch.bool, device=z.device)
    diverging[found["divergences"]] = True
    return z, diverging, *(torch.as_tensor(found[name]).to(z) for name in ("acceptance rate", "step_size"))
