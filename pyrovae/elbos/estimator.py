"""What all estimators of ours have in common: K draws at once, for any Pyro model and guide."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

from pyro.infer import ELBO

from pyrovae.checks import count
from pyrovae.elbos.draws import Draws, Gradient, Program, draw


@dataclass(eq=False)
class Estimator(ELBO):
    """A Pyro ELBO whose K draws for each row come from `pyrovae.elbos.draws.draw`.

    Args:
        num_particles: K.
        max_plate_nesting: plates of the model; by default it is run once to see.
    """

    gradient: ClassVar[Gradient] = "total"
    """How the draws depend on the guide's parameters."""
    stateful: ClassVar[bool] = False
    """Whether a step of training changes more than the parameters."""
    least: ClassVar[int] = 1
    """Fewest draws that mean something."""

    num_particles: int = 1
    max_plate_nesting: float = field(default=math.inf, kw_only=True)

    def __post_init__(self) -> None:
        count(self.num_particles, "num_particles", self.least)
        # The plate of the draws is opened in `draw`, to the left of the model's.
        super().__init__(num_particles=self.num_particles, max_plate_nesting=self.max_plate_nesting)

    def draw(
        self, num_particles: int, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Draws:
        """Draws as this estimator needs them."""
        if self.max_plate_nesting == math.inf:
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        return draw(model, guide, args, kwargs, num_particles, int(self.max_plate_nesting), self.gradient)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:  # noqa: ANN401
        """The value of `loss`; adds the gradient of this estimator to that of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def _get_trace(self, *_: Any) -> NoReturn:  # noqa: ANN401
        raise NotImplementedError("the draws of all particles come from `draw`, in one trace")
