"""Progress bars with rate and remaining time, and the tasks in threads that they show.

The bars are written to standard error if it is a terminal, for tasks that take more than two
seconds, so that neither piped output nor log files contain them.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, TypeVar

import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")
_SECONDS_UNTIL_SHOWN = 2
_CALLS_AT_ONCE = 2


def progress_bar(task: str, unit: str, total: float | None = None, shown: bool = True) -> tqdm.tqdm:
    """Returns a bar that the caller updates; it is a context manager.

    Args:
        task: Title of the bar.
        unit: Plural name of the counted things.
        total: Number of units; None: unknown.
        shown: Whether to show the bar.
    """
    return tqdm.tqdm(total=total, **_options(task, unit, shown))


def with_progress(
    items: Iterable[Any], task: str, unit: str, total: float | None = None
) -> tqdm.tqdm:
    """Returns an iterator over the items that shows a progress bar.

    The other arguments are the same as for `progress_bar`.
    """
    return tqdm.tqdm(items, total=total, **_options(task, unit, shown=True))


def map_with_progress(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    task: str,
    unit: str,
    total: float | None = None,
) -> Iterator[Any]:
    """Yields the results of a function for items, in their order, and shows a progress bar.

    Two calls run at once, in threads: alone, a model uses one core for much of a call. The other
    arguments are the same as for `progress_bar`.
    """
    return in_threads(function, with_progress(items, task, unit, total), _CALLS_AT_ONCE)


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Yields the results of a function for items, in their order, computed by `workers` threads.

    Arrow, NumPy and TensorFlow release the interpreter lock, so that threads use all cores.
    """
    pool = futures.ThreadPoolExecutor(workers)
    pending: list[futures.Future[Result]] = []
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.pop(0).result()
        while pending:
            yield pending.pop(0).result()
    finally:
        pool.shutdown(cancel_futures=True)


def progress_steps(count: int, size: int, task: str, unit: str = "rows") -> Iterator[int]:
    """Yields 0, size, 2 · size … below `count`, with a bar."""
    with progress_bar(task, unit, count) as shown:
        for first in range(0, count, size):
            yield first
            shown.update(min(size, count - first))


def print_above_bars(line: str) -> None:
    """Prints a line above the bars."""
    tqdm.tqdm.write(line)


def _options(task: str, unit: str, shown: bool) -> dict[str, Any]:
    return {
        "desc": task,
        "unit": f" {unit}",
        "unit_scale": True,
        # None: on a terminal only.
        "disable": None if shown else True,
        "delay": _SECONDS_UNTIL_SHOWN,
        "mininterval": 0.5,
        "leave": False,
    }
