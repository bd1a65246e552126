"""Reads feedback events from JSON lines, CSV, TSV or Parquet, by the file extension.

    {"request_id": "42", "ad_id": "ad-17", "click": 1, "revenue": 0.35}

Shapes: E events.
"""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from serving import errors, requests
from serving.impressions import logged_schema

_IDS = {"request_id": "_request_id", "ad_id": "_ad_id"}


def read(paths: Sequence[pathlib.Path], kinds: Mapping[str, str]) -> tuple[pa.Table, list[str]]:
    """Reads events and combines those of the same request and ad.

    Args:
        paths: The files.
        kinds: Label -> kind of its head, of the labels that events can have.

    Returns:
        A table with the columns `_request_id`, `_ad_id`, the labels (float64) and `num_events`; and
        the labels that occur in any file.

    Raises:
        ImpressionLogError: A file cannot be read, or an event is malformed; the message names it.
    """
    tables = [_read(path, kinds) for path in paths]
    labels = [
        label for label in kinds if any(f"_{label}" in table.column_names for table in tables)
    ]
    if "click" not in labels:
        raise errors.ImpressionLogError(
            f"{', '.join(map(str, paths)) or 'No file'}: expected events with a column click, got "
            f"{labels or 'none of ' + ', '.join(kinds)}. Add click as 0 or 1."
        )
    names = [f"_{label}" for label in labels]
    complete = []
    for table in tables:
        for name in names:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(table.num_rows, pa.float64()))
        complete.append(table.select([*_IDS.values(), *names]))
    ways = {f"_{label}": "sum" if _is_amount(kinds[label]) else "max" for label in labels}
    together = pa.concat_tables(complete).group_by(list(_IDS.values()))
    summed = together.aggregate([*ways.items(), ([], "count_all")])
    renamed = {f"{name}_{way}": name for name, way in ways.items()} | {"count_all": "num_events"}
    return summed.rename_columns([renamed.get(n, n) for n in summed.column_names]), labels


def _is_amount(kind: str) -> bool:
    return kind == logged_schema.AMOUNT


def _read(path: pathlib.Path, kinds: Mapping[str, str]) -> pa.Table:
    if not path.is_file():
        raise errors.ImpressionLogError(
            f"{path} does not exist; expected a file of events. Check the path."
        )
    try:
        table = _parsed(path, kinds)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise errors.ImpressionLogError(
            f"{path}: expected events as JSON lines (.jsonl), CSV (.csv), TSV (.tsv) or Parquet "
            f"(.parquet), got {error}."
        ) from error
    missing = [name for name in _IDS if name not in table.column_names]
    if missing:
        raise errors.ImpressionLogError(
            f"{path}: expected events with request_id and ad_id, got {table.column_names}."
        )
    columns = {own: _ids(path, name, table[name]) for name, own in _IDS.items()}
    for label, kind in kinds.items():
        if label in table.column_names:
            columns[f"_{label}"] = _numbers(path, label, table[label], _is_amount(kind))
    return pa.table(columns)


def _parsed(path: pathlib.Path, labels: Iterable[str]) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.suffix in (".jsonl", ".ndjson", ".json"):
        return _json_lines(path, labels)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    return pa_csv.read_csv(
        path,
        parse_options=pa_csv.ParseOptions(delimiter=delimiter),
        convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(_IDS, pa.string())),
    )


def _json_lines(path: pathlib.Path, labels: Iterable[str]) -> pa.Table:
    # Arrow's reader would parse a string such as "2024-01-01" as a timestamp.
    columns: dict[str, list[Any]] = {name: [] for name in (*_IDS, *labels)}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                event = json.loads(line)
            except ValueError as error:
                raise errors.ImpressionLogError(
                    f"{path}, line {number}: expected a JSON object, got invalid JSON ({error})."
                ) from error
            if not isinstance(event, dict):
                raise errors.ImpressionLogError(
                    f"{path}, line {number}: expected a JSON object, got {line.strip()[:60]!r}."
                )
            for name, values in columns.items():
                values.append(_checked(f"{path}, line {number}", name, event.get(name)))
    present = {
        name: values
        for name, values in columns.items()
        if name in _IDS or any(value is not None for value in values)
    }
    return pa.table(
        {
            name: pa.array(values, pa.string() if name in _IDS else None)
            for name, values in present.items()
        }
    )


def _checked(place: str, name: str, value: Any) -> Any:
    """Returns a value of a JSON event in the type of its column."""
    if name in _IDS:
        value = requests.as_digits(value)
        if isinstance(value, str):
            return value
        raise errors.ImpressionLogError(
            f"{place}: expected {name} as a string or an integer, got {requests.shortened(value)}."
        )
    if value is None:
        return None
    # Labels are float32 in the data set, so larger numbers are refused.
    number = float(value) if isinstance(value, bool) else requests.as_finite_float(value)
    if number is None:
        raise errors.ImpressionLogError(
            f"{place}: expected {name} as a finite number, got {requests.shortened(value)}."
        )
    return number


def _ids(path: pathlib.Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_integer(kind)):
        raise errors.ImpressionLogError(
            f"{path}: expected {name} as a string or an integer, got {kind}."
        )
    if column.null_count:
        raise _malformed(path, name, column, pc.is_null(column), "a value")
    return column.cast(pa.string())


def _numbers(
    path: pathlib.Path, label: str, column: pa.ChunkedArray, is_amount: bool
) -> pa.ChunkedArray:
    """Returns a label [E] as float64; null where an event does not have it."""
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_floating(kind) or _is_integer(kind) or pa.types.is_null(kind)):
        raise errors.ImpressionLogError(f"{path}: expected {label} as a number, got {kind}.")
    column = column.cast(pa.float64())
    maximum = math.inf if is_amount else 1.0
    good = pc.and_(pc.greater_equal(column, 0.0), pc.less_equal(column, maximum))
    good = pc.and_(good, pc.is_finite(column))
    if not is_amount:
        good = pc.and_(good, pc.equal(column, pc.floor(column)))
    bad = pc.invert(pc.fill_null(good, True))
    if pc.any(bad).as_py():
        expected = "a number >= 0" if is_amount else "0 or 1"
        raise _malformed(path, label, column, bad, expected)
    return column


def _is_integer(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind)


def _malformed(
    path: pathlib.Path, name: str, column: Any, bad: Any, expected: str
) -> errors.ImpressionLogError:
    index = pc.index(bad, True).as_py()
    return errors.ImpressionLogError(
        f"{path}, event {index + 1}: expected {expected} as {name}, got {column[index].as_py()!r}."
    )
