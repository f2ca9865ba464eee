"""Methods that do not keep their object alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method as a function that holds its object weakly, and does nothing once that is gone.

    For what an object holds itself, or hangs on an optimizer: otherwise model, optimizer and graphs would wait, after
    the last step, for Python to look for cycles, which it may never do again.
    """
    reference = WeakMethod(method)

    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the method has them
        alive = reference()
        return None if alive is None else alive(*args, **kwargs)

    return call
