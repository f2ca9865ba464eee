"""A step of Adam, AdamW or SGD in tensor operations alone, on the state of a torch optimizer: it can be traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from pyrovae.training.weak import weakly

Update = Callable[[Tensor, Tensor, Tensor, dict[str, Any], dict[str, Any]], None]
"""Moves a parameter, by its gradient, the `rates` of its group, its state and the group."""


def _adam(p: Tensor, g: Tensor, rates: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Kingma & Ba (2015), https://arxiv.org/abs/1412.6980; AdamW: Loshchilov & Hutter (2019),
    https://arxiv.org/abs/1711.05101."""
    (beta1, beta2), decay = group["betas"], group["weight_decay"]
    lr, step_size, eps = rates
    if decay and group["decoupled_weight_decay"]:
        p.mul_(1 - lr * decay)
    elif decay:
        g = g + decay * p
    first, second = state["exp_avg"], state["exp_avg_sq"]
    state["step"].add_(1)
    first.lerp_(g, 1 - beta1)
    second.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    p.sub_(step_size * (first / (second.sqrt() + eps)))


def _sgd(p: Tensor, g: Tensor, rates: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """With momentum as torch has it (Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html)."""
    lr = rates[0]
    if group["weight_decay"]:
        g = g + group["weight_decay"] * p
    if group["momentum"]:
        buffer = state["momentum_buffer"]
        buffer.mul_(group["momentum"]).add_(g)
        g = g + group["momentum"] * buffer if group["nesterov"] else buffer
    p.sub_(lr * g)


def traceable(optimizer: Optimizer) -> bool:
    """Whether `update` can do what the optimizer does."""
    plain = all(
        not group.get("amsgrad") and not group.get("maximize") and not group.get("differentiable")
        and not group.get("dampening") and not isinstance(group["lr"], Tensor)
        and len({(p.dtype, p.device) for p in group["params"]}) == 1
        for group in optimizer.param_groups
    )  # fmt: skip
    return plain and type(optimizer) in (Adam, AdamW, SGD)


def waits(device: torch.device) -> bool:
    """Whether to look at a number there is to wait until all work on it is done."""
    return device.type != "cpu"


class Steps:
    """How many steps an optimizer's parameters have taken, whoever has taken them."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self._one, self._next = optimizer, None, -1.0
        self._free: list[bool] = []
        optimizer.register_step_post_hook(weakly(self._forget))

    def taken(self) -> float | None:
        """Of those that have a gradient, one number; None where they differ. Who has taken none, though it could, takes
        no part in the model."""
        state = self.optimizer.state
        free, before = [p.requires_grad for p in state], self._free
        # One of them is looked at, where nobody has to wait for it, and the others only if it is not where the last
        # step of a graph has left it.
        moved = self._one is None or (not waits(self._one.device) and float(self._one) != self._next)
        if moved or free != before:
            self._free = free
            held = before if len(before) == len(free) else free
            steps = [
                of["step"] for of, now, then in zip(state.values(), free, held, strict=True)
                if now and "step" in of and (of["step"] > 0 or not then)
            ]  # fmt: skip
            if len({float(step) for step in steps}) > 1:
                return None
            if not steps:
                return 0.0
            self._one, self._next = steps[0], float(steps[0])
        self._next += 1
        return self._next - 1

    def _forget(self, *_: object) -> None:
        """The optimizer has taken a step of its own."""
        self._one = None


def rates(group: dict[str, Any]) -> Tensor:
    """Room for the numbers of a group that change from step to step, which are inputs of the graph."""
    like = group["params"][0]
    return torch.zeros(3, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def fill(held: Tensor, group: dict[str, Any], taken: float) -> None:
    r"""Put in the learning rate, and of Adam's ``taken + 1``-st step
    :math:`\eta \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)` and :math:`\epsilon \sqrt{1 - \beta_2^t}`, with which it is

    .. math:: \frac{\eta}{1 - \beta_1^t} \, \frac{m}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}
        = \frac{\eta \sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \, \frac{m}{\sqrt v + \epsilon \sqrt{1 - \beta_2^t}}.

    Not in the graph: there they would be worked out for each element of each parameter.
    """
    lr, t, (beta1, beta2) = group["lr"], taken + 1, group.get("betas", (0.0, 0.0))
    root = (1 - beta2**t) ** 0.5
    values = [lr, lr * root / (1 - beta1**t), group.get("eps", 0.0) * root]
    if waits(held.device):
        held.copy_(torch.tensor(values, dtype=held.dtype), non_blocking=True)
    else:
        # To make a tensor takes a tenth of the step of a small model.
        held.numpy()[:] = values


def start(optimizer: Optimizer) -> None:
    """Give each parameter the state that the optimizer's own first step would begin with."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state[p]
            if isinstance(optimizer, SGD):
                if group["momentum"] and state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(p)
            elif not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)


@torch.no_grad()
def update(optimizer: Optimizer, gradients: dict[Tensor, Tensor], rates: list[Tensor]) -> None:
    """Move the parameters that have a gradient, by the `rates` of each group."""
    move: Update = _sgd if isinstance(optimizer, SGD) else _adam
    for group, held in zip(optimizer.param_groups, rates, strict=True):
        for p in group["params"]:
            if p in gradients:
                move(p, gradients[p], held, optimizer.state[p], group)


def clip(gradients: dict[Tensor, Tensor], norm: float) -> dict[Tensor, Tensor]:
    """The gradients, shortened to a norm of at most ``norm`` all together."""
    total = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
    factor = (norm / (total + 1e-6)).clamp(max=1.0)
    return {p: g * factor for p, g in gradients.items()}
