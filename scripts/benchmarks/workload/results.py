"""What benchmarks share: numbers in flags, percentiles of times, tables, and JSON results."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from tfrecords import terminal


def flag_numbers(flag: str, example: str, minimum: int = 0) -> list[int]:
    """Returns the numbers of a list flag.

    Args:
        flag: Name of the flag.
        example: Valid value, for the error message.
        minimum: Smallest number allowed.

    Raises:
        ValueError: The list is empty, or a value is not a number >= `minimum`.
    """
    texts = flags.FLAGS[flag].value
    if not texts or not all(text.strip().isdigit() and int(text) >= minimum for text in texts):
        raise ValueError(f"--{flag} takes numbers like {example}, got {','.join(texts)!r}.")
    return [int(text) for text in texts]


def percentiles(milliseconds: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Returns the median and the 99th percentile of times; infinity if there are none."""
    if not len(milliseconds):
        return {"p50_ms": float("inf"), "p99_ms": float("inf")}
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def print_rows(rows: Sequence[Mapping[str, Any]], formats: Mapping[str, str]) -> None:
    """Prints rows as a table.

    Args:
        rows: Measurements.
        formats: Format of each column, in the order of the columns.
    """
    cells = [[format(row[key], form) for key, form in formats.items()] for row in rows]
    print(terminal.text_table([key.replace("_", " ") for key in formats], cells))


def print_json(result: Mapping[str, Any], path: str | None = None) -> None:
    """Prints a result as one line of JSON, and writes it to a file if a path is given."""
    text = json.dumps(result)
    if path:
        pathlib.Path(path).write_text(text + "\n", encoding="utf-8")
    print(text)
