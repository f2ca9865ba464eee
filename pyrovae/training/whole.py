"""One torch optimizer in the place of a Pyro one, which has one for each parameter."""

from __future__ import annotations

from typing import Any

import pyro
from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor
from torch.optim import Optimizer


class Whole:
    """What makes, of the settings and states that a Pyro optimizer has for each parameter, one torch optimizer of all,
    of which Pyro's is told, for its ``get_state`` and ``save``.

    Raises:
        ValueError: for a scheduler, whose steps nobody would hear of, and for gradients that are clipped one by one.
    """

    def __init__(self, optim: PyroOptim) -> None:
        constructor = optim.pt_optim_constructor
        plain = isinstance(constructor, type) and issubclass(constructor, Optimizer)
        if not plain or isinstance(optim, PyroLRScheduler) or optim.pt_clip_args:
            raise ValueError(
                "optim: expected a torch optimizer, or one of pyro.optim that neither clips nor is a schedule, got "
                f"{type(optim).__name__} of {getattr(constructor, '__name__', constructor)}. Pass a torch optimizer, "
                "whose learning rate may change, by a schedule of torch's too, and clip_norm= to clip gradients."
            )
        self.optim = optim

    def add(self, optimizer: Optimizer | None, params: list[Tensor]) -> Optimizer:
        """The optimizer, or a new one, with these parameters, their settings, and states where Pyro's has some, of
        earlier steps or of a file."""
        alike: list[tuple[dict[str, Any], list[Tensor]]] = []
        for p in params:
            settings = self.optim._get_optim_args(p)
            group = next((group for same, group in alike if same == settings), None)
            if group is None:
                alike.append((settings, [p]))
            else:
                group.append(p)
        groups = [{"params": group, **settings} for settings, group in alike]
        if optimizer is None:
            optimizer = self.optim.pt_optim_constructor(groups, **alike[0][0])
        else:
            for group in groups:
                optimizer.add_param_group(group)
        for p in params:
            self._restore(optimizer, p)
        return optimizer

    def _restore(self, optimizer: Optimizer, p: Tensor) -> None:
        earlier, part = self.optim.optim_objs.get(p), Part(optimizer, p)
        waiting = self.optim._state_waiting_to_be_consumed.pop(pyro.get_param_store().param_name(p), None)
        if state := waiting or (earlier and earlier.state_dict()):
            optimizer.state[p] = dict(state["state"].get(0, {}))
            part.group().update({key: value for key, value in state["param_groups"][0].items() if key != "params"})
        self.optim.optim_objs[p] = part

    def remove(self, optimizer: Optimizer, params: list[Tensor]) -> Optimizer | None:
        """The optimizer without some parameters, None if it has no others."""
        for p in params:
            Part(optimizer, p).remove()
            self.optim.optim_objs.pop(p, None)
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer if optimizer.param_groups else None


class Part:
    """A parameter's part of an optimizer, as if it had one of its own."""

    def __init__(self, optimizer: Optimizer, p: Tensor) -> None:
        self.whole, self.p = optimizer, p

    def group(self) -> dict[str, Any]:
        return next(group for group in self.whole.param_groups if any(p is self.p for p in group["params"]))

    def state_dict(self) -> dict[str, Any]:
        """As that of a torch optimizer of one parameter."""
        return {"state": {0: self.whole.state[self.p]}, "param_groups": [{**self.group(), "params": [0]}]}

    def remove(self) -> None:
        self.group()["params"] = [p for p in self.group()["params"] if p is not self.p]
        self.whole.state.pop(self.p, None)
