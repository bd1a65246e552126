"""The table of ads of a release: checks and types it, and compares it with the last release's.

Shapes: N ads.
"""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather

from serving import errors, requests
from serving.index import AD_ID, ADS_FILE
from tfrecords import terminal
from tfrecords.schema import SHOWN, Field, Schema, numbers_of, shown_text, texts_of

_FLOAT32_MAX = float(np.finfo(np.float32).max)
# Share of the last release's ads that may be missing without a warning.
_MAX_MISSING_ADS = 0.2


def checked_ads(ads: pa.Table, schema: Schema) -> pa.Table:
    """Returns ad ids and raw ad fields as an index stores them."""
    if not isinstance(ads, pa.Table):
        raise errors.InvalidRequestError(
            f"ads: expected a pyarrow.Table, got {type(ads).__name__}. Use "
            "pyarrow.Table.from_pandas(frame) or pyarrow.parquet.read_table(path)."
        )
    if not ads.num_rows:
        raise errors.InvalidRequestError("The table of ads has no rows; expected at least one ad.")
    is_stored = AD_ID in ads.column_names
    sources = {f.name: f.name if is_stored else f.source for f in schema.ad_fields}
    key = [AD_ID] if is_stored else list(schema.ad_key)
    shown = ([SHOWN] if is_stored else list(schema.show)) if schema.show else []
    for column in (*key, *sources.values(), *shown):
        if column not in ads.column_names:
            hint = terminal.suggestion_for(column, ads.column_names)
            is_rate = column in {field.source for field in schema.rates}
            role = "a rate, which comes from a log" if is_rate else "which the schema names"
            raise errors.InvalidRequestError(
                f"The table of ads has no column {column!r}, {role}.{hint} "
                f"Columns: {', '.join(ads.column_names)}. Add the column, or correct the schema."
            )
    columns = {}
    for field in schema.ad_fields:
        column = _array(ads[sources[field.name]])
        try:
            columns[field.name] = _field(field, column)
        except (pa.ArrowException, ValueError) as error:
            raise errors.InvalidRequestError(
                f"{field.name}: expected a column for a {field.kind} field, got the type "
                f"{column.type} ({error}). Convert the column, or correct the schema."
            ) from error
    if schema.show:
        columns[SHOWN] = (
            _array(ads[SHOWN])
            if is_stored
            else pa.array(map(shown_text, ads.select(schema.show).to_pylist()), pa.large_string())
        )
    return pa.table({AD_ID: _ids([_array(ads[name]) for name in key], key), **columns})


def ad_ids(base: pathlib.Path, version: int) -> pa.ChunkedArray:
    """Returns the ad ids of a release, without its live updates.

    Raises:
        OSError: The file cannot be read.
        pyarrow.ArrowException: The file is damaged.
    """
    path = base / "ad_index" / str(version) / ADS_FILE
    return feather.read_table(path, [AD_ID], memory_map=True)[AD_ID]


def describe_missing_ads(
    base: pathlib.Path, version: int, ids: pa.Array | pa.ChunkedArray
) -> str | None:
    """Returns a clause with the number of ads that are missing, if they are many.

    Args:
        base: Base directory of the bundles.
        version: The last release; if it is damaged, nothing is compared.
        ids: [N] ad ids of the next one.
    """
    try:
        before = ad_ids(base, version)
    except (OSError, pa.ArrowException):
        return None
    missing = len(before) - pc.sum(pc.is_in(before, _array(ids.cast(before.type)))).as_py()
    if missing <= _MAX_MISSING_ADS * len(before):
        return None
    return f"{missing:,} of the {len(before):,} ads of release {version} are missing"


def _array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _ids(columns: list[pa.Array], names: list[str]) -> pa.Array:
    texts = [_strings(column) for column in columns]
    if len(texts) > 1:
        # Escaped as in the conversion of a log.
        for special in ("\\", "|"):
            texts = [pc.replace_substring(text, special, f"\\{special}") for text in texts]
    ids = pc.binary_join_element_wise(*texts, "|") if len(texts) > 1 else texts[0]
    lengths = pc.fill_null(pc.binary_length(ids), 0).to_numpy()
    bad = np.flatnonzero((lengths == 0) | (lengths > requests.MAX_AD_ID_BYTES))
    if len(bad):
        raise errors.InvalidRequestError(
            f"{', '.join(names)}: expected an ad id of 1 to {requests.MAX_AD_ID_BYTES} bytes, got "
            f"{lengths[bad[0]]} bytes in row {bad[0]}. Remove the row, or give the ad an id."
        )
    if pc.count_distinct(ids).as_py() < len(ids):
        counted = ids.value_counts()
        twice = counted.filter(pc.greater(counted.field("counts"), 1))[0].as_py()
        raise errors.InvalidRequestError(
            f"{', '.join(names)}: expected each ad id once, got {twice['values']!r} "
            f"{twice['counts']} times. Keep only the latest row of each ad."
        )
    return ids


def _field(field: Field, column: pa.Array) -> pa.Array:
    """Returns a column as an index stores it; raises an error of Arrow, or ValueError."""
    if field.kind == "dense":
        return _vectors(field, column)
    if field.kind == "numeric":
        # NaN is missing, as in a data frame. Text is not parsed.
        if pc.any(pc.greater(pc.abs(column), _FLOAT32_MAX)).as_py():
            raise ValueError("expected finite numbers in the range of float32")
        return column.cast(pa.float64(), safe=False)
    if field.is_list:
        return _lists(field, column)
    texts = _strings(column)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _strings(column: pa.Array) -> pa.Array:
    """Returns strings; numbers that are not integers could be written in several ways."""
    if pa.types.is_floating(column.type) or pa.types.is_nested(column.type):
        raise ValueError("expected strings or integers")
    return column.cast(pa.string())


def _lists(field: Field, column: pa.Array) -> pa.Array:
    """Returns lists of strings without empty and null items, which are missing in models, too."""
    if pa.types.is_nested(column.type):
        lists = column.cast(pa.list_(pa.string())).to_pylist()
    else:
        texts = _strings(column).to_pylist()
        lists = [None if t is None else texts_of(t, field.separator) for t in texts]
    rows = [None if items is None else list(filter(None, items)) for items in lists]
    return pa.array(rows, pa.list_(pa.string()))


def _vectors(field: Field, column: pa.Array) -> pa.Array:
    """Returns vectors of the field's length; null: missing."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        texts = column.to_pylist()
        rows = [numbers_of(text, field.separator) if text else None for text in texts]
        column = pa.array(rows, pa.list_(pa.float64()))
    vectors = column.cast(pa.list_(pa.float32(), field.length))
    numbers = vectors.drop_null().flatten()
    if pc.any(pc.invert(pc.fill_null(pc.is_finite(numbers), False))).as_py():
        raise ValueError("expected finite numbers")
    return vectors
