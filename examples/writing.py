"""Writes the tables of an example as CSV, TSV (jobs) or Parquet (apps)."""

import csv
import pathlib

import numpy as np
import pyarrow as pa
import use_cases
from pyarrow import parquet

_SUFFIXES = {"apps": "parquet", "jobs": "tsv"}


def write(example: str, rows: int, directory: pathlib.Path, seed: int = 1) -> list[pathlib.Path]:
    """Writes the tables of an example and returns their paths, the log's first."""
    tables = use_cases.EXAMPLES[example](np.random.default_rng(seed), rows)
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in ("log", "ads", "users"):
        table = getattr(tables, name)
        if table is not None:
            path = directory / f"{name}.{_SUFFIXES.get(example, 'csv')}"
            _write(table, path)
            paths.append(path)
    return paths


def _write(table: use_cases.Table, path: pathlib.Path) -> None:
    if path.suffix == ".parquet":
        parquet.write_table(pa.table(dict(table)), path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
