"""Parsed rows in the form that the other stages of the conversion use.

Strings are codes of the distinct values of their chunk, so that later stages handle a value once
per chunk instead of once per row. Labels, keys and times of all formats are validated here.

Shapes: B rows of a chunk, V distinct values of a field in a chunk.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords import columns, files, formats, records
from tfrecords.columns import Strings
from tfrecords.events import KINDS
from tfrecords.schema import EVENTS, LABELS, Field, Schema

AD = "__ad__"
REQUEST = "__request__"
USER = "__user__"
TIME = "__time__"
SPLIT = "__split__"
POSITION = "__position__"
EVENT = "__event__"
_SHOWN = "__show__."
LABEL_COLUMNS = {label: f"__{label}__" for label in LABELS}
# Times of the first click and engagement of an impression, in a log of events.
EVENT_TIMES = {event: f"__{event}_time__" for event in EVENTS[1:]}


@dataclasses.dataclass(frozen=True)
class Rows:
    """The good rows of a chunk.

    Attributes:
        columns: Columns [B]: codes of string fields (lists of codes of list fields), numbers of
            numeric fields and vectors of dense fields, by name; codes of `AD`; if the schema has
            them, fingerprints of `REQUEST` and `USER`, numbers of `TIME`, indices of `SPLIT` and
            `POSITION`; the `LABEL_COLUMNS` (`MISSING_LABEL` or NaN is missing); and the columns
            to show.
        strings: Distinct values of each string, list or text field, and of `AD`.
    """

    columns: pa.Table
    strings: Mapping[str, Strings]

    def __len__(self) -> int:
        return self.columns.num_rows

    def array(self, name: str) -> np.ndarray:
        """Returns a column other than a list as an array [B]."""
        return self.columns[name].to_numpy()

    def with_numbers(self, numbers: Mapping[str, np.ndarray]) -> "Rows":
        """Returns the rows with more numeric columns [B]."""
        table = self.columns
        for name, values in numbers.items():
            table = table.append_column(name, pa.array(values))
        return Rows(table, self.strings)

    def lists(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the concatenated codes of a list field, and the lists' lengths [B]."""
        lists = self.columns[name].combine_chunks()
        return lists.flatten().to_numpy(), pc.list_value_length(lists).to_numpy()

    def raw(self, field: Field, rows: np.ndarray) -> pa.Array:
        """Returns the values of some rows in the log; null is missing."""
        column = self.columns[field.name].take(pa.array(rows)).combine_chunks()
        if field.kind == "numeric":
            return pa.array(column.to_numpy(zero_copy_only=False), pa.float64(), from_pandas=True)
        if field.kind == "dense":
            return columns.decoded(column)
        values = self.strings[field.name].values
        if field.kind == "categorical_list":
            return pa.ListArray.from_arrays(column.offsets, values.take(column.flatten()))
        taken = values.take(column)
        return pc.if_else(pc.equal(taken, ""), pa.scalar(None, pa.string()), taken)

    def shown(self, names: Sequence[str], rows: np.ndarray) -> pa.Array:
        """Returns the values of some rows to show, a JSON object each."""
        present = [name for name in names if _SHOWN + name in self.columns.column_names]
        # Without any of the columns, `AD` keeps the number of rows.
        table = self.columns.select([AD, *(_SHOWN + name for name in present)]).take(pa.array(rows))
        return columns.shown_texts(table.rename_columns([AD, *present]), names)

    def save(self, path: pathlib.Path) -> None:
        """Writes the rows to a file atomically."""
        values_path = path.with_suffix(".values")
        schema = pa.schema([("value", pa.string()), ("fingerprint", pa.int64())])
        with pa.OSFile(str(values_path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for strings in self.strings.values():
                arrays = [strings.values, pa.array(strings.fingerprints)]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
        metadata = {"strings": json.dumps(list(self.strings))}
        table = self.columns.replace_schema_metadata(metadata)
        with files.replacing(path) as partial:
            records.write_arrow(table.combine_chunks(), partial)


def load_rows(path: pathlib.Path) -> Rows:
    """Memory-maps the files of `Rows.save`."""
    table = records.read_arrow(path)
    names = json.loads((table.schema.metadata or {})[b"strings"])
    return Rows(table, dict(zip(names, load_strings(path, range(len(names))), strict=True)))


def load_strings(path: pathlib.Path, indices: Iterable[int]) -> list[Strings]:
    """Memory-maps the distinct values of the string fields at some indices."""
    with pa.memory_map(str(path.with_suffix(".values"))) as source:
        file = pa.ipc.open_file(source)
        batches = [file.get_batch(index) for index in indices]
    return [Strings(batch["value"], batch["fingerprint"].to_numpy()) for batch in batches]


def by_chunk(
    rows: np.ndarray, chunk_ends: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Groups rows of the log [L] by their chunk.

    Yields:
        The index of a chunk, the indices of its rows in `rows`, and these rows in the chunk.
    """
    chunk_of = np.searchsorted(chunk_ends, rows, side="right")
    for chunk in np.unique(chunk_of).tolist():
        positions = np.flatnonzero(chunk_of == chunk)
        yield chunk, positions, rows[positions] - (chunk_ends[chunk - 1] if chunk else 0)


def string_names(schema: Schema) -> list[str]:
    """Returns the names of `Rows.strings`, in order."""
    return [f.name for f in schema.logged_fields if f.kind not in ("numeric", "dense")] + [AD]


def is_labeled(schema: Schema, chunk: formats.Chunk) -> bool:
    """Returns whether all rows of a chunk must have a click label."""
    return chunk.part != "test" and schema.click in chunk.columns


def normalize(
    schema: Schema, parsed: formats.Parsed, index: int, is_labeled: bool
) -> tuple[Rows, Mapping[int, str]]:
    """Validates and converts the rows of a parsed chunk.

    A row without a click label is rejected if the chunk is labeled.

    Returns:
        The good rows, and line number -> reason of rejected rows. The labels of events are all 0
        until `event_join` joins them.
    """
    faults = columns.RowFaults(parsed.table.num_rows)
    stored: dict[str, pa.Array] = {}
    strings: dict[str, Strings] = {}
    table = columns.without_placeholders(schema, parsed.table)
    impression_faults = faults
    if schema.events is not None:
        types, row_types = columns.distinct(table[schema.events.column])
        codes = [schema.events.codes.get(type_.strip(), 0) for type_ in types]
        kinds = np.array(codes, np.uint8)[row_types]
        stored[EVENT] = pa.array(kinds)
        if schema.events.view:  # Other events get these values from their view.
            impression_faults = faults.among(kinds == KINDS.index("view"))
    for field in schema.logged_fields:
        if field.kind == "numeric":
            values = columns.checked_numbers(faults, field.source, table[field.source])
            stored[field.name] = pa.array(_narrow(values))
        elif field.kind == "dense":
            stored[field.name] = columns.checked_vectors(faults, field, table[field.source])
        elif field.is_list:
            stored[field.name], strings[field.name] = columns.coded_lists(
                field, table[field.source]
            )
        else:
            column = table[field.source]
            if field.calendar is not None:
                times = columns.checked_times(
                    impression_faults, field.source, column, schema.time_format
                )
                column = pa.chunked_array([columns.calendar_values(times, field.calendar)])
            stored[field.name], strings[field.name] = columns.coded_strings(column)
    ads, strings[AD] = columns.coded_keys(table, schema.ad_key)
    stored[AD] = columns.smallest_codes(ads)
    if len(schema.ad_key) == 1:  # With several columns, all of them may be empty.
        empty = pc.equal(strings[AD].values, "").to_numpy(zero_copy_only=False)
        faults.add(empty[ads], _why_missing(parsed.table, schema.ad_key[0]))
    stored.update(_roles(schema, parsed.table, table, index, faults, impression_faults))
    labels = columns.checked_labels(schema, table, faults, is_labeled)
    stored.update({LABEL_COLUMNS[label]: values for label, values in labels.items()})
    shown = [name for name in schema.show if name in parsed.table.column_names]
    stored.update({_SHOWN + name: parsed.table[name] for name in shown})
    rows = pa.table(stored)
    if faults.any():
        parsed = parsed.without(faults.bad, faults.reasons())
        rows = rows.filter(pa.array(~faults.bad))
    return Rows(rows, strings), parsed.faults


def _roles(
    schema: Schema,
    raw: pa.Table,
    table: pa.Table,
    index: int,
    faults: columns.RowFaults,
    impression_faults: columns.RowFaults,
) -> dict[str, pa.Array]:
    roles = {}
    if schema.request_key is not None:
        requests, missing = _fingerprints(table[schema.request_key])
        faults.add(missing, _why_missing(raw, schema.request_key))
        roles[REQUEST] = pa.array(requests)
    if schema.user_key is not None:
        users, missing = _fingerprints(table[schema.user_key])
        # Each anonymous visit is a different user. Line numbers repeat in other files.
        if schema.request_key is not None:
            visits = requests.view(np.uint64)
        else:
            lines = table[formats.LINE_NUMBER].to_numpy()
            visits = columns.hashes_of_pairs(lines, np.full(len(lines), index))
        anonymous = (visits * columns.MIXER + columns.MIXER).view(np.int64)
        roles[USER] = pa.array(np.where(missing, anonymous, users))
    if schema.time is not None:
        column = table[schema.time]
        roles[TIME] = pa.array(
            columns.checked_times(faults, schema.time, column, schema.time_format)
        )
    if schema.split is not None:
        roles[SPLIT] = pa.array(
            columns.checked_splits(impression_faults, schema.split, table[schema.split])
        )
    if schema.position is not None:
        roles[POSITION] = pa.array(
            columns.checked_positions(impression_faults, schema.position, table[schema.position])
        )
    return roles


def _why_missing(raw: pa.Table, name: str) -> Callable[[int], str]:
    """Returns a function from a row to why its key is missing, before placeholders were removed."""

    def reason(row: int) -> str:
        text = str(raw[name][row].as_py() or "").strip()
        return f"{name} must be known, got {text!r}" if text else f"{name} is empty"

    return reason


def _fingerprints(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the fingerprints [B] int64 of a column of keys, and whether it is empty [B]."""
    codes, strings = columns.coded_strings(column)
    missing = pc.equal(strings.values, "").to_numpy(zero_copy_only=False)
    return strings.fingerprints[codes.to_numpy()], missing[codes.to_numpy()]


def raw_column(field: Field, column: pa.ChunkedArray) -> pa.Array:
    """Returns a column as `Rows.raw` does: numbers, strings, lists or vectors; null is missing.

    Raises:
        ValueError: A value is not a number in the range of float32, or not a vector of the field's
            length.
    """
    if field.kind in ("numeric", "dense"):
        faults = columns.RowFaults(len(column))
        if field.kind == "numeric":
            numbers = columns.checked_numbers(faults, field.source, column)
            values = pa.array(numbers, pa.float64(), from_pandas=True)
        else:
            values = columns.decoded(columns.checked_vectors(faults, field, column))
        if faults.any():
            raise ValueError(f"The table of ads: {faults.reasons()[0]}.")
        return values
    if field.kind == "categorical_list":
        return columns.as_lists(field, column)
    texts = columns.decoded(columns.as_strings(column))
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _narrow(numbers: np.ndarray) -> np.ndarray:
    """Converts numbers to float32 if it represents all of them exactly."""
    with np.errstate(over="ignore"):
        narrow = numbers.astype(np.float32)
    is_exact = (narrow == numbers) | np.isnan(numbers)
    return narrow if is_exact.all() else numbers
