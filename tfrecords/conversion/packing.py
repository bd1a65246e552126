"""Encodes chunks, and gathers the requests of a shard from the chunks of their rows.

Shapes: B rows of a chunk, R requests and L shown ads of a shard, N ads.
"""

import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrecords import columns, encoding, files, records, vectors
from tfrecords.conversion import catalog
from tfrecords.conversion.parsed_rows import AD, LABEL_COLUMNS, POSITION, USER, Rows, by_chunk
from tfrecords.conversion.text_vectors import TextVectors
from tfrecords.conversion.user_events import UserEvents
from tfrecords.schema import LABELS, SIDES, Field, Schema

_REQUESTS_AT_ONCE = 4_096


def spec(fitted: encoding.FittedSchema) -> records.Spec:
    """Returns the record format of a fitted schema."""
    schema = fitted.schema
    query, ad = (
        tuple(w for f in _stored_fields(schema, side) for w in _widths_of(fitted, f))
        for side in SIDES
    )
    labels = tuple(x for x in LABELS if x == "click" or x in schema.labels)
    has_position, has_user = schema.position is not None, schema.user_key is not None
    num_ad_vector_columns = encoding.width(schema.ad_fields) - len(ad)
    return records.Spec(query, ad, labels, has_position, has_user, num_ad_vector_columns)


def _stored_fields(schema: Schema, side: str) -> tuple[Field, ...]:
    """Returns the fields of a side that records hold; vectors of ads are only in the catalog."""
    return tuple(f for f in schema.side(side) if side == "query" or not f.is_vector)


def _widths_of(fitted: encoding.FittedSchema, field: Field) -> list[str]:
    """Returns the stored type of each column of a field."""
    id_type = "int32" if field.is_vector else records.narrowest(fitted.cardinality(field))
    if field.kind != "history":
        return [id_type] * field.width
    codes = "uint8"  # of ages and events
    return [id_type] * field.max_length + [codes] * (field.width - field.max_length)


class Packer:
    """Encodes the rows of chunks as the features of records.

    Args:
        fitted: The fitted schema.
        ads: The catalog.
        ad_features: Its encoded ads [N, F] int32.
        texts: Vectors of the texts of requests, by field.
        histories: Events of each history, by field.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        ads: catalog.CatalogAds,
        ad_features: np.ndarray,
        texts: Mapping[str, TextVectors],
        histories: Mapping[str, UserEvents],
    ) -> None:
        self.spec = spec(fitted)
        self._ads, self._texts, self._histories = ads, texts, histories
        self._schema = fitted.schema
        # Rows have no histories; these are added to whole requests.
        query_fields = [f for f in fitted.schema.query_fields if f.kind != "history"]
        self._fields = {"query": query_fields, "ad": _stored_fields(fitted.schema, "ad")}
        self._widths = {
            side: tuple(w for field in fields for w in _widths_of(fitted, field))
            for side, fields in self._fields.items()
        }
        self._encoders = {
            side: encoding.Encoder(fitted, fitted.schema.side(side)) for side in SIDES
        }
        self.catalog = records.pack("ad", self.spec.ad_widths, ad_features)
        self._ids_of_events = {
            name: self._encode_strings(events.field, events.strings)
            for name, events in histories.items()
        }

    def pack(self, rows: Rows) -> records.Packed:
        """Encodes rows as the features of records except histories, with one value per row."""
        packed: records.Packed = {}
        for side in SIDES:
            packed.update(_empty(side, self._widths[side], len(rows)))
            for field, name, span in self._columns(side):
                packed[name][:, span] = self._encode(self._encoders[side], field, rows)
        if self.spec.has_user:
            packed[records.USER] = rows.array(USER)
        ad_rows = self._ads.rows.find(rows.strings[AD].fingerprints).astype(np.int32)
        packed["ad_row"] = ad_rows[rows.array(AD)]
        for name, dtype in self.spec.per_ad().items():
            if name != "ad_row":
                column = POSITION if name == "position" else LABEL_COLUMNS[name]
                packed[name] = rows.array(column).astype(dtype)
        return packed

    def num_changed_ads(self, packed: records.Packed) -> int:
        """Returns the number of rows whose ad features, without rates, differ from the catalog."""
        changed = np.zeros(len(packed["ad_row"]), bool)
        for field, name, span in self._columns("ad"):
            if not field.is_rate:
                differ = self.catalog[name][packed["ad_row"], span] != packed[name][:, span]
                changed |= differ.any(axis=1)
        return int(changed.sum())

    def num_varying(
        self,
        load_chunk: Callable[[int], records.Packed],
        chunk_ends: np.ndarray,
        rows: np.ndarray,
        lengths: np.ndarray,
        gathered: records.Packed,
    ) -> tuple[dict[str, int], int]:
        """Counts rows whose query fields or user differ from the first row of their request.

        A request has the query fields and the user of its first row. The arguments are those of
        `gather`, and its result.

        Returns:
            The number of rows for each field that varies, and the number of rows of another user.
        """
        if len(rows) == len(lengths):
            return {}, 0
        is_later = np.ones(len(rows), bool)
        is_later[np.cumsum(lengths) - lengths] = False
        request, rows = np.repeat(np.arange(len(lengths)), lengths)[is_later], rows[is_later]
        counts = {field.name: 0 for field in self._fields["query"]}
        num_users = 0
        for chunk, positions, indices in by_chunk(rows, chunk_ends):
            differs = {
                name: values[indices] != gathered[name][request[positions]]
                for name, values in load_chunk(chunk).items()
                if records.is_per_request(name)
            }
            for field, name, span in self._columns("query"):
                counts[field.name] += int(differs[name][:, span].any(axis=1).sum())
            if self.spec.has_user:
                num_users += int(differs[records.USER].sum())
        return {name: count for name, count in counts.items() if count}, num_users

    def with_histories(self, requests: records.Packed, times: np.ndarray) -> records.Packed:
        """Adds the histories of the users to gathered requests at times in seconds [R] float64."""
        if not self._histories:
            return requests
        packed = {**requests, **_empty("query", self.spec.query_widths, len(times))}
        # Events are found with several numbers of eight bytes each: too many for a whole shard.
        for first in range(0, len(times), _REQUESTS_AT_ONCE):
            chosen = slice(first, first + _REQUESTS_AT_ONCE)
            users = requests[records.USER][chosen]
            logged = iter(self._columns("query"))
            for field, field_columns in encoding.columns(self._schema.query_fields):
                if field.name not in self._histories:
                    _, name, span = next(logged)
                    parts = [requests[name][chosen, span]]
                else:
                    events, ids = self._histories[field.name], self._ids_of_events[field.name]
                    parts = list(events.encode(ids, users, times[chosen]))
                starts = range(field_columns.start, field_columns.stop, field.width // len(parts))
                for start, part in zip(starts, parts, strict=True):
                    name, span = _place(self.spec.query_widths, "query", start, part.shape[1])
                    packed[name][chosen, span] = part
        return packed

    def raw_histories(self, users: np.ndarray, times: np.ndarray) -> list[dict[str, Any]]:
        """Returns the raw inputs of all histories of requests [R], given users and times [R]."""
        raw: list[dict[str, Any]] = [{} for _ in users]
        for events in self._histories.values():
            for inputs, history in zip(raw, events.raw(users, times), strict=True):
                inputs.update(history)
        return raw

    def _columns(self, side: str) -> Iterator[tuple[Field, str, slice]]:
        """Yields the fields of packed rows, the feature that stores each, and its columns of it."""
        for field, span in encoding.columns(self._fields[side]):
            yield field, *_place(self._widths[side], side, span.start, field.width)

    def _encode_strings(self, field: Field, strings: columns.Strings) -> np.ndarray:
        """Returns the ids [V] int32 of distinct strings."""
        fingerprints = tf.constant(strings.fingerprints)
        missing = tf.equal(fingerprints, encoding.missing_fingerprint())
        encoder = self._encoders[field.side]
        return encoder.encode_fingerprints(field, fingerprints, missing).numpy()

    def _encode(self, encoder: encoding.Encoder, field: Field, rows: Rows) -> np.ndarray:
        """Returns the columns [B, width] of a field."""
        if field.kind == "dense":
            return vectors.columns_of(columns.vector_array(rows.columns[field.name]))
        if field.kind == "text":
            found = self._texts[field.name].find(rows.strings[field.name].fingerprints)
            return found[rows.array(field.name)]
        if field.kind == "numeric":
            numbers = tf.constant(rows.array(field.name), tf.float32)
            return encoder.encode_column(field, numbers).numpy()[:, None]
        ids = self._encode_strings(field, rows.strings[field.name])
        if field.kind == "categorical":
            width = records.narrowest(int(ids.max(initial=0)) + 1)
            return ids.astype(width)[rows.array(field.name)][:, None]
        codes, lengths = rows.lists(field.name)
        return encoding.pad(ids[codes], lengths, field.width)


def _empty(side: str, widths: tuple[str, ...], num_rows: int) -> records.Packed:
    """Returns features for the columns of a side, with undefined values."""
    return {
        f"{side}_{width}": np.empty((num_rows, len(columns)), width)
        for width, columns in records.columns_of(widths).items()
    }


def _place(widths: tuple[str, ...], side: str, start: int, count: int) -> tuple[str, slice]:
    """Returns the feature that stores some columns of one type, and these columns of it."""
    width = widths[start]
    index = records.columns_of(widths)[width].index(start)
    return f"{side}_{width}", slice(index, index + count)


def save(packed: records.Packed, directory: pathlib.Path) -> None:
    """Writes packed rows atomically."""
    # A conversion that was killed before it noted the chunk leaves the directory.
    shutil.rmtree(directory, ignore_errors=True)
    with files.replacing(directory) as partial:
        partial.mkdir()
        for name, values in packed.items():
            files.write_array(partial / f"{name}.npy", values)


def load(directory: pathlib.Path) -> records.Packed:
    """Memory-maps packed rows."""
    paths = directory.glob("*.npy")
    return {path.stem: files.read_array(path, mapped=True) for path in paths}


def gather(
    load_chunk: Callable[[int], records.Packed],
    chunk_ends: np.ndarray,
    rows: np.ndarray,
    lengths: np.ndarray,
) -> records.Packed:
    """Gathers requests from the packed rows of chunks.

    Requests have `lengths` [R] rows each, which are numbered in the log and concatenated [L].
    """
    packed: records.Packed = {"list_lengths": lengths.astype(np.int32)}
    first_rows = rows[np.cumsum(lengths) - lengths]
    request_rows = {chunk: where for chunk, *where in by_chunk(first_rows, chunk_ends)}
    for chunk, *row_positions in by_chunk(rows, chunk_ends):
        first_positions = request_rows.get(chunk)  # None: no request starts in the chunk.
        for name, values in load_chunk(chunk).items():
            is_per_request = records.is_per_request(name)
            target_rows, where = (
                (first_rows, first_positions) if is_per_request else (rows, row_positions)
            )
            if where is None:
                continue
            positions, indices = where
            taken = np.take(values, indices, axis=0)
            if len(positions) < len(target_rows):
                shape = (len(target_rows), *values.shape[1:])
                packed.setdefault(name, np.empty(shape, values.dtype))[positions] = taken
            else:  # As in most shards: another copy would take longer than the rest.
                packed[name] = taken
    return packed
