"""Encodes chunks, and gathers the requests of a shard from the chunks of their rows.

Shapes: B rows of a chunk, R requests and L shown ads of a shard, N ads.
"""

import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from tfrecords import columns, encoding, files, records, vectors
from tfrecords.conversion import catalog
from tfrecords.conversion.parsed_rows import AD, LABEL_COLUMNS, POSITION, USER, Rows, by_chunk
from tfrecords.conversion.text_vectors import TextVectors
from tfrecords.schema import LABELS, SIDES, Field, Schema


def spec(fitted: encoding.FittedSchema) -> records.Spec:
    """Returns the record format of a fitted schema."""
    schema = fitted.schema
    query, ad = (
        tuple(
            width
            for field in _stored_fields(schema, side)
            for width in [_width_of(fitted, field)] * field.width
        )
        for side in SIDES
    )
    labels = tuple(x for x in LABELS if x == "click" or x in schema.labels)
    has_position, has_user = schema.position is not None, schema.user_key is not None
    num_ad_vector_columns = encoding.width(schema.ad_fields) - len(ad)
    return records.Spec(query, ad, labels, has_position, has_user, num_ad_vector_columns)


def _stored_fields(schema: Schema, side: str) -> tuple[Field, ...]:
    """Returns the fields of a side that records hold: vectors of ads are in the catalog alone."""
    return tuple(f for f in schema.side(side) if side == "query" or not f.is_vector)


def _width_of(fitted: encoding.FittedSchema, field: Field) -> str:
    return "int32" if field.is_vector else records.narrowest(fitted.cardinality(field))


class Packer:
    """Encodes the rows of chunks as the features of records.

    Args:
        fitted: The fitted schema.
        ads: The catalog.
        ad_features: Its encoded ads [N, F] int32.
        texts: Vectors of the texts of requests, by field.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        ads: catalog.CatalogAds,
        ad_features: np.ndarray,
        texts: Mapping[str, TextVectors],
    ) -> None:
        self.spec = spec(fitted)
        self._ads, self._texts = ads, texts
        self._schema = fitted.schema
        self._encoders = {
            s: encoding.Encoder(fitted, fitted.schema.side(s)) for s in ("query", "ad")
        }
        self.catalog = records.pack("ad", self.spec.ad_widths, ad_features)

    def pack(self, rows: Rows) -> records.Packed:
        """Encodes rows as the features of records, with one value per row."""
        packed: records.Packed = {}
        for side, widths in (("query", self.spec.query_widths), ("ad", self.spec.ad_widths)):
            packed.update(self._pack_side(side, widths, rows))
        if self.spec.has_user:
            packed[records.USER] = rows.array(USER)
        of_distinct = self._ads.rows.find(rows.strings[AD].fingerprints).astype(np.int32)
        packed["ad_row"] = of_distinct[rows.array(AD)]
        for name, dtype in self.spec.per_ad().items():
            if name != "ad_row":
                own = POSITION if name == "position" else LABEL_COLUMNS[name]
                packed[name] = rows.array(own).astype(dtype)
        return packed

    def num_changed_ads(self, packed: records.Packed) -> int:
        """Returns the number of rows with other ad features than the catalog."""
        changed = np.zeros(len(packed["ad_row"]), bool)
        for name, features in self.catalog.items():
            changed |= (features[packed["ad_row"]] != packed[name]).any(axis=1)
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

        A request has the query fields and the user of its first row.

        Args:
            load_chunk: Returns the packed rows of a chunk.
            chunk_ends: Number of rows up to the end of each chunk.
            rows: Rows of the requests in the log, concatenated [L].
            lengths: Number of rows of each request [R].
            gathered: Result of `gather`.

        Returns:
            The number of rows for each field that varies, and the number of rows of another user.
        """
        if len(rows) == len(lengths):
            return {}, 0
        is_later = np.ones(len(rows), bool)
        is_later[np.cumsum(lengths) - lengths] = False
        request, rows = np.repeat(np.arange(len(lengths)), lengths)[is_later], rows[is_later]
        counts = {field.name: 0 for field in self._schema.query_fields}
        num_users = 0
        for chunk, own, places in by_chunk(rows, chunk_ends):
            differs = {
                name: values[places] != gathered[name][request[own]]
                for name, values in load_chunk(chunk).items()
                if records.is_per_request(name)
            }
            for field, name, places_of in _columns(self._schema, "query", self.spec.query_widths):
                counts[field.name] += int(differs[name][:, places_of].any(axis=1).sum())
            if self.spec.has_user:
                num_users += int(differs[records.USER].sum())
        return {name: count for name, count in counts.items() if count}, num_users

    def _pack_side(self, side: str, widths: tuple[str, ...], rows: Rows) -> records.Packed:
        packed = {
            f"{side}_{width}": np.empty((len(rows), len(columns)), width)
            for width, columns in records.columns_of(widths).items()
        }
        for field, name, own in _columns(self._schema, side, widths):
            packed[name][:, own] = self._encode(self._encoders[side], field, rows)
        return packed

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
        strings = rows.strings[field.name]
        missing = tf.constant(strings.fingerprints == encoding.missing_fingerprint())
        ids = encoder.encode_fingerprints(field, tf.constant(strings.fingerprints), missing).numpy()
        if field.kind == "categorical":
            width = records.narrowest(int(ids.max(initial=0)) + 1)
            return ids.astype(width)[rows.array(field.name)][:, None]
        codes, lengths = rows.lists(field.name)
        return encoding.pad(ids[codes], lengths, field.width)


def _columns(
    schema: Schema, side: str, widths: tuple[str, ...]
) -> Iterator[tuple[Field, str, slice]]:
    """Yields the fields of a side, the feature that stores each, and its columns of it."""
    groups = records.columns_of(widths)
    for field, own in encoding.columns(_stored_fields(schema, side)):
        width = widths[own.start]
        place = groups[width].index(own.start)
        yield field, f"{side}_{width}", slice(place, place + field.width)


def save(packed: records.Packed, directory: pathlib.Path) -> None:
    """Writes packed rows, whole or not at all."""
    # A conversion that was killed before it noted the chunk leaves the directory.
    shutil.rmtree(directory, ignore_errors=True)
    with files.replacing(directory) as partial:
        partial.mkdir()
        for name, values in packed.items():
            np.save(partial / f"{name}.npy", values)


def load(directory: pathlib.Path) -> records.Packed:
    """Memory-maps packed rows."""
    return {path.stem: np.load(path, mmap_mode="r") for path in directory.glob("*.npy")}


def gather(
    load_chunk: Callable[[int], records.Packed],
    chunk_ends: np.ndarray,
    rows: np.ndarray,
    lengths: np.ndarray,
) -> records.Packed:
    """Gathers requests.

    Args:
        load_chunk: Returns the packed rows of a chunk.
        chunk_ends: Number of rows up to the end of each chunk.
        rows: Rows of the requests in the log, concatenated [L].
        lengths: Number of rows of each request [R].
    """
    first_rows = rows[np.cumsum(lengths) - lengths]
    chunk_of = np.searchsorted(chunk_ends, rows, side="right")
    chunk_of_first = np.searchsorted(chunk_ends, first_rows, side="right")
    packed: records.Packed = {"list_lengths": lengths.astype(np.int32)}
    for chunk in np.unique(chunk_of).tolist():
        begin = int(chunk_ends[chunk - 1]) if chunk else 0
        for name, values in load_chunk(chunk).items():
            wanted, chunks = (
                (first_rows, chunk_of_first) if records.is_per_request(name) else (rows, chunk_of)
            )
            if name not in packed:
                packed[name] = np.empty((len(wanted), *values.shape[1:]), values.dtype)
            if len(chunks) and chunks[0] == chunk and (chunks == chunk).all():
                np.take(values, wanted - begin, axis=0, out=packed[name], mode="clip")
            else:
                own = np.flatnonzero(chunks == chunk)
                packed[name][own] = values[wanted[own] - begin]
    return packed
