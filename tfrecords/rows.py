"""Parsed rows in the one form that the rest of the conversion works on.

Strings are codes into the distinct values of their chunk, each with its fingerprint, so
that every later stage handles a value once a chunk and not once a row. Whatever is wrong
with a label, key or time is found here, for every format alike.

Shapes: B rows of a chunk, V distinct values of a field in a chunk.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfrecords import checks, encoding, keys
from tfrecords import columns as columns_lib
from tfrecords import schema as schema_lib
from tfrecords.formats import log

AD = "__ad__"
REQUEST = "__request__"
USER = "__user__"
TIME = "__time__"
SPLIT = "__split__"
POSITION = "__position__"
# Mixes the bits of a number: 2⁶⁴ over the golden ratio.
_ODD = np.uint64(0x9E3779B97F4A7C15)
LABELS = {label: f"__{label}__" for label in schema_lib.LABELS}


@dataclasses.dataclass(frozen=True)
class Strings:
    """The distinct strings of one field in a chunk.

    Attributes:
        values: [V] strings; "" is missing.
        fingerprints: [V] int64.
    """

    values: pa.Array
    fingerprints: np.ndarray

    def __len__(self) -> int:
        return len(self.fingerprints)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The good rows of a chunk.

    Attributes:
        columns: [B] each: codes of string fields by name (lists of codes of list fields),
            numbers of numeric fields by name; codes of `AD`; fingerprints of `REQUEST` and
            `USER`, seconds or the like of `TIME`, indices of `SPLIT` and `POSITION` where the
            schema has them; the `LABELS` (`records.MISSING_LABEL` or NaN is missing).
        strings: Distinct values of each string or list field, and of `AD`.
    """

    columns: pa.Table
    strings: Mapping[str, Strings]

    def __len__(self) -> int:
        return self.columns.num_rows

    def array(self, name: str) -> np.ndarray:
        """Returns a column other than a list as an array [B]."""
        return self.columns[name].to_numpy()

    def lists(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the codes of a list field end to end, and the lists' lengths [B]."""
        lists = self.columns[name].combine_chunks()
        return lists.flatten().to_numpy(), pc.list_value_length(lists).to_numpy()

    def raw(self, field: schema_lib.Field, rows: np.ndarray) -> pa.Array:
        """Returns the values of some rows as they stood in the log; null is missing."""
        column = self.columns[field.name].take(pa.array(rows)).combine_chunks()
        if field.kind == "numeric":
            return pa.array(column.to_numpy(zero_copy_only=False), pa.float64(), from_pandas=True)
        values = self.strings[field.name].values
        if field.kind == "categorical_list":
            flat = values.take(column.flatten())
            return (
                pa.ListArray.from_arrays(column.offsets, flat)
                if len(rows)
                else column.cast(pa.list_(pa.string()))
            )
        taken = values.take(column)
        return pc.if_else(pc.equal(taken, ""), pa.scalar(None, pa.string()), taken)

    def save(self, path: pathlib.Path) -> None:
        """Writes the rows to a file, whole or not at all."""
        partial = path.with_suffix(".partial")
        names = list(self.strings)
        metadata = {"strings": json.dumps(names)}
        columns = self.columns.replace_schema_metadata(metadata)
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, columns.schema) as writer:
            writer.write_table(columns.combine_chunks())
        values_path = path.with_suffix(".values")
        schema = pa.schema([("value", pa.string()), ("fingerprint", pa.int64())])
        with pa.OSFile(str(values_path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for strings in self.strings.values():
                arrays = [strings.values, pa.array(strings.fingerprints)]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
        partial.rename(path)


def load(path: pathlib.Path) -> Rows:
    """Maps into memory what `Rows.save` wrote."""
    with pa.memory_map(str(path)) as source:
        columns = pa.ipc.open_file(source).read_all()
    names = json.loads((columns.schema.metadata or {})[b"strings"])
    return Rows(columns, {n: load_strings(path, i) for i, n in enumerate(names)})


def load_strings(path: pathlib.Path, index: int) -> Strings:
    """Maps the distinct values of the string field at `index` into memory."""
    with pa.memory_map(str(path.with_suffix(".values"))) as source:
        batch = pa.ipc.open_file(source).get_batch(index)
    return Strings(batch["value"], batch["fingerprint"].to_numpy())


def string_names(schema: schema_lib.Schema) -> list[str]:
    """Returns the names of `Rows.strings`, in order."""
    return [field.name for field in schema.fields if field.kind != "numeric"] + [AD]


def is_labelled(schema: schema_lib.Schema, chunk: log.Chunk) -> bool:
    """Returns whether every row must have a click label: not in a test file or one without any."""
    return chunk.part != "test" and schema.click in chunk.columns


def normalise(
    schema: schema_lib.Schema, parsed: log.Parsed, is_labelled: bool
) -> tuple[Rows, Mapping[int, str]]:
    """Checks parsed rows and gives them their one form.

    Args:
        schema: Says what the columns are.
        parsed: A parsed chunk.
        is_labelled: Whether a row without a click label is a fault.

    Returns:
        The good rows, and the faults of the others by line number.
    """
    faults = checks.Faults(parsed.table.num_rows)
    columns: dict[str, pa.Array] = {}
    strings: dict[str, Strings] = {}
    table = keys.without_placeholders(schema, parsed.table)
    for field in schema.fields:
        if field.kind == "numeric":
            values = checks.numbers(faults, field.source, table[field.source])
            columns[field.name] = pa.array(_narrow(values))
        elif field.kind == "categorical":
            columns[field.name], strings[field.name] = _codes(table[field.source])
        else:
            columns[field.name], strings[field.name] = _list_codes(field, table[field.source])
    columns[AD], strings[AD] = ads(schema, table)
    if len(schema.ad_key) == 1:  # of several columns, all empty is an ad like any other
        empty = pc.equal(strings[AD].values, "").to_numpy(zero_copy_only=False)
        faults.add(empty[columns[AD].to_numpy()], functools.partial(_empty, schema.ad_key[0]))
    columns.update(_roles(schema, table, faults))
    labels = checks.labels(schema, table, faults, is_labelled)
    columns.update({LABELS[label]: values for label, values in labels.items()})
    rows = pa.table(columns)
    if faults.any():
        parsed = parsed.without(faults.bad, faults.reasons())
        rows = rows.filter(pa.array(~faults.bad))
    return Rows(rows, strings), parsed.faults


def _roles(
    schema: schema_lib.Schema, table: pa.Table, faults: checks.Faults
) -> dict[str, pa.Array]:
    roles = {}
    if schema.request_key is not None:
        requests, missing = _fingerprints(table[schema.request_key])
        faults.add(missing, functools.partial(_empty, schema.request_key))
        roles[REQUEST] = pa.array(requests)
    if schema.user_key is not None:
        users, missing = _fingerprints(table[schema.user_key])
        visits = requests if schema.request_key is not None else _line_numbers(table)
        roles[USER] = pa.array(np.where(missing, _anonymous(visits), users))
    if schema.time is not None:
        roles[TIME] = pa.array(checks.times(faults, schema.time, table[schema.time]))
    if schema.split is not None:
        roles[SPLIT] = pa.array(checks.splits(faults, schema.split, table[schema.split]))
    if schema.position is not None:
        roles[POSITION] = pa.array(
            checks.positions(faults, schema.position, table[schema.position])
        )
    return roles


def _fingerprints(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the fingerprints [B] int64 of a column of keys, and where it is empty [B]."""
    codes, strings = _codes(column)
    missing = pc.equal(strings.values, "").to_numpy(zero_copy_only=False)
    return strings.fingerprints[codes.to_numpy()], missing[codes.to_numpy()]


def _line_numbers(table: pa.Table) -> np.ndarray:
    return table[log.LINE_NUMBER].to_numpy().astype(np.int64)


def _anonymous(visits: np.ndarray) -> np.ndarray:
    """Returns users [B] of visits [B] int64 by nobody known: of each visit another one."""
    return (visits.astype(np.uint64) * _ODD + _ODD).view(np.int64)


def _empty(column: str, row: int) -> str:
    return f"{column} is empty"


def ads(schema: schema_lib.Schema, table: pa.Table) -> tuple[pa.Array, Strings]:
    """Returns the codes [B] and the distinct ids of the ads of a table with the ad key."""
    coded = [_codes(table[column]) for column in schema.ad_key]
    if len(coded) == 1:
        return coded[0]
    joint, distinct = combine([(codes.to_numpy(), len(strings)) for codes, strings in coded])
    parts = [s.values.take(pa.array(d)) for d, (_, s) in zip(distinct, coded, strict=True)]
    return _smallest(joint), with_fingerprints(ad_ids(parts))


def ad_ids(parts: Sequence[pa.Array]) -> pa.Array:
    """Returns ad ids: the values of the ad key, joined by "|" where there are several."""
    parts = [pc.fill_null(part, "") for part in parts]
    if len(parts) == 1:
        return parts[0]
    escaped = [
        pc.replace_substring(pc.replace_substring(part, "\\", "\\\\"), "|", "\\|") for part in parts
    ]
    return pc.binary_join_element_wise(*escaped, "|")


def combine(coded: Sequence[tuple[np.ndarray, int]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Numbers the combinations of several columns of codes.

    Args:
        coded: Codes [B] and their number of values, of each column.

    Returns:
        Codes of the combinations [B], and of each combination its code in every column.
    """
    joint, distinct = coded[0][0].astype(np.int64), [np.arange(coded[0][1])]
    for codes, count in coded[1:]:
        encoded = pa.array(joint * max(count, 1) + codes).dictionary_encode()
        pairs, joint = encoded.dictionary.to_numpy(), encoded.indices.to_numpy().astype(np.int64)
        before, own = np.divmod(pairs, max(count, 1))
        distinct = [*(values[before] for values in distinct), own]
    return joint, distinct


def _codes(column: pa.ChunkedArray) -> tuple[pa.Array, Strings]:
    """Returns codes [B] into the distinct strings of a column; missing is ""."""
    array = columns_lib.as_strings(column)
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    values, codes = encoded.dictionary, encoded.indices
    if codes.null_count:
        codes = codes.fill_null(len(values))
        values = pa.concat_arrays([values, pa.array([""], pa.string())])
    return _smallest(codes.to_numpy()), with_fingerprints(values)


def _list_codes(field: schema_lib.Field, column: pa.ChunkedArray) -> tuple[pa.Array, Strings]:
    """Returns lists of codes [B] into the distinct values of a list field."""
    lists = as_lists(field, column)
    encoded = lists.flatten().dictionary_encode()
    codes = _smallest(encoded.indices.to_numpy())
    listed = pa.ListArray.from_arrays(lists.offsets, codes)
    return listed, with_fingerprints(encoded.dictionary)


def as_lists(field: schema_lib.Field, column: pa.ChunkedArray) -> pa.ListArray:
    """Returns a column of lists, or of strings joined by the separator, as lists of strings.

    Values are trimmed; empty ones are left out.
    """
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        array = column.combine_chunks()
        split = array.cast(pa.list_(pa.string()))
    else:
        array = columns_lib.as_strings(column)
        if pa.types.is_dictionary(array.type):
            split = pc.split_pattern(array.dictionary, field.separator).take(array.indices)
        else:
            split = pc.split_pattern(array, field.separator)
    lengths = pc.fill_null(pc.list_value_length(split), 0).to_numpy(zero_copy_only=False)
    values = pc.utf8_trim_whitespace(pc.fill_null(split.flatten(), ""))
    present = pc.not_equal(values, "").to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(lengths)), lengths)[present]
    kept = np.bincount(rows, minlength=len(lengths))
    offsets = pa.array(np.append(0, np.cumsum(kept)).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values.filter(pa.array(present)))


def with_fingerprints(values: pa.Array) -> Strings:
    """Returns distinct strings [V] with their fingerprints."""
    if len(values) == 0:
        return Strings(values.cast(pa.string()), np.empty(0, np.int64))
    strings = tf.constant(values.to_numpy(zero_copy_only=False).astype(object), tf.string)
    return Strings(values, encoding.fingerprint(strings).numpy())


def raw_column(field: schema_lib.Field, column: pa.ChunkedArray) -> pa.Array:
    """Returns a column as `Rows.raw` does: numbers, strings or lists; null is missing.

    Raises:
        ValueError: What should be a number is none, or too large.
    """
    if field.kind == "numeric":
        faults = checks.Faults(len(column))
        values = checks.numbers(faults, field.source, column)
        if faults.any():
            raise ValueError(f"The table of ads: {faults.reasons()[0]}.")
        return pa.array(values, pa.float64(), from_pandas=True)
    if field.kind == "categorical_list":
        return as_lists(field, column)
    texts = columns_lib.as_strings(column)
    texts = texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _smallest(codes: np.ndarray) -> pa.Array:
    largest = int(codes.max(initial=0))
    kind = next(k for k in (np.uint8, np.uint16, np.uint32) if largest <= np.iinfo(k).max)
    return pa.array(codes.astype(kind))


def _narrow(numbers: np.ndarray) -> np.ndarray:
    """Returns numbers as float32 where it holds them exactly, so that less is written."""
    with np.errstate(over="ignore"):
        narrow = numbers.astype(np.float32)
    same = (narrow == numbers) | np.isnan(numbers)
    return narrow if same.all() else numbers
