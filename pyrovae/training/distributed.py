"""Several processes that train one model, such as ``torchrun`` starts."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from pyro.infer import ELBO
from torch import Tensor, nn

from pyrovae.elbos import EnergyDistance, Regularized, Trace_MMD
from pyrovae.training.batches import BATCH_NORMS
from pyrovae.vae import VAE

TIMEOUT = timedelta(seconds=50)
"""How long a process waits for another, which may have hung. One that has died is noticed at once."""


@dataclass(frozen=True)
class World:
    r"""The processes of a fit, of which this is number ``rank``; by default the only one.

    Each takes its part of the rows of every batch. A loss is a sum over rows, so the sum of the processes' gradients,

    .. math:: \sum_r \nabla \sum_{n \in B_r} \ell(x_n) = \nabla \sum_{n \in B} \ell(x_n),

    is the gradient of the whole batch, and every process makes the same step.

    >>> [World(rank, 3).part(7) for rank in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def part(self, rows: int) -> slice:
        """Which of the rows of a batch are this process's: as many as the others', give or take one, or none."""
        return slice(self.rank * rows // self.size, (self.rank + 1) * rows // self.size)

    def share(self, rows: int) -> int:
        """How many they are."""
        part = self.part(rows)
        return part.stop - part.start

    def sum(self, *values: float | Tensor) -> list[float]:
        """Each number, summed over the processes in float64; the same on all of them."""
        if self.size == 1:
            return [float(value) for value in values]
        total = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=self.device).detach() for v in values])
        dist.all_reduce(total)
        return total.tolist()

    def draws(self, order: torch.Generator, seed: int) -> torch.Generator:
        """A generator for draws that differ between processes, beside that of the order of rows, which must not; and
        torch's own numbers, but for the first process, begin anew. One process alone has one generator."""
        if not self.first:
            torch.manual_seed(seed + self.rank)
        return order if self.size == 1 else torch.Generator().manual_seed(seed + self.rank)

    def any(self, value: bool) -> bool:
        """Whether it is so on any of them."""
        return self.sum(value)[0] > 0

    @torch.no_grad()
    def copy_first(self, module: nn.Module) -> None:
        """Give parameters and buffers the values that they have on the first process."""
        if self.size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, 0)


class Exchange:
    """What the processes tell one another at a step, in one message: gradients, loss, and whether time is up.

    Called between a gradient and the optimizer (see ``reduce`` of `CompiledSVI`), it puts the sum of the processes'
    gradients in place of each one's own. None stays None where all have it.

    Args:
        world: the processes.
        deadline: when time is up, by `time.perf_counter`.
    """

    def __init__(self, world: World, deadline: float) -> None:
        self.world, self.deadline = world, deadline
        self._loss, self._late = 0.0, False

    @torch.no_grad()
    def __call__(self, params: Sequence[Tensor], loss: float) -> None:
        words = [loss, float(self._is_late()), *(float(p.grad is not None) for p in params)]
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in params]
        total = torch.cat([parts[0].new_tensor(words), *parts])
        dist.all_reduce(total)
        words, *parts = total.split([len(words), *(p.numel() for p in params)])
        self._loss, late, *given = words.tolist()
        self._late = late > 0
        for p, count, part in zip(params, given, parts, strict=True):
            p.grad = part.view_as(p) if count else None

    def outcome(self, own: float | Tensor) -> tuple[float | Tensor, bool]:
        """The loss of the step, and whether time is up: the same on all processes. ``own``: this one's loss."""
        return (own, self._is_late()) if self.world.size == 1 else (self._loss, self._late)

    def _is_late(self) -> bool:
        return time.perf_counter() >= self.deadline


def environment() -> tuple[int, int]:
    """Number of this process, and how many there are: of the group that the program has made, or as ``torchrun`` tells.

    Raises:
        ValueError: for variables that are not numbers.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    try:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError:
        raise ValueError(
            f"expected the environment variables RANK and WORLD_SIZE as torchrun sets them, got "
            f"{os.environ.get('RANK')!r} and {os.environ.get('WORLD_SIZE')!r}"
        ) from None


def is_first() -> bool:
    """Whether this is the process that writes files, known before they have joined."""
    return environment()[0] == 0


def check(vae: VAE, estimator: ELBO, world: World) -> None:
    """Raise a ValueError, by name, for what depends on all rows of a batch together, of which a process has only its
    own: the sum of gradients would not be the gradient of the batch."""
    if world.size == 1:
        return
    coupled = [type(estimator).__name__] if isinstance(estimator, Regularized | Trace_MMD | EnergyDistance) else []
    coupled += [f"{name} ({type(m).__name__})" for name, m in vae.named_modules() if isinstance(m, BATCH_NORMS)]
    if vae.prior.has("joint"):
        coupled.append(f"the prior ({type(vae.prior.piece).__name__})")
    if getattr(vae.likelihood.piece, "scale", None) == "optimal":
        coupled.append("gaussian(scale=optimal)")
    if coupled:
        raise ValueError(
            f"expected, of {world.size} processes, a model and an estimator that treat rows one by one, got "
            f"{', '.join(coupled)}, which couples the rows of a batch. Train it in one process, or choose another."
        )


def restarted() -> bool:
    """Whether ``torchrun`` has started the processes anew after a failure."""
    return _restarts() > 0


def join(name: str, device: torch.device) -> World:
    """The processes that this one belongs to, and the device that it trains on. If the program has made no group of
    them, one is made, which lasts as long as the process: NCCL where each has a GPU of its own, gloo elsewhere.

    Args:
        name: of the device, as the user has it: of several GPUs, "auto" and "cuda" give each process one of its own.
        device: what is found under that name.

    Raises:
        ValueError: if this torch has no ``torch.distributed``, or ``torchrun``'s address is missing.
    """
    rank, size = environment()
    if size == 1:
        return World(device=device)
    if not dist.is_available():
        raise ValueError(f"expected a torch with torch.distributed for {size} processes, got one without")
    own = False
    if device.type == "cuda":
        local, among = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", size))
        if ":" not in name:
            device = torch.device("cuda", local % torch.cuda.device_count())
            own = torch.cuda.device_count() >= among
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
            raise ValueError(
                f"expected MASTER_ADDR and MASTER_PORT beside WORLD_SIZE={size}, got none: start the processes with "
                "torchrun, or unset WORLD_SIZE for one alone"
            )
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        # torchrun keeps its store through a restart, and with it the addresses of processes that are no more.
        store = dist.PrefixStore(f"pyrovae-{_restarts()}", store)
        dist.init_process_group("nccl" if own else "gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        atexit.register(_leave)
    return World(rank, size, device)


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
