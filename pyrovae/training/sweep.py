"""Many trainings, one after another or several at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from joblib import Parallel


def sweep(
    run: Callable[..., Any], settings: Sequence[tuple[Any, ...]], *, n_jobs: int = 1, desc: str = "", progress: bool
) -> list[Any]:
    """``run(*each)`` for each of the settings, in their order.

    Args:
        run: what to do; with several jobs it goes to other processes, and so must depend on its arguments alone.
        settings: arguments.
        n_jobs: how many at a time, as joblib has it: processes that share the cores, -1 for one on each core; or,
            inside of ``joblib.parallel_config("dask")`` or ``("ray")``, jobs of a cluster.
        desc: of the progress bar.
        progress: show it where it takes more than two seconds.

    >>> sweep(pow, [(2, 3), (3, 2)], progress=False)
    [8, 9]
    """
    if n_jobs == 1:
        results = (run(*each) for each in settings)
    else:
        from joblib import delayed

        results = _parallel(n_jobs)(delayed(run)(*each) for each in settings)
    return list(tqdm(results, total=len(settings), disable=not progress, desc=desc, unit="run", delay=2))


def _parallel(n_jobs: int) -> Parallel:
    from joblib import Parallel

    try:
        return Parallel(n_jobs=n_jobs, return_as="generator")
    except ValueError:
        # Ray's gives all results at the end, so that the bar stands still until then.
        return Parallel(n_jobs=n_jobs)
