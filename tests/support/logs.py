"""Plain logs in Criteo's layout for the tests: a label, I1–I13, C1–C26."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tfrecords import convert, encoding, formats, reader
from tfrecords import schema as schema_lib
from tfrecords.conversion import fitting, parsed_rows

Row = list[str]
# Conversion takes three quarters of its time for the other fields.
FEW_FIELDS = dataclasses.replace(
    formats.criteo.schema(), fields=formats.criteo.schema().fields[::5]
)


def rows(count: int, seed: int = 0, click_rate: float = 0.25) -> list[Row]:
    """Returns rows of strings, with missing values and negative integers."""
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


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A row that was rejected."""

    path: str
    line: int
    reason: str
    raw: bytes


def read(opened: formats.Log, schema: schema_lib.Schema) -> tuple[pa.Table, list[Rejected]]:
    """Parses and checks a log; returns the raw columns of its good rows, and the rejected."""
    tables, rejected = [], []
    for index, chunk in enumerate(opened.chunks()):
        parsed = opened.parse(chunk)
        is_labeled = parsed_rows.is_labeled(schema, chunk)
        _, faults = parsed_rows.normalize(schema, parsed, index, is_labeled)
        bad = np.isin(parsed.table[formats.LINE_NUMBER].to_numpy(), list(faults))
        tables.append(parsed.table.filter(pa.array(~bad)))
        numbers = sorted(faults)
        for line, raw in zip(numbers, opened.raw(chunk, numbers), strict=True):
            rejected.append(Rejected(str(chunk.path), line, faults[line], raw))
    return pa.concat_tables(tables), rejected


def converted(
    path: pathlib.Path,
    directory: pathlib.Path,
    schema: schema_lib.Schema | None = None,
    ads_path: pathlib.Path | None = None,
    rows_per_chunk: int = formats.ROWS_PER_CHUNK,
    format: str = "criteo_kaggle",
    users_path: pathlib.Path | None = None,
    **options: Any,
) -> reader.DataSet:
    """Converts a log with default fractions of 0.1 (validation, test) and 0.01 (rejected rows).

    Args:
        path: The log.
        directory: Output directory.
        schema: Default: `FEW_FIELDS`.
        ads_path: Table of ads.
        rows_per_chunk: Rows of a chunk.
        format: Format of the log.
        users_path: Table of users.
        **options: Further options of `convert.convert`.
    """
    fractions = {"validation_fraction": 0.1, "test_fraction": 0.1, "max_rejected_fraction": 0.01}
    source = convert.Source(
        path,
        schema or FEW_FIELDS,
        format,
        ads_path=ads_path,
        users_path=users_path,
        rows_per_chunk=rows_per_chunk,
    )
    convert.convert(source, directory, **{**fractions, **options})
    return reader.DataSet(directory)


def converted_table(
    path: pathlib.Path,
    directory: pathlib.Path,
    schema: schema_lib.Schema,
    ads_path: pathlib.Path | None = None,
    **options: Any,
) -> reader.DataSet:
    """Converts a table with any columns, with default fractions of 0.1 (validation, test)."""
    fractions = {"validation_fraction": 0.1, "test_fraction": 0.1}
    source = convert.Source(path, schema, format="tabular", ads_path=ads_path)
    convert.convert(source, directory, **{**fractions, **options})
    return reader.DataSet(directory)


def converted_tastes(
    directory: pathlib.Path, users: int, tastes: int, ads: int, clicks: int, seed: int
) -> reader.DataSet:
    """Converts a log of clicks in which each user has a taste, and clicks only ads of that taste.

    Args:
        directory: Directory for the log and the data set.
        users: Number of users, who have the tastes in turn.
        tastes: Number of tastes.
        ads: Number of ads per taste.
        clicks: Number of clicks per user, each on a different ad.
        seed: Random seed.
    """
    rng = np.random.default_rng(seed)
    rows = [
        f"u{user},a{ads * (user % tastes) + ad}"
        for user in range(users)
        for ad in rng.choice(ads, clicks, replace=False)
    ]
    rng.shuffle(rows)
    (directory / "log.csv").write_text("\n".join(["user,ad", *rows]) + "\n")
    fields = (
        schema_lib.Field("user", "categorical", "query", num_oov_buckets=1, min_count=1),
        schema_lib.Field("ad", "categorical", "ad", num_oov_buckets=1, min_count=1),
    )
    schema = schema_lib.Schema("tastes", fields, ad_key=("ad",), click=None, user_key="user")
    return converted_table(
        directory / "log.csv", directory / "data", schema, split="leave_random_fraction_out"
    )


def fit(schema: schema_lib.Schema, tables: Sequence[pa.Table]) -> encoding.FittedSchema:
    """Fits a schema to training rows; each table is a chunk, and needs only columns of fields."""
    chunks, before = [], 0
    total = sum(table.num_rows for table in tables)
    for index, table in enumerate(tables):
        for name in schema.columns:
            if name not in table.column_names:
                table = table.append_column(name, pa.array(["0"] * table.num_rows, pa.string()))
        table = table.append_column(
            formats.LINE_NUMBER, pa.array(range(table.num_rows), pa.int64())
        )
        rows, _ = parsed_rows.normalize(schema, formats.Parsed(table), index, True)
        is_train = np.ones(len(rows), bool)
        counts = fitting.count_chunk(schema, rows, is_train, before, total)
        chunks.append((counts, rows.strings))
        before += len(rows)
    fitted, _ = fitting.fit(
        schema, len(chunks), lambda i, name: chunks[i][0][name], lambda i, name: chunks[i][1][name]
    )
    return fitted


def files(directory: pathlib.Path) -> dict[str, str]:
    """Returns the digest of each file in a directory."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
