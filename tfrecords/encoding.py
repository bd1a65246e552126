"""The one encoder: raw fields to rows of int32, in training and in serving.

Every field becomes int32 columns, so an example is one row and an ad is one row. The columns hold
ids or, for vectors, the bits of their values; vectors are the last columns of a side.

    categorical        0 = missing, 1..V = vocabulary by falling count, then the OOV buckets
    numeric            0 = missing, 1..T = bucket; several may share an embedding: see `fitting`
    categorical_list   as categorical, `max_list_length` columns; padded with 0
    dense              float16, two values in a column; zeros are missing: see `vectors`
    text               as dense, after its encoder: see `texts`
    history            ids of values, then age buckets, then codes of events: see `histories`

The lookup is implemented once, in TensorFlow. Conversion calls it on the distinct values of
batches of columns, and exported SavedModels call it on raw requests. Vocabulary values are looked
up by 63-bit fingerprint in a sorted vector, which needs no asset files and no table initializers
in a SavedModel.

Shapes: B rows, F columns (the sum of the fields' widths), V vocabulary size, T numeric buckets,
L values of a list, n values of a vector.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfrecords import files, histories, records, texts, vectors
from tfrecords.schema import EVENTS, NUMERIC_LIST, Field, Schema, schema_from_json

_FINGERPRINT_RANGE = 2**63 - 1
# Above all fingerprints, so that a lookup is never out of range.
_LAST_KEY = np.int64(2**63 - 1)
_TEXTS_AT_ONCE = 1024
# Encoders may round differently in another batch; what counts is the direction of a vector.
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class FieldStatistics:
    """Statistics of a field, fitted to the training rows.

    Attributes:
        vocabulary: Categorical: kept values, the most frequent first (id = index + 1).
        boundaries: Numeric: ascending float32 bucket boundaries [T - 1].
        coarse: Numeric: indices of the boundaries at which a bucket with its own embedding begins;
            empty: all.
    """

    vocabulary: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()
    coarse: tuple[int, ...] = ()

    def coarse_buckets(self) -> np.ndarray:
        """Returns the coarse bucket [T + 1] int32 of each id; 0 is missing."""
        ids = np.arange(len(self.boundaries) + 2)
        if not self.coarse:
            return ids.astype(np.int32)
        starts = 2 + np.asarray(self.coarse)
        return np.minimum(ids, 1 + np.searchsorted(starts, ids, side="right")).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class FittedSchema:
    """A schema with the statistics of its fields.

    Raises:
        ValueError: Statistics are missing for a field of the schema.
    """

    schema: Schema
    statistics: Mapping[str, FieldStatistics]

    def __post_init__(self) -> None:
        shared = {
            history.name: self.statistics[field.name]
            for history in self.schema.histories
            if (field := self.schema.values_of(history)) and field.name in self.statistics
        }
        object.__setattr__(self, "statistics", {**self.statistics, **shared})
        missing = [f.name for f in self.schema.fields if f.name not in self.statistics]
        if missing:
            raise ValueError(f"No statistics for the fields {missing}; fit the schema first.")

    def cardinality(self, field: Field) -> int:
        """Returns the number of different ids of a field, or of the values of a history."""
        statistics = self.statistics[field.name]
        if field.is_vector:
            return 2  # missing or not
        if field.is_bucketed:
            return len(statistics.boundaries) + 2
        return 1 + len(statistics.vocabulary) + field.num_oov_buckets

    def num_coarse_buckets(self, field: Field) -> int:
        """Returns the number of coarse buckets of a numeric field, including missing numbers."""
        return int(self.statistics[field.name].coarse_buckets().max()) + 1

    def without_rates(self) -> "FittedSchema":
        """Returns a copy in which all values of a rate are in one bucket."""
        statistics = dict(self.statistics)
        for field in self.schema.rates:
            field_statistics = statistics[field.name]
            coarse = (len(field_statistics.boundaries),) if field_statistics.boundaries else ()
            statistics[field.name] = dataclasses.replace(field_statistics, coarse=coarse)
        return FittedSchema(self.schema, statistics)

    def fingerprint(self) -> str:
        """Returns 16 hex digits that identify the schema and its statistics."""
        digest = hashlib.sha256(self.schema.fingerprint().encode())
        for field in fields_with_statistics(self.schema):
            statistics = self.statistics[field.name]
            digest.update(json.dumps([field.name, statistics.vocabulary]).encode())
            digest.update(np.asarray(statistics.boundaries, np.float32).tobytes())
            digest.update(np.asarray(statistics.coarse, np.int32).tobytes())
        return digest.hexdigest()[:16]

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes `encoder.json` and `vocabularies.arrow`."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        names: list[str] = []
        values: list[str] = []
        for field in fields_with_statistics(self.schema):
            vocabulary = self.statistics[field.name].vocabulary
            names.extend([field.name] * len(vocabulary))
            values.extend(vocabulary)
        table = pa.table(
            {"field": pa.array(names, pa.string()).dictionary_encode(), "value": values}
        )
        records.write_arrow(table, directory / "vocabularies.arrow")
        description = {
            "fingerprint": self.fingerprint(),
            "schema": self.schema.to_json(),
            **{
                name: {
                    f.name: list(getattr(self.statistics[f.name], name))
                    for f in self.schema.fields
                    if f.is_bucketed
                }
                for name in ("boundaries", "coarse")
            },
        }
        files.write_json(directory / "encoder.json", description)


def fields_with_statistics(schema: Schema) -> tuple[Field, ...]:
    """Returns the fields with their own statistics; a history may share a field's."""
    return tuple(field for field in schema.fields if schema.values_of(field) is None)


def load(directory: str | os.PathLike[str]) -> FittedSchema:
    """Reads the files of `FittedSchema.save`.

    Raises:
        FileNotFoundError: The directory does not contain an encoder.
        ValueError: The vocabularies do not match the fingerprint, or the schema has what this
            version does not know.
    """
    directory = pathlib.Path(directory)
    path = directory / "encoder.json"
    if not path.is_file():
        raise FileNotFoundError(f"No encoder at {path}; convert the log first.")
    description = json.loads(path.read_text())
    table = records.read_arrow(directory / "vocabularies.arrow")
    vocabularies: dict[str, list[str]] = {}
    for name, value in zip(table["field"].to_pylist(), table["value"].to_pylist(), strict=True):
        vocabularies.setdefault(name, []).append(value)
    try:
        schema = schema_from_json(description["schema"])
    except ValueError as error:
        raise ValueError(
            f"{path}: {error} Another version of tfrec wrote it. Convert the log again."
        ) from error
    statistics = {
        field.name: FieldStatistics(
            tuple(vocabularies.get(field.name, ())),
            tuple(description["boundaries"].get(field.name, ())),
            tuple(description["coarse"].get(field.name, ())),
        )
        for field in fields_with_statistics(schema)
    }
    fitted = FittedSchema(schema, statistics)
    if fitted.fingerprint() != description["fingerprint"]:
        raise ValueError(
            f"{directory}: the vocabularies have fingerprint {fitted.fingerprint()}; encoder.json "
            f"expects {description['fingerprint']}. Convert the log again."
        )
    return fitted


class Encoder(tf.Module):
    """Encodes raw columns of some fields of a fitted schema.

    Args:
        fitted: The fitted schema.
        fields: Fields to encode, in the order of the output's columns.

    Raises:
        ValueError: Two vocabulary values of a field share a fingerprint, or the encoder of a text
            field cannot be used.
    """

    def __init__(self, fitted: FittedSchema, fields: Sequence[Field]) -> None:
        super().__init__(name="encoder")
        self.fields = tuple(fields)
        self._strings = [f for f in fields if not f.is_bucketed and not f.is_vector]
        self._texts = {f.name: texts.encoder_of(f) for f in fields if f.kind == "text"}
        self._numeric = [field for field in fields if field.is_bucketed]
        vocabularies = [fitted.statistics[field.name].vocabulary for field in self._strings]
        self._salts = np.array([_salt(field.name) for field in self._strings], np.int64)
        self._num_oov = np.array([f.num_oov_buckets for f in self._strings], np.int64)
        self._first_oov = np.array([1 + len(v) for v in vocabularies], np.int64)
        self._keys, self._ids = _sorted_keys(self._strings, vocabularies, self._salts)
        boundaries = [fitted.statistics[field.name].boundaries for field in self._numeric]
        # No number reaches an infinite boundary, so these pad shorter rows.
        longest = max(map(len, boundaries), default=0)
        self._boundaries = np.full((len(boundaries), longest), np.inf, np.float32)
        for row, values in zip(self._boundaries, boundaries, strict=True):
            row[: len(values)] = values
        self._last_bucket = np.array([1 + len(values) for values in boundaries], np.int32)

    def __call__(self, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Encodes raw columns.

        Args:
            columns: Raw input to [B] float32 (NaN is missing), [B] string ("" is missing), for a
                list [B, L] string (padded with "") or float32 (NaN is missing), or for a dense
                field [B, n] float32 (zeros are missing).

        Returns:
            [B, F] int32, in the order of the fields.
        """
        parts: dict[Field, tf.Tensor] = {}
        scalars = [field for field in self._strings if field.kind == "categorical"]
        for fields, look_up in (
            (scalars, self._look_up_strings),
            (self._numeric, self._look_up_numbers),
        ):
            if fields:
                stacked = look_up(tf.stack([columns[f.name] for f in fields], axis=1), fields)
                parts.update(zip(fields, tf.split(stacked, len(fields), axis=1), strict=True))
        for field in self.fields:
            if field.is_vector:
                parts[field] = self.encode_vectors(field, columns[field.name])
            elif field.is_list:
                parts[field] = self._encode_list(field, columns)
        return tf.concat([parts[field] for field in self.fields], axis=1)

    def _encode_list(self, field: Field, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Encodes a list, or a history with its ages and events, as [B, width] int32."""
        ids = self._look_up_strings(columns[field.name], [field])
        parts, length = [ids], tf.shape(ids)[1]
        if field.kind == "history":
            parts.append(_fit_length(_age_buckets(columns[field.age_input]), length))
        if field.event_input in field.inputs:
            parts.append(_fit_length(_event_codes(columns[field.event_input]), length))
        return _last_values(tf.stack(parts, axis=-1), field.list_length)

    def encode_column(self, field: Field, values: tf.Tensor) -> tf.Tensor:
        """Encodes a column of numbers or of strings.

        Args:
            field: Field of the encoder.
            values: [B] float32 (NaN is missing) or string ("" is missing).

        Returns:
            [B] int32 ids.
        """
        look_up = self._look_up_numbers if field.is_bucketed else self._look_up_strings
        return look_up(values[:, None], [field])[:, 0]

    def encode_vectors(self, field: Field, values: tf.Tensor) -> tf.Tensor:
        """Encodes a vector field, [B, n] float32 or [B] string of a text, as [B, width] int32."""
        if values.dtype == tf.string:
            values = self._text_vectors(field, values)
        return vectors.encode(tf.ensure_shape(values, [None, field.length]))

    def _text_vectors(self, field: Field, strings: tf.Tensor) -> tf.Tensor:
        """Returns the vectors [B, n] float32 of texts [B], zeros for missing ones."""
        encoded = self._texts[field.name].encode(strings)
        return tf.where(tf.equal(strings, "")[:, None], 0.0, encoded)

    def encode_fingerprints(
        self, field: Field, fingerprints: tf.Tensor, missing: tf.Tensor
    ) -> tf.Tensor:
        """Encodes strings of a field, given their fingerprints [B] and which are missing [B]."""
        return self._look_up_fingerprints(fingerprints[:, None], missing[:, None], [field])[:, 0]

    def _look_up_strings(self, values: tf.Tensor, fields: Sequence[Field]) -> tf.Tensor:
        """Encodes strings [B, n] of n fields, or [B, L] of a list field."""
        return self._look_up_fingerprints(fingerprint(values), tf.equal(values, ""), fields)

    def _look_up_fingerprints(
        self, fingerprints: tf.Tensor, missing: tf.Tensor, fields: Sequence[Field]
    ) -> tf.Tensor:
        indices = [self._strings.index(field) for field in fields]
        keys = tf.bitwise.bitwise_xor(fingerprints, self._salts[indices])
        found = tf.searchsorted(self._keys, tf.reshape(keys, [-1]), side="left")
        found = tf.reshape(found, tf.shape(keys))
        oov = tf.cast(self._first_oov[indices] + fingerprints % self._num_oov[indices], tf.int32)
        known = tf.equal(tf.gather(self._keys, found), keys)
        ids = tf.where(known, tf.gather(self._ids, found), oov)
        return tf.where(missing, 0, ids)

    def _look_up_numbers(self, values: tf.Tensor, fields: Sequence[Field]) -> tf.Tensor:
        """Encodes numbers [B, n] of n numeric fields."""
        indices = [self._numeric.index(field) for field in fields]
        by_field = tf.transpose(values)
        buckets = 1 + tf.searchsorted(self._boundaries[indices], by_field, side="right")
        # An infinite number reaches the boundaries that pad rows.
        buckets = tf.minimum(buckets, self._last_bucket[indices, None])
        return tf.transpose(tf.where(tf.math.is_nan(by_field), 0, buckets))

    def encode_table(self, table: pa.Table) -> np.ndarray:
        """Encodes Arrow columns; each distinct string is encoded once.

        Args:
            table: A column per field, named after it: strings, numbers, lists of strings, or lists
                of numbers; null is missing.

        Returns:
            [B, F] int32.
        """
        parts = [self._encode_arrow(field, table[field.name]) for field in self.fields]
        return np.concatenate(parts, axis=1)

    def _encode_arrow(self, field: Field, column: pa.ChunkedArray) -> np.ndarray:
        if field.kind == "numeric":
            numbers = column.cast(pa.float32()).to_numpy()
            return self.encode_column(field, tf.constant(numbers, tf.float32)).numpy()[:, None]
        if field.kind == "dense":
            assert field.length is not None
            values = vectors.from_arrow(column.combine_chunks(), field.length)
            return self.encode_vectors(field, tf.constant(values)).numpy()
        if field.kind == "categorical_list":
            lists = column.combine_chunks()
            lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
            return pad(self._encode_distinct(field, lists.flatten()), lengths, field.width)
        encoded = self._encode_distinct(field, column.combine_chunks())
        return encoded if field.is_vector else encoded[:, None]

    def _encode_distinct(self, field: Field, values: pa.Array) -> np.ndarray:
        encoded = values.dictionary_encode()
        distinct = encoded.dictionary.to_numpy(zero_copy_only=False)
        indices = encoded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
        strings = np.append(distinct, "").astype(object)
        if field.is_vector:
            return self.encode_texts(field, strings)[indices]
        return self.encode_column(field, tf.constant(strings, tf.string)).numpy()[indices]

    def encode_texts(self, field: Field, strings: np.ndarray) -> np.ndarray:
        """Encodes strings [V] of a text field as [V, width] int32, in batches.

        Raises:
            ValueError: A vector is not finite, or depends on the other texts of its batch.
        """
        where = f"Field {field.name!r}: the text encoder {field.encoder!r}"
        parts = [np.empty((0, field.width), np.int32)]
        for start in range(0, len(strings), _TEXTS_AT_ONCE):
            texts = strings[start : start + _TEXTS_AT_ONCE]
            values = self._text_vectors(field, tf.constant(texts, tf.string)).numpy()
            for row in np.flatnonzero(~np.isfinite(values).all(axis=1)):
                wrong = values[row][~np.isfinite(values[row])][0]
                raise ValueError(
                    f"{where} returns a vector with {wrong} for {texts[row]!r}; expected finite "
                    "numbers. Return zeros for a text without a vector."
                )
            for row in np.flatnonzero(texts != "")[: start == 0]:
                alone = self._text_vectors(field, tf.constant(texts[[row]], tf.string)).numpy()[0]
                difference = abs(alone - values[row]).max()
                if difference > _TOLERANCE * abs(alone).max():
                    raise ValueError(
                        f"{where} returns a vector for {texts[row]!r} that changes by "
                        f"{difference:.3g} if other texts are in the batch. Encode each text "
                        "independently of the others."
                    )
            parts.append(self.encode_vectors(field, tf.constant(values)).numpy())
        return np.concatenate(parts)


def fingerprint(values: tf.Tensor) -> tf.Tensor:
    """Returns 63-bit fingerprints of strings, by which values are identified."""
    return tf.strings.to_hash_bucket_fast(values, _FINGERPRINT_RANGE)


@functools.cache
def missing_fingerprint() -> int:
    """Returns the fingerprint of "", the missing value."""
    return int(fingerprint(tf.constant("")).numpy())


def pad(ids: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """Returns concatenated lists of ids, of these lengths [B], as rows [B, width] int32.

    A row has the last values of its list, padded with 0.
    """
    present = ids != 0
    if not present.all():
        lengths = np.bincount(
            np.repeat(np.arange(len(lengths)), lengths)[present], None, len(lengths)
        )
        ids = ids[present]
    ends = np.cumsum(lengths)
    kept = np.minimum(lengths, width)
    rows = np.repeat(np.arange(len(lengths)), kept)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(kept) - kept, kept)
    padded = np.zeros((len(lengths), width), np.int32)
    padded[rows, columns] = ids[np.repeat(ends - kept, kept) + columns]
    return padded


def _last_values(parts: tf.Tensor, length: int) -> tf.Tensor:
    """Keeps the last values of lists of P parts each.

    Args:
        parts: [B, L, P] int32; a value is missing if its first part is 0.
        length: Number of values to keep of each list.

    Returns:
        [B, P * length] int32, the first parts first; padded with 0.
    """
    lists = tf.ragged.boolean_mask(parts, parts[..., 0] != 0)
    lengths = lists.row_lengths()
    kept = tf.minimum(lengths, tf.cast(length, lengths.dtype))
    ends = lists.row_splits[1:]
    taken = tf.ragged.range(ends - kept, ends)
    num_parts = parts.shape[-1]
    padded = tf.gather(lists.flat_values, taken).to_tensor(0, shape=[None, length, num_parts])
    return tf.reshape(tf.transpose(padded, [0, 2, 1]), [-1, num_parts * length])


def _age_buckets(seconds: tf.Tensor) -> tf.Tensor:
    """Returns the same as `histories.age_buckets`, in TensorFlow and as int32."""
    missing = tf.math.is_nan(seconds)
    ages = tf.maximum(tf.where(missing, 0.0, seconds), 0.0)
    bits = tf.bitwise.right_shift(tf.bitcast(ages, tf.int32), histories.DROPPED_BITS)
    last = histories.NUM_AGE_BUCKETS - 1
    return tf.where(missing, 0, tf.clip_by_value(bits - histories.FIRST_BITS, 1, last))


def _fit_length(codes: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Cuts or pads codes [B, L] with 0 to a length: requests may lack ages and events."""
    lacking = tf.maximum(length - tf.shape(codes)[1], 0)
    return tf.pad(codes, [[0, 0], [0, lacking]])[:, :length]


def _event_codes(kinds: tf.Tensor) -> tf.Tensor:
    """Returns the codes, int32, of kinds of events; 0 for others."""
    is_kind = tf.cast(tf.equal(kinds[..., None], tf.constant(EVENTS)), tf.int32)
    return tf.reduce_sum(is_kind * tf.range(1, 1 + len(EVENTS)), axis=-1)


def _salt(name: str) -> int:
    """Returns a 63-bit number that distinguishes a field's keys from other fields'."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def _sorted_keys(
    fields: Sequence[Field], vocabularies: Sequence[Sequence[str]], salts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted keys of all vocabulary values [V + 1] and their ids."""
    keys, ids = [np.array([_LAST_KEY])], [np.array([0])]
    for field, vocabulary, salt in zip(fields, vocabularies, salts, strict=True):
        if vocabulary:
            values = tf.constant(list(vocabulary), tf.string)
            fingerprints = fingerprint(values).numpy()
            if (np.diff(np.sort(fingerprints)) == 0).any():
                raise ValueError(
                    f"Field {field.name!r}: two vocabulary values share a 63-bit fingerprint. "
                    "Drop one of them or lower max_vocabulary_size."
                )
            keys.append(fingerprints ^ salt)
            ids.append(np.arange(1, len(vocabulary) + 1))
    joined = np.concatenate(keys)
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate(ids)[order].astype(np.int32)


def input_signature(fields: Sequence[Field]) -> dict[str, tf.TensorSpec]:
    """Returns the raw-input tensor specs of fields, by name.

    Numbers are [B] float32, vectors [B, n] float32, strings [B], and lists [B, L] string or
    float32.
    """
    specs = {}
    for field in fields:
        for name, kind in field.inputs.items():
            inner: list[int | None] = []
            if kind in ("categorical_list", NUMERIC_LIST, "dense"):
                inner = [field.length]  # A list has none: it may be of any length.
            is_number = kind in ("numeric", NUMERIC_LIST, "dense")
            dtype = tf.float32 if is_number else tf.string
            specs[name] = tf.TensorSpec([None, *inner], dtype, name=name)
    return specs


def columns(fields: Iterable[Field]) -> Iterator[tuple[Field, slice]]:
    """Yields fields and their columns, in order."""
    first = 0
    for field in fields:
        yield field, slice(first, first + field.width)
        first += field.width


def value_columns(fields: Iterable[Field]) -> Iterator[tuple[Field, slice]]:
    """Yields fields and the columns of their values (for a history, only of the ids), in order."""
    for field, span in columns(fields):
        yield field, span if field.kind != "history" else history_columns(field, span).values


@dataclasses.dataclass(frozen=True)
class HistoryColumns:
    """The columns of an encoded history: parts of `max_length` columns, padded with 0 at the end.

    Attributes:
        values: Ids of the values, oldest first; ids of the field `Schema.values_of`, if any.
        ages: Buckets of the ages, see `histories.age_buckets`; 0 is missing.
        events: Codes of the events, 1 + the index in `schema.EVENTS`, 0 is missing; None if the
            history lists one kind of event.
    """

    values: slice
    ages: slice
    events: slice | None


def history_columns(field: Field, span: slice) -> HistoryColumns:
    """Returns the columns of a history's parts, given all its columns (from `columns`)."""
    starts = range(span.start, span.stop, field.max_length)
    parts = [slice(start, start + field.max_length) for start in starts]
    return HistoryColumns(parts[0], parts[1], parts[2] if len(parts) > 2 else None)


def width(fields: Sequence[Field]) -> int:
    """Returns the number of columns of fields."""
    return sum(field.width for field in fields)
