"""Progress bars: how far, how fast, how long still.

They go to standard error, where that is a terminal, once something takes two seconds; so neither
output that a program reads nor a file of logs ever holds one.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import tqdm

_SECONDS_UNTIL_SHOWN = 2


def progress_bar(task: str, unit: str, total: float | None = None, shown: bool = True) -> tqdm.tqdm:
    """Returns a bar to be updated by hand, a context manager.

    Args:
        task: What is being done.
        unit: What is counted, in the plural.
        total: How many there are; None is unknown.
        shown: Whether it is shown at all.
    """
    return tqdm.tqdm(total=total, **_options(task, unit, shown))


def with_progress(
    items: Iterable[Any], task: str, unit: str, total: float | None = None, shown: bool = True
) -> tqdm.tqdm:
    """Returns the items, with a bar that follows them; arguments as `progress_bar`."""
    return tqdm.tqdm(items, total=total, **_options(task, unit, shown))


def progress_steps(count: int, size: int, task: str, unit: str = "rows") -> Iterator[int]:
    """Yields 0, size, 2 · size … below `count`, with a bar of how much of it is done."""
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
