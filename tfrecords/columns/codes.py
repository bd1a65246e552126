"""String columns as codes of their distinct values, which have fingerprints.

Shapes: B rows of a chunk, V distinct values of a column.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.columns.arrow import as_dictionary, as_strings, filtered_lists
from tfrecords.schema import Field, texts_of

_MAX_INDEX_PER_KEY = 4
# Mixes the bits of a number: 2⁶⁴ divided by the golden ratio.
MIXER = np.uint64(0x9E3779B97F4A7C15)
_OTHER_MIXER = np.uint64(0xC2B2AE3D27D4EB4F)


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


class KeyIndex:
    """Finds unique integer keys; negative ones are not found.

    Args:
        keys: Keys [N]; ascending ones are not copied.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys
        is_ascending = bool((keys[1:] > keys[:-1]).all())
        self._order = None if is_ascending else np.argsort(keys, kind="stable")
        self._sorted = keys if self._order is None else keys[self._order]
        self._indices: np.ndarray | None = None
        # Ids that count from 1 with few gaps: an array by id is faster than a search.
        if len(keys) and self._sorted[0] >= 0 and self._sorted[-1] < _MAX_INDEX_PER_KEY * len(keys):
            self._indices = np.full(int(self._sorted[-1]) + 1, -1, np.int32)
            self._indices[self._sorted] = np.arange(len(keys), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Returns the index [B] of some keys, or -1."""
        if not len(self):
            return np.full(len(keys), -1, np.int64)
        known = (keys >= 0) & (keys <= self._sorted[-1])
        # With the same type, so that the search does not convert all keys.
        searched = np.where(known, keys, 0).astype(self._sorted.dtype)
        if self._indices is not None:
            indices = self._indices[searched]
        else:
            indices = np.searchsorted(self._sorted, searched)
            known &= self._sorted[indices] == searched
        found = indices if self._order is None else self._order[indices]
        return np.where(known, found, -1)


def coded_keys(table: pa.Table, names: Sequence[str]) -> tuple[np.ndarray, Strings]:
    """Returns codes [B] of the distinct keys of a table: the values of columns, joined by "|"."""
    coded = [coded_strings(table[name]) for name in names]
    codes, strings = coded[0][0].to_numpy(), coded[0][1]
    if len(coded) == 1:
        return codes, strings
    columns = [(row_codes.to_numpy(), len(values)) for row_codes, values in coded]
    codes, distinct = _combined(columns)
    parts = [
        values.values.take(pa.array(indices))
        for indices, (_, values) in zip(distinct, coded, strict=True)
    ]
    for special in ("\\", "|"):
        parts = [pc.replace_substring(part, special, f"\\{special}") for part in parts]
    return codes, with_fingerprints(pc.binary_join_element_wise(*parts, "|"))


def _combined(coded: Sequence[tuple[np.ndarray, int]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Numbers the combinations of several columns of codes [B], given the number of values of each.

    Returns:
        Codes of the combinations [B], and for each column the code of each combination.
    """
    joint, distinct = coded[0][0].astype(np.int64), [np.arange(coded[0][1])]
    for codes, count in coded[1:]:
        encoded = pa.array(joint * max(count, 1) + codes).dictionary_encode()
        pairs, joint = encoded.dictionary.to_numpy(), encoded.indices.to_numpy().astype(np.int64)
        before, current = np.divmod(pairs, max(count, 1))
        distinct = [*(values[before] for values in distinct), current]
    return joint, distinct


def coded_strings(column: pa.ChunkedArray) -> tuple[pa.Array, Strings]:
    """Returns codes [B] of the distinct strings of a column; "" is missing."""
    encoded = as_dictionary(column)
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
    """Converts a column of lists, or of their texts (see `texts_of`), to lists of strings.

    Values are trimmed, and empty ones are dropped.
    """
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        array = column.combine_chunks()
        split = array.cast(pa.list_(pa.string()))
    else:
        array = as_strings(column)
        if pa.types.is_dictionary(array.type):
            split = _split(array.dictionary, field.separator).take(array.indices)
        else:
            split = _split(array, field.separator)
    values = pc.utf8_trim_whitespace(pc.fill_null(split.flatten(), ""))
    return filtered_lists(split, values, pc.not_equal(values, ""))


def _split(texts: pa.Array, separator: str) -> pa.ListArray:
    """Splits the texts of lists [V]; null stays null."""
    split = pc.split_pattern(texts, separator)
    has_bracket = pc.fill_null(pc.match_substring(texts, "["), False)
    if not pc.any(has_bracket).as_py():
        return split
    rows = np.flatnonzero(has_bracket)
    lists = [texts_of(text, separator) for text in texts.take(pa.array(rows)).to_pylist()]
    sources = np.arange(len(texts))
    sources[rows] = len(texts) + np.arange(len(rows))
    return pa.concat_arrays([split, pa.array(lists, split.type)]).take(pa.array(sources))


def with_fingerprints(values: pa.Array) -> Strings:
    """Returns distinct strings [V] with their fingerprints."""
    # Imported here, so that formats and schemas can be checked without TensorFlow.
    import tensorflow as tf

    from tfrecords import encoding

    if len(values) == 0:
        return Strings(values.cast(pa.string()), np.empty(0, np.int64))
    strings = tf.constant(values.to_numpy(zero_copy_only=False).astype(object), tf.string)
    return Strings(values, encoding.fingerprint(strings).numpy())


def first_seen(chunks: Iterable[Strings]) -> Iterator[Strings]:
    """Yields the strings of each chunk that no chunk before it has."""
    known = np.empty(0, np.int64)
    for strings in chunks:
        new = np.flatnonzero(~contains(known, strings.fingerprints))
        new_strings = Strings(strings.values.take(pa.array(new)), strings.fingerprints[new])
        known = np.sort(np.concatenate([known, new_strings.fingerprints]))
        yield new_strings


def distinct_numbers(values: np.ndarray) -> np.ndarray:
    """Returns the distinct values [V] of an array in ascending order.

    With counts, `np.unique` sorts; without, it hashes, which takes up to 200 times longer.
    """
    return np.unique(values, return_counts=True)[0]


def contains(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns whether each value [B] is in an ascending array [N], without sorting it again."""
    if not len(ascending):
        return np.zeros(len(values), bool)
    indices = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return ascending[indices] == values


def last_rows(codes: np.ndarray, count: int) -> np.ndarray:
    """Returns the last row [V] int64 of each of the codes 0..count - 1 in `codes` [B], or -1."""
    last = np.full(count, -1, np.int64)
    last[codes] = np.arange(len(codes))  # The last assignment to an index counts.
    return last


def smallest_codes(codes: np.ndarray) -> pa.Array:
    """Returns codes [B] in the smallest unsigned type."""
    largest = int(codes.max(initial=0))
    kind = next(k for k in (np.uint8, np.uint16, np.uint32) if largest <= np.iinfo(k).max)
    return pa.array(codes.astype(kind))


def hashes_of_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns a hash [B] uint64 of each pair of integers, such as a user and an ad."""
    return first.astype(np.uint64) * MIXER + second.astype(np.uint64) * _OTHER_MIXER
