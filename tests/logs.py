"""Plain logs in Criteo's layout for the tests: a label, I1–I13, C1–C26."""

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from tfrecords import convert, reader
from tfrecords import schema as schema_lib
from tfrecords.formats import criteo

Row = list[str]


def rows(count: int, seed: int = 0, click_rate: float = 0.25) -> list[Row]:
    """Returns rows of strings with missing values and negative integers."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < click_rate).astype(int)
    numbers = rng.integers(-2, 40, size=(count, 13))
    values = np.minimum(rng.zipf(1.5, size=(count, 26)), 40)
    missing = rng.random((count, 39)) < 0.1
    result = []
    for i in range(count):
        raw = [str(n) for n in numbers[i]] + [f"{v * 2654435761 % 2**32:08x}" for v in values[i]]
        shown = ["" if gone else value for value, gone in zip(raw, missing[i], strict=True)]
        result.append([str(labels[i]), *shown])
    return result


def text(rows: Iterable[Sequence[str]], end: str = "\n") -> bytes:
    """Returns the rows as the bytes of a log."""
    return "".join("\t".join(row) + end for row in rows).encode()


def write(path: pathlib.Path, rows: Iterable[Sequence[str]]) -> pathlib.Path:
    """Writes a log and returns its path."""
    path.write_bytes(text(rows))
    return path


def converted(
    log: pathlib.Path,
    directory: pathlib.Path,
    schema: schema_lib.Schema | None = None,
    ads_path: pathlib.Path | None = None,
    **options: float,
) -> reader.DataSet:
    """Converts a log with fractions of 0.1, 0.1 and 0.01 where no others are given."""
    fractions = {"validation_fraction": 0.1, "test_fraction": 0.1, "max_rejected_fraction": 0.01}
    source = convert.Source(log, schema or criteo.schema(), ads_path=ads_path)
    convert.convert(source, directory, **{**fractions, **options})
    return reader.DataSet(directory)
