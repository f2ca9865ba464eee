"""Hamiltonian Monte Carlo and the Metropolis-adjusted Langevin algorithm, all rows and chains at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro.ops.dual_averaging import DualAveraging
from torch import Tensor

from pyrovae.evaluation.chains import FIRST, TARGET, Field, Move, State, move
from pyrovae.workflow.task import Draws, Task

LANGEVIN_TARGET = 0.574
"""Rate of acceptance of Langevin moves (Roberts & Rosenthal 1998, https://doi.org/10.1111/1467-9868.00123)."""
DIVERGED = -1000.0
"""Change of the log-density along a trajectory below which it has left the posterior (as in Stan)."""
ENOUGH = 50
"""Draws of the warm-up, of all chains of a row, whose variances replace the guide's."""


def hmc(task: Task) -> Draws:
    r"""Moves of 1 to ``leapfrog`` steps, the number drawn anew for each, so that no trajectory closes upon itself.

    The first half of the warm-up finds a step size for each chain, by dual averaging (Hoffman & Gelman 2014,
    https://jmlr.org/papers/v15/hoffman14a.html), with the guide's variances as masses. Then variances of what it drew
    replace the guide's, and the second half finds one step size for each row. After that nothing is adapted.
    """
    return _sample(task, task.leapfrog, TARGET)


def mala(task: Task) -> Draws:
    """Moves of a single step, adapted as those of `hmc` (Besag 1994; Roberts & Tweedie 1996,
    https://doi.org/10.2307/3318418)."""
    return _sample(task, 1, LANGEVIN_TARGET)


def _sample(task: Task, leapfrog: int, target: float) -> Draws:
    space = task.space()

    def field(u: Tensor) -> State:
        return task.states(space, u)

    here, scale = field(task.starts(space)), space.scale
    size = scale.new_full((len(scale),), FIRST)
    step = _stepper(field, leapfrog)
    halves = task.warmup // 2, task.warmup - task.warmup // 2
    for moves, by in zip(halves, ("chain", "row"), strict=True):
        if moves:
            here, size, drawn = _adapt(step, here, scale, moves, target, by, task.tick)
            # The last moves of the second half would change the kernel after its step size was found.
            scale = _spread(scale, drawn) if by == "chain" else scale
    u, probability, error = [], [], []
    for _ in range(task.num_samples):
        done = step(here, size[:, None] * scale)
        here = done.state
        u.append(here.u)
        probability.append(done.probability)
        error.append(done.error)
        task.tick(len(scale))
    dims = ("chain", "draw", "row")
    return Draws(
        space.onto(torch.stack(u, 1)),
        {
            "acceptance_rate": (dims, torch.stack(probability, 1)),
            "diverging": (dims, ~(torch.stack(error, 1) > DIVERGED)),
            "step_size": (("row",), size),
        },
    )


Stepper = Callable[[State, Tensor], Move]


def _stepper(field: Field, leapfrog: int) -> Stepper:
    """A move of 1 to ``leapfrog`` steps."""
    return lambda here, size: move(field, here, size, int(torch.randint(1, leapfrog + 1, ())))


def _adapt(
    step: Stepper, here: State, scale: Tensor, moves: int, target: float, by: str, tick: Callable[[int], object]
) -> tuple[State, Tensor, Tensor]:
    """The states after so many moves, a step size for each row, and the u's of the second half of them.

    While each chain has a step size of its own (``by`` "chain"), none stays for good where others are quick to leave.
    """
    averaging = DualAveraging()
    size = torch.full(here.value.shape, FIRST, dtype=scale.dtype, device=scale.device)
    drawn = []
    for i in range(moves):
        here, probability, _ = step(here, size[..., None] * scale)
        if by == "row":
            probability = probability.mean(0, keepdim=True).expand_as(probability)
        averaging.step(target - probability)
        size = averaging.get_state()[0].exp()
        if i >= moves // 2:
            drawn.append(here.u)
        tick(len(scale))
    return here, averaging.get_state()[1].mean(0).exp(), torch.cat(drawn)


def _spread(scale: Tensor, drawn: Tensor) -> Tensor:
    """Standard deviations of draws ``(K, B, D)``; the guide's, where draws are few or have not moved."""
    if len(drawn) < ENOUGH:
        return scale
    found = drawn.std(0)
    return torch.where(found > 0, found, scale)
