"""A step of Adam, AdamW or SGD in tensor operations alone, on the state of a torch optimizer: it can be traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

Update = Callable[[Tensor, Tensor, Tensor, dict[str, Any], dict[str, Any]], None]
"""Moves a parameter, by its gradient, the learning rate, its state and its group."""


def _adam(p: Tensor, g: Tensor, lr: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Kingma & Ba (2015), https://arxiv.org/abs/1412.6980; AdamW: Loshchilov & Hutter (2019),
    https://arxiv.org/abs/1711.05101."""
    (beta1, beta2), decay = group["betas"], group["weight_decay"]
    if decay and group["decoupled_weight_decay"]:
        p.mul_(1 - lr * decay)
    elif decay:
        g = g + decay * p
    step, first, second = state["step"], state["exp_avg"], state["exp_avg_sq"]
    step.add_(1)
    first.lerp_(g, 1 - beta1)
    second.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    # In float32, 1 - 0.999 would be wrong by 5e-5.
    taken = step.double()
    root = second.sqrt() / (1 - beta2**taken).sqrt() + group["eps"]
    p.sub_(lr / (1 - beta1**taken) * (first / root))


def _sgd(p: Tensor, g: Tensor, lr: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """With momentum as torch has it (Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html)."""
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
        for group in optimizer.param_groups
    )  # fmt: skip
    return plain and type(optimizer) in (Adam, AdamW, SGD)


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
    """Move the parameters that have a gradient; ``rates`` are the learning rates of the groups, as tensors."""
    move: Update = _sgd if isinstance(optimizer, SGD) else _adam
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        for p in group["params"]:
            if p in gradients:
                move(p, gradients[p], lr, optimizer.state[p], group)


def clip(gradients: dict[Tensor, Tensor], norm: float) -> dict[Tensor, Tensor]:
    """The gradients, shortened to a norm of at most ``norm`` all together."""
    total = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
    factor = (norm / (total + 1e-6)).clamp(max=1.0)
    return {p: g * factor for p, g in gradients.items()}
