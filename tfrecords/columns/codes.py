"""String columns as codes of their distinct values, which have fingerprints.

Shapes: B rows of a chunk, V distinct values of a column.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.columns.arrow import as_strings
from tfrecords.schema import Field


@dataclasses.dataclass(frozen=True)
class Strings:
    """The distinct strings of a field in a chunk.

    Attributes:
        values: Strings [V]; "" is missing.
        fingerprints: Their fingerprints [V] int64.
    """

    values: pa.Array
    fingerprints: np.ndarray

    def __len__(self) -> int:
        return len(self.fingerprints)


def ad_ids(parts: Sequence[pa.Array]) -> pa.Array:
    """Returns ad ids: the values of the ad key's columns, joined by "|"."""
    parts = [pc.fill_null(part, "") for part in parts]
    if len(parts) == 1:
        return parts[0]
    escaped = [
        pc.replace_substring(pc.replace_substring(part, "\\", "\\\\"), "|", "\\|") for part in parts
    ]
    return pc.binary_join_element_wise(*escaped, "|")


def combine_codes(coded: Sequence[tuple[np.ndarray, int]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Numbers the combinations of several columns of codes.

    Args:
        coded: Codes [B] and the number of values of each column.

    Returns:
        Codes of the combinations [B], and for each column the code of each combination.
    """
    joint, distinct = coded[0][0].astype(np.int64), [np.arange(coded[0][1])]
    for codes, count in coded[1:]:
        encoded = pa.array(joint * max(count, 1) + codes).dictionary_encode()
        pairs, joint = encoded.dictionary.to_numpy(), encoded.indices.to_numpy().astype(np.int64)
        before, own = np.divmod(pairs, max(count, 1))
        distinct = [*(values[before] for values in distinct), own]
    return joint, distinct


def coded_strings(column: pa.ChunkedArray) -> tuple[pa.Array, Strings]:
    """Returns codes [B] of the distinct strings of a column; "" is missing."""
    array = as_strings(column)
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    values, codes = encoded.dictionary, encoded.indices
    if codes.null_count:
        codes = codes.fill_null(len(values))
        values = pa.concat_arrays([values, pa.array([""], pa.string())])
    return smallest_codes(codes.to_numpy()), with_fingerprints(values)


def coded_lists(field: Field, column: pa.ChunkedArray) -> tuple[pa.Array, Strings]:
    """Returns lists of codes [B] of the distinct values of a list field."""
    lists = as_lists(field, column)
    encoded = lists.flatten().dictionary_encode()
    codes = smallest_codes(encoded.indices.to_numpy())
    listed = pa.ListArray.from_arrays(lists.offsets, codes)
    return listed, with_fingerprints(encoded.dictionary)


def as_lists(field: Field, column: pa.ChunkedArray) -> pa.ListArray:
    """Converts a column of lists, or of strings joined by the separator, to lists of strings.

    Values are trimmed, and empty ones are dropped.
    """
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        array = column.combine_chunks()
        split = array.cast(pa.list_(pa.string()))
    else:
        array = as_strings(column)
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
    # Imported here, so that formats and schemas can be checked without TensorFlow.
    import tensorflow as tf

    from tfrecords import encoding

    if len(values) == 0:
        return Strings(values.cast(pa.string()), np.empty(0, np.int64))
    strings = tf.constant(values.to_numpy(zero_copy_only=False).astype(object), tf.string)
    return Strings(values, encoding.fingerprint(strings).numpy())


def smallest_codes(codes: np.ndarray) -> pa.Array:
    """Returns codes [B] in the smallest unsigned type."""
    largest = int(codes.max(initial=0))
    kind = next(k for k in (np.uint8, np.uint16, np.uint32) if largest <= np.iinfo(k).max)
    return pa.array(codes.astype(kind))
