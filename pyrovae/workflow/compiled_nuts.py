"""Pyro's no-U-turn sampler without Python in its potential."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import NUTS
from torch import Tensor

from pyrovae.training.traced import NotTraceable, Traced

Potential = Callable[[dict[str, Tensor]], Tensor]


class CompiledNUTS(NUTS):
    r"""A drop-in for ``pyro.infer.NUTS`` whose potential energy

    .. math:: U(u) = -\log p(t(u), x) - \log \left| \partial t / \partial u \right|

    and its gradient are traced, Pyro's handlers and all, into one graph, which torch's Inductor compiles. Of a model
    of a few numbers, such as one with `pyrovae.as_prior`, most of the time of a leapfrog step is Python's. Trajectories
    are those that Pyro makes, up to rounding (Hoffman & Gelman 2014, https://jmlr.org/papers/v15/hoffman14a.html).

    For models of static structure; of another, and where there is no C++ compiler, the potential is Pyro's own, and a
    warning says why, once.

    Args:
        model: a Pyro program.
        options: as ``pyro.infer.NUTS`` has them; ``jit_compile`` is not wanted.

    >>> import pyro.distributions as dist, pyro
    >>> from pyro.infer import MCMC
    >>> def model(x):
    ...     loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    ...     pyro.sample("x", dist.Normal(loc, 1.0).expand([3]).to_event(1), obs=x)
    >>> mcmc = MCMC(CompiledNUTS(model), num_samples=20, warmup_steps=20, disable_progbar=True)
    >>> mcmc.run(torch.ones(3))
    >>> mcmc.get_samples()["loc"].shape
    torch.Size([20])
    """

    def __init__(self, model: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401 - as NUTS has them
        if options.get("jit_compile"):
            raise ValueError("jit_compile: expected False, because the potential is compiled already, got True")
        super().__init__(model, **options)

    def _initialize_model_properties(self, model_args: tuple[Any, ...], model_kwargs: dict[str, Any]) -> None:
        # Here Pyro makes the potential of these data.
        super()._initialize_model_properties(model_args, model_kwargs)
        self.potential_fn = _compiled(self.potential_fn, self.initial_params)


def _compiled(potential: Potential, point: dict[str, Tensor]) -> Potential:
    """The potential as a graph that gives its gradient too; itself, where that cannot be."""

    def both(u: dict[str, Tensor]) -> tuple[Tensor, ...]:
        u = {name: value.detach().requires_grad_() for name, value in u.items()}
        energy = potential(u)
        return energy.detach(), *torch.autograd.grad(energy, list(u.values()))

    traced = Traced(both)
    try:
        traced(point)
    except NotTraceable as error:
        warnings.warn(f"the potential is not compiled, but Pyro's own: {error}", stacklevel=2)
        return potential
    return lambda u: _Energy.apply(traced, tuple(u), *u.values())


class _Energy(torch.autograd.Function):
    """The energy of a graph that computes the gradient in the same go, as autograd is to see it."""

    @staticmethod
    def forward(ctx: Any, traced: Traced, names: tuple[str, ...], *values: Tensor) -> Tensor:  # noqa: ANN401
        energy, *gradient = traced({name: value.detach() for name, value in zip(names, values, strict=True)})
        ctx.save_for_backward(*gradient)
        return energy

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return None, None, *(weight * gradient for gradient in ctx.saved_tensors)
