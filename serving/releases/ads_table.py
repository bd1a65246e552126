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
    columns = {f.name: _field(f, _array(ads[sources[f.name]])) for f in schema.ad_fields}
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
    texts = [_strings(n, c, "an ad id") for n, c in zip(names, columns, strict=True)]
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
    if field.kind == "dense":
        return _vectors(field, column)
    if field.kind == "numeric":
        return _numbers(field.name, column)
    if field.is_list:
        return _lists(field, column)
    texts = _strings(field.name, column, f"a {field.kind} field")
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _lists(field: Field, column: pa.Array) -> pa.Array:
    """Returns lists of strings without empty and null items, which are missing in models, too."""
    if not _is_list(column.type):
        texts = _strings(field.name, column, "a list")
        lists = [None if t is None else texts_of(t, field.separator) for t in texts.to_pylist()]
        column = pa.array(lists, pa.list_(pa.string()))
    values = _strings(field.name, column.values, "a list")
    lists = column.cast(pa.list_(values.type))
    if not pc.any(pc.fill_null(pc.equal(values, ""), True)).as_py():
        return lists
    rows = [None if items is None else list(filter(None, items)) for items in lists.to_pylist()]
    return pa.array(rows, lists.type)


def _vectors(field: Field, column: pa.Array) -> pa.Array:
    assert field.length is not None
    expected = f"{field.name}: expected lists of {field.length} finite numbers, got"
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            rows = [
                numbers_of(text, field.separator) if text else None for text in column.to_pylist()
            ]
        except ValueError as error:
            raise errors.InvalidRequestError(f"{expected} {error}. Correct the text.") from error
        column = pa.array(rows, pa.list_(pa.float32()))
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.list_(pa.float32(), field.length))
    if not (_is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        raise errors.InvalidRequestError(
            f"{expected} the type {column.type}. Convert the column, or correct the schema."
        )
    lengths = pc.fill_null(pc.list_value_length(column), field.length).to_numpy()
    bad = np.flatnonzero(lengths != field.length)
    if len(bad):
        raise errors.InvalidRequestError(
            f"{expected} {lengths[bad[0]]} in row {bad[0]}. Correct it, or leave it null."
        )
    try:
        flat = column.drop_null().flatten().cast(pa.float32(), safe=False)
    except pa.ArrowException as error:
        raise errors.InvalidRequestError(
            f"{expected} the type {column.type} ({error}). Convert the column, or correct the "
            "schema."
        ) from error
    present = column.is_valid().to_numpy(zero_copy_only=False)
    values = np.zeros((len(column), field.length), np.float32)
    values[present] = flat.to_numpy(zero_copy_only=False).reshape(-1, field.length)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise errors.InvalidRequestError(
            f"{expected} NaN or infinity in row {bad[0]}. Correct it, or leave it null."
        )
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), field.length, mask=pa.array(~present)
    )


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_)


def _strings(name: str, column: pa.Array, role: str) -> pa.Array:
    type_ = column.type
    is_text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
    if not (is_text or pa.types.is_integer(type_) or pa.types.is_null(type_)):
        raise errors.InvalidRequestError(
            f"{name}: expected strings or integers for {role}, got the type {type_}. Convert the "
            "column, or correct the schema."
        )
    return column.cast(pa.string())


def _numbers(name: str, column: pa.Array) -> pa.Array:
    type_ = column.type
    is_number = pa.types.is_integer(type_) or pa.types.is_floating(type_)
    if not (is_number or pa.types.is_decimal(type_) or pa.types.is_null(type_)):
        raise errors.InvalidRequestError(
            f"{name}: expected numbers for a numeric field, got the type {type_}. Convert the "
            "column, or correct the schema."
        )
    numbers = column.cast(pa.float64(), safe=False)
    values = numbers.to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(np.abs(values) > _FLOAT32_MAX)
    if len(bad):
        raise errors.InvalidRequestError(
            f"{name}: expected finite numbers in the range of float32, got {values[bad[0]]:g} in "
            f"row {bad[0]}. Correct it, or leave it null."
        )
    return numbers
