"""Work that threads share, each on a core of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Found = TypeVar("Found")


def by_threads(work: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[Found]:
    """What ``work`` makes of each item, in their order, by as many threads as torch would use.

    They are ahead of what is asked for by no more than two items each. What one raises, the caller is told where that
    item's turn is; the others end with what they are at. Until then the caller, too, has one core.

    >>> list(by_threads(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    count, waiting = torch.get_num_threads(), deque[Future[Found]]()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    # What the caller does by several threads would wait for theirs, with cores that are at work.
    torch.set_num_threads(1)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(count)
