"""Steps that take turns, each in a process of its own: how one uses memory and threads does not touch the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, repeat
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np
import pandas as pd
import torch
from _peers import Step
from tqdm import tqdm

Make = Callable[[], tuple[Step, int]]
"""Makes a step, in its process, and says how many training steps it takes."""
FIRST = 3
"""Steps that may compile."""
WARM = 0.3
"""Seconds of steps before a burst, after which memory and threads are awake."""
BURST = 0.5
"""Seconds of a burst, of one step at least."""


def _serve(connection: Connection, make: Make, threads: int) -> None:
    """In the process: that it is ready, seconds of first steps, and then, each time they are asked for, milliseconds a
    training step."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step, each = make()
    connection.send(True)

    def steps(seconds: float) -> float:
        """Seconds a step."""
        count, begin = 0, time.perf_counter()
        while count == 0 or time.perf_counter() < begin + seconds:
            step()
            count += 1
        return (time.perf_counter() - begin) / count

    def first() -> float:
        begin = time.perf_counter()
        for _ in range(FIRST):
            step()
        return time.perf_counter() - begin

    def burst() -> float:
        steps(WARM)
        return steps(BURST) / each * 1e3

    for measured in chain([first], repeat(burst)):
        if not connection.recv():
            break
        connection.send(measured())


@contextmanager
def _process(make: Make) -> Iterator[Connection]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make, torch.get_num_threads()))
    process.start()
    # Of a process that has died, reading then says so.
    theirs.close()
    try:
        yield ours
    finally:
        with suppress(OSError):
            ours.send(False)
        process.join()


def _ask(process: Connection) -> float:
    process.send(True)
    return process.recv()


def in_turns(makes: dict[str, Make], bursts: int, runs: int, title: str) -> tuple[pd.Series, Sequence[pd.DataFrame]]:
    """Seconds of the first steps of each; and of each run milliseconds a training step, a row for each burst and a
    column for each step."""
    with ExitStack() as stack:
        processes = {name: stack.enter_context(_process(make)) for name, make in makes.items()}
        # All have imported what they need, before the first of them is timed.
        for process in processes.values():
            process.recv()
        first = {name: _ask(p) for name, p in tqdm(processes.items(), desc=f"{title}: first steps", leave=False)}
        tables = []
        for run in range(runs):
            generator = np.random.default_rng(run)
            rows = []
            for _ in tqdm(range(bursts), desc=title, leave=False):
                rows.append({name: _ask(processes[name]) for name in generator.permutation(list(processes))})
            tables.append(pd.DataFrame(rows)[list(makes)])
        return pd.Series(first), tables
