"""Conversions of Arrow columns."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.schema import shown_text


def as_strings(column: pa.ChunkedArray) -> pa.Array:
    """Converts a column to strings; a dictionary stays one, whole floats become integers.

    Times have microseconds only if these are not 0.
    """
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        if array.type.value_type == pa.string():
            return array
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        is_whole = pc.and_(pc.equal(array, pc.floor(array)), pc.less(pc.abs(array), 2.0**53))
        whole = pc.if_else(is_whole, array, None).cast(pa.int64()).cast(pa.string())
        # The text of a value must not depend on the other values of its chunk.
        is_all = pc.all(is_whole).as_py() is not False
        return whole if is_all else pc.if_else(is_whole, whole, array.cast(pa.string()))
    if pa.types.is_timestamp(array.type):
        texts = array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.string())
        # An offset may follow.
        return pc.replace_substring_regex(texts, r"\.000000(\D.*)?$", r"\1")
    return array.cast(pa.string())


def as_dictionary(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Returns the result of `as_strings`, dictionary-encoded."""
    array = as_strings(column)
    return array if pa.types.is_dictionary(array.type) else array.dictionary_encode()


def decoded(array: pa.Array) -> pa.Array:
    """Returns an array without a dictionary."""
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def is_text(column: pa.ChunkedArray) -> bool:
    """Returns whether a column holds strings, dictionary-encoded or not."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def distinct(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Returns the distinct texts of a column, "" for missing, and their index for each row [B]."""
    encoded = as_dictionary(column)
    values = [value or "" for value in encoded.dictionary.to_pylist()]
    indices = encoded.indices
    if indices.null_count:
        values.append("")
        indices = indices.fill_null(len(values) - 1)
    return values, indices.to_numpy()


def recode(column: pa.DictionaryArray, change: Callable[[str], str | None]) -> pa.DictionaryArray:
    """Changes the distinct values of a column [B]; None is missing."""
    changed = pa.array(map(change, column.dictionary.to_pylist()), pa.string())
    encoded = changed.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.take(column.indices), encoded.dictionary)


def filtered_lists(lists: pa.ListArray, values: pa.Array, kept: pa.Array) -> pa.ListArray:
    """Returns lists [B] with some of their values.

    Args:
        lists: Lists, whose lengths count; null is empty.
        values: Their concatenated values.
        kept: Whether to keep each value.
    """
    # `pc.list_parent_indices` also counts what null lists hide.
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(lists)), lengths)[kept.to_numpy(zero_copy_only=False)]
    offsets = np.append(0, np.cumsum(np.bincount(rows, minlength=len(lists)))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.filter(kept))


def shown_texts(table: pa.Table, names: Sequence[str]) -> pa.Array:
    """Returns columns to show as JSON objects [B]; columns that the table lacks are null."""
    present = [name for name in names if name in table.column_names]
    rows = table.select(present).to_pylist() if present else [{}] * table.num_rows
    texts = [shown_text({name: row.get(name) for name in names}) for row in rows]
    return pa.array(texts, pa.large_string())
