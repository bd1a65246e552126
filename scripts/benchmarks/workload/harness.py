"""Shared code of benchmarks: numbers in flags, timed repeats, tables, and the result as JSON."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from tfrecords import terminal


def flag_numbers(flag: str, example: str, minimum: int = 0) -> list[int]:
    """Returns the numbers of a list flag; the error message shows `example`.

    Raises:
        ValueError: The list is empty, or a value is not a number >= `minimum` or comes twice.
    """
    texts = flags.FLAGS[flag].value
    numbers = [int(text) for text in texts if text.strip().isdecimal()]
    if not numbers or len(set(numbers)) < len(texts) or min(numbers) < minimum:
        raise ValueError(
            f"--{flag} takes numbers like {example}, each once, got {','.join(texts)!r}."
        )
    return numbers


def flag_names(flag: str, known: Collection[str]) -> list[str]:
    """Returns the names of a list flag.

    Raises:
        ValueError: A name is not known or comes twice.
    """
    names = flags.FLAGS[flag].value
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"--{flag} takes some of {', '.join(known)}, got {unknown[0]!r}."
            f"{terminal.suggestion_for(unknown[0], known)}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"--{flag} takes each name once, got {','.join(names)!r}.")
    return names


def timed(
    calls: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 0
) -> dict[str, list[float]]:
    """Returns the seconds of `repeats` calls of each function, in turns, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm_up, repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def time_each(
    call: Callable[[Any], Any],
    items: Iterable[Any],
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[Any]]:
    """Returns the milliseconds and the results of calls with one item each."""
    milliseconds, results = [], []
    for item in items:
        started = clock()
        results.append(call(item))
        milliseconds.append(1000 * (clock() - started))
    return milliseconds, results


def percentiles(milliseconds: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Returns the median and the 99th percentile of times; NaN if there are none."""
    if not len(milliseconds):
        return {"p50_ms": float("nan"), "p99_ms": float("nan")}
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def print_rows(rows: Sequence[Mapping[str, Any]], formats: Mapping[str, str]) -> None:
    """Prints rows, which may lack values or have NaN, as a table of the columns in `formats`."""
    cells = [
        [
            "–" if (value := row.get(key)) is None or value != value else format(value, form)
            for key, form in formats.items()
        ]
        for row in rows
    ]
    print(terminal.text_table([key.replace("_", " ") for key in formats], cells))


def print_json(result: Mapping[str, Any]) -> None:
    """Prints a result as one line of JSON; NaN and infinity, which JSON lacks, become null."""
    print(json.dumps(json.loads(json.dumps(result), parse_constant=lambda _: None)))
