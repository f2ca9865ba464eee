"""Reading ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that the end waits for a value that is still being read."""


def prefetch(values: Iterator[T], ahead: int = 1) -> Iterator[T]:
    """``values``, each of which is read in a thread while the one before it is in use.

    An exception of theirs is raised where their value would have come. When this is exhausted, closed or dropped, the
    thread ends, and closes ``values`` if they can be closed.

    Args:
        values: an iterator that nobody else uses.
        ahead: so many are kept ready.

    >>> list(prefetch(iter("abc")))
    ['a', 'b', 'c']
    """
    ready: queue.Queue[tuple[str, object]] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(kind: str, value: object) -> None:
        while not stop.is_set():
            try:
                return ready.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for value in values:
                put("value", value)
                if stop.is_set():
                    break
        except BaseException as error:
            put("error", error)
        else:
            put("end", None)
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name="pyrovae-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stop.set()
        thread.join(PATIENCE)
