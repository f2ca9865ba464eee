"""What priors with tensors of their own share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pyrovae.distributions import inverse_scale, positive, to_scale
from pyrovae.piece import Piece


class Unconditional(Piece):
    """A prior without a network: its tensors are constants, or are trained from there.

    Constants are buffers, so that they follow the VAE to another device or dtype, and are not saved.

    Args:
        learned: whether to train them; what else than a truth value it may be, a subclass says.
        floor: the least value of a learned tensor that is positive.
    """

    numbers = 0

    def __init__(self, learned: Any = False, floor: float = 1e-3) -> None:  # noqa: ANN401 - a subclass says
        super().__init__()
        self.learned = learned
        self.floor = positive(floor, "floor: expected")

    def hold(self, name: str, value: Tensor, learned: bool) -> None:
        """Keep ``value`` under ``name``, as a parameter or as a constant."""
        if learned:
            setattr(self, name, nn.Parameter(value))
        else:
            self.register_buffer(name, value, persistent=False)

    def hold_positive(self, name: str, value: Tensor, learned: bool) -> None:
        """The same for a positive tensor, which `positive_value` gives back; it is learned as ``raw_name``."""
        if learned:
            self.hold(f"raw_{name}", inverse_scale(value, self.floor), learned)
        else:
            self.hold(name, value, learned)

    def positive_value(self, name: str) -> Tensor:
        """What `hold_positive` keeps."""
        raw = getattr(self, f"raw_{name}", None)
        return getattr(self, name) if raw is None else to_scale(raw, self.floor)

    def at_least_two(self, size: int) -> None:
        """Raise a ValueError for a support that one element leaves no freedom."""
        if size < 2:
            raise ValueError(
                f"prior {type(self).__name__}: expected a latent_dim of at least 2, got {size}. "
                "With 1 its support is a single point or two."
            )
