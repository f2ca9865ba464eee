"""Pyro's SVI, each step of which is one compiled graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from operator import is_
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import torch_item, zero_grads
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from pyrovae.config import PRECISIONS
from pyrovae.training import update
from pyrovae.training.optimizers import Joint
from pyrovae.training.traced import Call, NotTraceable, Traced
from pyrovae.training.weak import weakly
from pyrovae.training.whole import Whole

Program = Callable[..., Any]
STORE = pyro.get_param_store()


class CompiledSVI:
    r"""A drop-in for ``pyro.infer.SVI`` whose step, ELBO, gradient and optimizer, is traced once and compiled.

    For any Pyro model and guide of static structure, and any ELBO with a ``differentiable_loss``, discrete latents that
    are summed out included. The first step of each shape (and order in memory) of the arguments is Pyro's own, with all
    of its checks; the second is traced, Pyro's handlers and all, into one graph, which torch's Inductor compiles; from
    then on no Python of Pyro's runs, and the values of data are looked at no more. Parameters and the state of the
    optimizer are those of the user, changed in place: put a model on its device before the first step. An optimizer
    that is given another state is traced anew, and so are modules that go from training to evaluation, and parameters
    that have a gradient no more. Draws are new at each step, and from one ``torch.manual_seed`` they are those that
    Pyro makes.

    Python's own numbers, such as an attribute that is a float, stay in the graph what they were when it was traced.
    Keep what is to change in a tensor, and change it in place (``fill_``), or make a tensor of it that is an argument.

    On a CPU, the memory of what a step computes on the way, where it is much, is kept for the next one, until another
    graph is compiled or this object is gone.

    What cannot be one graph (a program that looks at its numbers, or grows or shrinks, or is given a NumPy array or an
    object of one's own) is run as Pyro's SVI runs it, and so is what torch compiles to other numbers (machine code is
    held against its graph once), and everything where there is no C++ compiler; a warning says why, once.

    Args:
        model, guide: Pyro programs.
        optim: a torch optimizer of the parameters; or a Pyro one, which becomes one torch optimizer of all parameters,
            `optimizer`, from the state that it has. torch's Adam, AdamW and SGD are part of the graph, others run after
            it. Learning rates may change at any time.
        loss: a Pyro ELBO, or, as Pyro's SVI takes one, a function of model, guide and their arguments.
        clip_norm: the greatest norm of the whole gradient, or None.
        precision: "bfloat16" runs matrix products in it (by ``torch.autocast``); log-densities stay as they are.
        extra: called after the loss, in the graph; `last` has its tensors, detached, after each step.
        worth: whether steps of these arguments are to be compiled; by default all are.
        reduce: called with the list of parameters and the loss between each gradient and the optimizer, to change
            ``grad`` in place: such as to add up those of several processes. Clipping and the optimizer then run after
            the graph.

    >>> import pyro, pyrovae
    >>> from pyro.infer import Trace_ELBO
    >>> vae = pyrovae.VAE((4,), 2, likelihood="gaussian")
    >>> svi = CompiledSVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    >>> loss = svi.step(torch.randn(100, 4))
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: PyroOptim | Optimizer,
        loss: ELBO | Callable[..., Tensor],
        *,
        clip_norm: float | None = None,
        precision: str = "float32",
        extra: Callable[[], Any] | None = None,
        worth: Callable[..., bool] | None = None,
        reduce: Callable[[list[Tensor], float], None] | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.model, self.guide, self.elbo = model, guide, loss if hasattr(loss, "loss_and_grads") else _Function(loss)
        self.clip_norm, self.precision, self.extra, self.worth = clip_norm, precision, extra, worth
        optim = optim.optimizer if isinstance(optim, Joint) else optim
        self._whole, self._reduce = None if isinstance(optim, Optimizer) else Whole(optim), reduce
        self.optimizer: Optimizer | None = optim if isinstance(optim, Optimizer) else None
        self._rates: list[Tensor] = []
        self._steps: update.Steps | None = None
        self._inside = False
        self._traced = Traced(weakly(self._graph))
        self._loss = Traced(weakly(self._value))
        self._seen: set[Any] = set()
        self._stored: dict[str, Tensor] = {}
        self._all: tuple[Tensor, ...] = ()
        self._moving: Joint | None = None
        self._layout: Any = None
        self._extras = 0
        self._moved: dict[tuple[bool, ...], list[Tensor]] = {}
        self.reason: str | None = None
        """Why steps are not compiled, where they were to be."""
        self.last: Any = None
        """What ``extra`` gave at the latest step."""

    def step(self, *args: Any, **kwargs: Any) -> float | tuple[float, ...]:  # noqa: ANN401 - as the model has it
        """Take a step; returns the loss before it, or of an estimator that has several, such as Pyro's
        ``ReweightedWakeSleep``, all of them."""
        loss = self.advance(*args, **kwargs)
        return loss if isinstance(loss, tuple) else float(loss)

    def advance(self, *args: Any, **kwargs: Any) -> float | Tensor | tuple[float, ...]:  # noqa: ANN401
        """Take a step, whose loss, if it is a compiled one, stays on the device: nothing waits for it there."""
        call = Call(args, kwargs)
        if self._known(call) and (self.worth is None or self.worth(*args, **kwargs)):
            try:
                return self._compiled_step(call)
            except NotTraceable as error:
                self._give_up(str(error))
        loss = self._eager_step(args, kwargs)
        if self.optimizer is not None:
            self._seen.add(call.shape)
        return loss

    def idle(self) -> float:
        """A step without data of one's own, by what ``reduce`` makes of no gradient; returns 0.

        Raises:
            ValueError: before the first step, for a Pyro optimizer, of which it is not known what it moves.
        """
        if self.optimizer is None:
            raise ValueError("idle: expected a torch optimizer, or a first step of data, got neither")
        self._move(0.0)
        self.last = None
        return 0.0

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float | tuple[float, ...]:  # noqa: ANN401
        """The loss, and no step."""
        call = Call(args, kwargs)
        if self._known(call):
            try:
                self._check()
                return float(self._loss.run(call)[0])
            except NotTraceable as error:
                self._give_up(str(error))
        with torch.no_grad():
            return _numbers(self.elbo.loss(self.model, self.guide, *args, **kwargs))

    def _known(self, call: Call) -> bool:
        """Whether there may be a graph for a call: Pyro has run one like it, and the store has had no others since."""
        if self.reason is not None:
            return False
        held = STORE.named_parameters().mapping
        # To look one up by its name takes longer.
        if len(held) != len(self._all) or not all(map(is_, held.values(), self._all)):
            self._all = tuple(held.values())
            if gone := [p for name, p in self._stored.items() if held.get(name) is not p]:
                self._drop(gone)
        return call.shape in self._seen

    def _drop(self, params: list[Tensor]) -> None:
        """Parameters that the store has no more, as it was cleared or given others, and graphs of them."""
        self._forget()
        self._stored.clear()
        if self._whole is not None:
            self.optimizer = self._whole.remove(self.optimizer, params)

    def _forget(self) -> None:
        """All graphs, and what is done after them."""
        if self._rates:
            self._renew()
        self._loss, self._moving = Traced(weakly(self._value)), None
        self._seen.clear()

    def _check(self) -> None:
        if getattr(self.elbo, "stateful", False) or not hasattr(self.elbo, "differentiable_loss"):
            raise NotTraceable(f"{type(self.elbo).__name__} does more at a step than take a gradient")

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        if self.extra is not None:
            # What it has heard of a run that was broken off belongs to no step.
            with suppress(Exception):
                self.extra()
        warnings.warn(f"steps are not compiled, but run by Pyro: {self.reason}", stacklevel=3)

    def _joint(self) -> Joint:
        """What clips and moves all parameters, outside of a graph."""
        if self._moving is None:
            self._moving = Joint(self.optimizer, self.clip_norm, self._reduce)
        return self._moving

    def _move(self, loss: float) -> None:
        self._joint().loss = loss
        self._joint().move()
        self.optimizer.zero_grad()

    # Eager

    def _eager_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | tuple[float, ...]:
        with self._autocast(args, kwargs):
            loss, params = self._params(lambda: self.elbo.loss_and_grads(self.model, self.guide, *args, **kwargs))
        self._stored.update({name: p for p in params if (name := STORE.param_name(p)) is not None})
        self._adopt(params)
        loss = _numbers(loss)
        if self.optimizer is not None:
            self._joint().loss = sum(loss) if isinstance(loss, tuple) else loss
            self._joint()(params)
            zero_grads(params)
        self.last = None if self.extra is None else self.extra()
        return loss

    def _adopt(self, params: list[Tensor]) -> None:
        """Move parameters that turned up, as a Pyro optimizer does; graphs do not know them."""
        if self._whole is None:
            return
        if new := params if self.optimizer is None else self._joint().strangers(params):
            self._forget()
            self.optimizer = self._whole.add(self.optimizer, new)

    def _autocast(self, args: tuple[Any, ...], kwargs: dict[str, Any], **options: bool) -> torch.autocast:
        """Where the parameters are, or, as long as they are not known, the arguments."""
        known = () if self.optimizer is None else self.optimizer.param_groups[0]["params"]
        tensors = (leaf for leaf in (*known, *pytree.tree_leaves((args, kwargs))) if isinstance(leaf, Tensor))
        device = next((tensor.device.type for tensor in tensors), "cpu")
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16", **options)

    # Compiled

    def _compiled_step(self, call: Call) -> Tensor:
        groups = self.optimizer.param_groups
        if not self._rates:
            self._check()
            self._inside = self._reduce is None and update.traceable(self.optimizer)
            if self._inside:
                update.start(self.optimizer)
            self._rates, self._steps = [update.rates(group) for group in groups], update.Steps(self.optimizer)
            self._loaded = self.optimizer.register_load_state_dict_post_hook(weakly(self._renew))
        if self._inside:
            if (taken := self._steps.taken()) is None:
                raise NotTraceable("some parameters have taken more steps than others")
            for held, group in zip(self._rates, groups, strict=True):
                update.fill(held, group, taken)
        loss, *rest = self._traced.run(call)
        self.last = None if self.extra is None else pytree.tree_unflatten(rest[: self._extras], self._layout)
        if not self._inside:
            for p, g in zip(self._moved[self._free()], rest[self._extras :], strict=True):
                p.grad = g
            # Of several processes each tells the others its loss; one alone has nobody to tell.
            self._move(0.0 if self._reduce is None else float(loss))
        return loss

    def _renew(self, *_: object) -> None:
        """The optimizer has been given another state, of which graphs know nothing."""
        self._rates, self._traced = [], Traced(weakly(self._graph))
        self._loaded.remove()

    def _graph(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
        """What is compiled: the loss, what ``extra`` gives, and where it moves no parameters, the gradients."""
        with self._autocast(args, kwargs, cache_enabled=False):
            loss, params = self._params(lambda: self.elbo.differentiable_loss(self.model, self.guide, *args, **kwargs))
        extra, self._layout = pytree.tree_flatten(() if self.extra is None else self.extra())
        self._extras = len(extra)
        params = [p for p in params if p.requires_grad]
        found = torch.autograd.grad(loss, params, allow_unused=True)
        gradients = {p: g for p, g in zip(params, found, strict=True) if g is not None}
        if self.clip_norm is not None and self._inside:
            gradients = update.clip(gradients, self.clip_norm)
        outputs = (loss.detach(), *(value.detach() for value in extra))
        if self._inside:
            update.update(self.optimizer, gradients, self._rates)
            return outputs
        self._moved[self._free()] = list(gradients)
        return (*outputs, *gradients.values())

    def _free(self) -> tuple[bool, ...]:
        """Which parameters have a gradient."""
        return tuple(p.requires_grad for group in self.optimizer.param_groups for p in group["params"])

    def _value(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
        return (self.elbo.differentiable_loss(self.model, self.guide, *args, **kwargs).detach(),)

    def _params(self, run: Callable[[], Any]) -> tuple[Any, list[Tensor]]:
        """What ``run`` returns, and the parameters that it told Pyro of."""
        with poutine.trace(param_only=True) as capture:
            result = run()
        params = [site["value"].unconstrained() for site in capture.trace.nodes.values()]
        return result, list({id(p): p for p in params}.values())


def _numbers(loss: Any) -> float | tuple[float, ...]:  # noqa: ANN401 - a tensor, a number or some of them
    return tuple(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)


class _Function:
    """A loss that is a function, as Pyro's SVI takes one, with the methods of an ELBO."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.differentiable_loss = function

    def loss(self, *args: Any, **kwargs: Any) -> float:  # noqa: ANN401 - as the function has it
        return torch_item(self.differentiable_loss(*args, **kwargs))

    def loss_and_grads(self, *args: Any, **kwargs: Any) -> float:  # noqa: ANN401
        loss = self.differentiable_loss(*args, **kwargs)
        loss.backward()
        return torch_item(loss)
