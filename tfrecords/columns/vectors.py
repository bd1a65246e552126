"""Validates and converts columns of vectors.

Shapes: B rows of a chunk, V distinct texts of a column, n values of a vector.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.columns import arrow, placeholders
from tfrecords.columns.checks import RowFaults
from tfrecords.schema import Field, numbers_of

_MAX_SHOWN = 40


def checked_vectors(faults: RowFaults, field: Field, column: pa.ChunkedArray) -> pa.Array:
    """Returns a column of vectors [B] as fixed-size lists of float16, scaled; null is missing.

    Texts, and values that are dictionary-encoded, are converted once for each distinct one, and
    stay dictionary-encoded.

    Args:
        faults: Rows with bad vectors are added to it.
        field: The field, of kind `dense`.
        column: Lists of numbers, or texts such as `0.5|-1|2` (joined by the field's separator),
            `[0.5, -1, 2]` or `[0.5 -1 2]`. Null, "" and an empty list are missing.
    """
    if arrow.is_text(column):
        column = pa.chunked_array([arrow.as_dictionary(column)])
    array = _whole(column)
    if not pa.types.is_dictionary(array.type):
        values, reasons = _vectors(field, array)
        faults.add(np.array([bool(why) for why in reasons], bool), lambda row: reasons[row] or "")
        return values
    distinct = array.dictionary
    values, reasons = (_vectors_of_texts if arrow.is_text(distinct) else _vectors)(field, distinct)
    codes = array.indices.fill_null(len(reasons)).to_numpy(zero_copy_only=False)
    bad = np.array([*(bool(why) for why in reasons), False], bool)
    faults.add(bad[codes], lambda row: reasons[codes[row]] or "")
    return pa.DictionaryArray.from_arrays(array.indices, values)


def vector_array(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Returns the result of `checked_vectors` as an array [B, n] float16; zeros are missing."""
    if isinstance(column, pa.ChunkedArray):
        return vector_array(_whole(column))
    if pa.types.is_dictionary(column.type):
        values = vector_array(column.dictionary)
        values = np.concatenate([values, np.zeros_like(values, shape=(1, values.shape[1]))])
        return values[column.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)]
    result = np.zeros((len(column), column.type.list_size), np.float16)
    present = column.is_valid().to_numpy(zero_copy_only=False)
    flat = column.drop_null().flatten().to_numpy(zero_copy_only=False)
    result[present] = flat.reshape(-1, column.type.list_size)
    return result


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    # Arrow joins dictionaries of strings, but not of lists.
    if pa.types.is_dictionary(column.type) and pa.types.is_nested(column.type.value_type):
        chunks = [chunk.dictionary_decode() for chunk in column.chunks]
        column = pa.chunked_array(chunks, column.type.value_type)
    return column.combine_chunks()


def _vectors_of_texts(field: Field, texts: pa.Array) -> tuple[pa.Array, list[str | None]]:
    """Returns the vectors of texts [V], and why each is bad, or None."""
    parts: list[list[float] | None] = []
    reasons: list[str | None] = []
    for text in texts.to_pylist():
        try:
            missing = text is None or placeholders.is_missing_number(text.strip())
            parts.append(None if missing else numbers_of(text, field.separator))
            reasons.append(None)
        except ValueError:
            parts.append(None)
            reasons.append(
                f"{field.source} must be {field.length} numbers joined by {field.separator!r}, or "
                f"empty, got {text[:_MAX_SHOWN]!r}"
            )
    values, found = _vectors(field, pa.array(parts, pa.list_(pa.float64())))
    return values, [reason or fault for reason, fault in zip(reasons, found, strict=True)]


def _number(text: str | None) -> float:
    try:
        return float("nan") if text is None else float(text)
    except ValueError:
        return float("nan")


def _vectors(field: Field, lists: pa.Array) -> tuple[pa.Array, list[str | None]]:
    """Returns lists of numbers [B] as vectors, and why each is bad, or None."""
    # Imported here, so that formats and schemas can be checked without TensorFlow.
    import tensorflow as tf

    from tfrecords import vectors

    assert field.length is not None
    if pa.types.is_null(lists.type):
        lists = lists.cast(pa.list_(pa.float32()))
    if not isinstance(lists, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        reason = f"{field.source} must be a list of {field.length} numbers, got {lists.type}"
        nothing = pa.nulls(len(lists), pa.list_(pa.float16(), field.length))
        return nothing, [reason if value.is_valid else None for value in lists]
    reasons: list[str | None] = [None] * len(lists)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero((lengths != 0) & (lengths != field.length)).tolist():
        reasons[row] = (
            f"{field.source} must have {field.length} numbers, the field's length, got "
            f"{lengths[row]}"
        )
    good = lengths == field.length
    flat = lists.filter(pa.array(good)).flatten()
    if pa.types.is_string(flat.type):
        flat = pa.array([_number(text) for text in flat.to_pylist()], pa.float64())
    flat = flat.cast(pa.float32(), safe=False)
    values = np.zeros((len(lists), field.length), np.float32)
    values[good] = flat.to_numpy(zero_copy_only=False).reshape(-1, field.length)
    for row in np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
        wrong = values[row][~np.isfinite(values[row])][0]
        reasons[row] = f"{field.source} must be {field.length} finite numbers, got {wrong:g} in it"
    scaled = vectors.scaled(tf.constant(values)).numpy()
    missing = pa.array(~scaled.any(axis=1))
    flat = pa.array(scaled.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, field.length, mask=missing), reasons
