"""From real vectors to where events of another kind live."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import ComposeTransform, Transform, biject_to, constraints

from pyrovae.distributions.stick_breaking import StickBreaking


def base(support: constraints.Constraint) -> constraints.Constraint:
    """A support without what Independent and mixtures wrap around it.

    >>> base(constraints.independent(constraints.positive, 1))
    GreaterThan(lower_bound=0.0)
    """
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def bijection(support: constraints.Constraint) -> Transform | None:
    """The transform that carries real vectors onto ``support``: exp, a sigmoid or stick-breaking.

    None where none is needed (real vectors) or none is known (discrete values, the sphere).

    >>> bijection(constraints.positive)(torch.tensor(0.0))
    tensor(1.)
    """
    support = base(support)
    if support is constraints.real or getattr(support, "is_discrete", False):
        return None
    try:
        return Onto(support)
    except NotImplementedError:
        return None


class Onto(ComposeTransform):
    """torch's bijection from real vectors to a support, with that support as its codomain: with bounds that are numbers
    its own last part says that it goes to the real line. To the simplex it is one that keeps its digits.
    """

    def __init__(self, support: constraints.Constraint, cache_size: int = 0) -> None:
        super().__init__([StickBreaking() if support is constraints.simplex else biject_to(support)], cache_size)
        self.onto = support

    @property
    def codomain(self) -> constraints.Constraint:
        return self.onto

    def with_cache(self, cache_size: int = 1) -> Onto:
        return Onto(self.onto, cache_size)


def same_support(a: constraints.Constraint, b: constraints.Constraint) -> bool:
    """Whether two supports are the same but for their edges, which no continuous distribution ever draws.

    >>> same_support(constraints.positive, constraints.nonnegative)
    True
    """
    a, b = base(a), base(b)
    return _name(a) == _name(b)


def _name(support: constraints.Constraint) -> str:
    lower, upper = (_number(getattr(support, f"{side}_bound", None)) for side in ("lower", "upper"))
    if getattr(support, "is_discrete", False) or (lower is None and upper is None):
        return str(support)
    return f"from {lower} to {upper}"


def _number(bound: float | Tensor | None) -> float | list[float] | None:
    if bound is None:
        return None
    values = torch.as_tensor(bound, dtype=torch.float64).flatten().unique().tolist()
    return values[0] if len(values) == 1 else torch.as_tensor(bound, dtype=torch.float64).tolist()
