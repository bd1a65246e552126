"""The one encoder: raw fields to integer ids, in training and in serving.

Every field becomes one int32 id, so an example is a row of ids and an ad is a row of ids.

    categorical   0 = missing, 1..V = vocabulary by falling count, then the OOV buckets
    numeric       0 = missing, 1..T = quantile bucket

The look-up is written in TensorFlow once. The converter calls it on the distinct
values of whole column batches; the exported SavedModels call it on raw requests.
Vocabulary values are looked up by 63-bit fingerprint in a sorted vector, which needs
neither asset files nor table initialisers in a SavedModel.

Shapes: B rows, F fields, V vocabulary size, T numeric buckets.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfrecords import arrow_file
from tfrecords import schema as schema_lib

_FINGERPRINT_RANGE = 2**63 - 1
# Above every fingerprint, so that a look-up is never out of range.
_LAST_KEY = np.int64(2**63 - 1)


@dataclasses.dataclass(frozen=True)
class FieldStatistics:
    """What fitting learns of one field from the training rows.

    Attributes:
        vocabulary: Categorical: kept values, the most frequent first (id = index + 1).
        boundaries: Numeric: rising float32 bucket boundaries [T - 1].
    """

    vocabulary: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class FittedSchema:
    """A schema with the statistics of its fields.

    Raises:
        ValueError: Statistics are missing for a field of the schema.
    """

    schema: schema_lib.Schema
    statistics: Mapping[str, FieldStatistics]

    def __post_init__(self) -> None:
        missing = [f.name for f in self.schema.fields if f.name not in self.statistics]
        if missing:
            raise ValueError(f"No statistics for the fields {missing}; fit the schema first.")

    def cardinality(self, field: schema_lib.Field) -> int:
        """Returns the number of ids that `field` is encoded into."""
        statistics = self.statistics[field.name]
        if field.kind == "numeric":
            return len(statistics.boundaries) + 2
        return 1 + len(statistics.vocabulary) + field.num_oov_buckets

    def fingerprint(self) -> str:
        """Returns 16 hex digits over the schema and everything fitted."""
        digest = hashlib.sha256(self.schema.fingerprint().encode())
        for field in self.schema.fields:
            statistics = self.statistics[field.name]
            digest.update(json.dumps([field.name, statistics.vocabulary]).encode())
            digest.update(np.asarray(statistics.boundaries, np.float32).tobytes())
        return digest.hexdigest()[:16]

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes `encoder.json` and `vocabularies.arrow`."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        names: list[str] = []
        values: list[str] = []
        for field in self.schema.fields:
            vocabulary = self.statistics[field.name].vocabulary
            names.extend([field.name] * len(vocabulary))
            values.extend(vocabulary)
        table = pa.table(
            {"field": pa.array(names, pa.string()).dictionary_encode(), "value": values}
        )
        arrow_file.write(table, directory / "vocabularies.arrow")
        description = {
            "fingerprint": self.fingerprint(),
            "schema": self.schema.to_json(),
            "boundaries": {
                f.name: list(self.statistics[f.name].boundaries)
                for f in self.schema.fields
                if f.kind == "numeric"
            },
        }
        (directory / "encoder.json").write_text(json.dumps(description, indent=1) + "\n")


def load(directory: str | os.PathLike[str]) -> FittedSchema:
    """Reads what `FittedSchema.save` wrote.

    Raises:
        FileNotFoundError: There is no encoder in the directory.
        ValueError: The vocabularies are not those that the fingerprint was taken over.
    """
    directory = pathlib.Path(directory)
    path = directory / "encoder.json"
    if not path.is_file():
        raise FileNotFoundError(f"No encoder at {path}; convert the log first.")
    description = json.loads(path.read_text())
    table = arrow_file.read(directory / "vocabularies.arrow")
    vocabularies: dict[str, list[str]] = {}
    for name, value in zip(table["field"].to_pylist(), table["value"].to_pylist(), strict=True):
        vocabularies.setdefault(name, []).append(value)
    schema = schema_lib.from_json(description["schema"])
    statistics = {
        field.name: FieldStatistics(
            tuple(vocabularies.get(field.name, ())),
            tuple(description["boundaries"].get(field.name, ())),
        )
        for field in schema.fields
    }
    fitted = FittedSchema(schema, statistics)
    if fitted.fingerprint() != description["fingerprint"]:
        raise ValueError(
            f"{directory}: the vocabularies give fingerprint {fitted.fingerprint()}, but "
            f"encoder.json says {description['fingerprint']}; convert the log again."
        )
    return fitted


class Encoder(tf.Module):
    """Encodes raw columns of some fields of a fitted schema.

    Args:
        fitted: The fitted schema.
        fields: The fields to encode, in the order of the output's columns.

    Raises:
        ValueError: Two vocabulary values of a field share a fingerprint.
    """

    def __init__(self, fitted: FittedSchema, fields: Sequence[schema_lib.Field]) -> None:
        super().__init__(name="encoder")
        self.fields = tuple(fields)
        self._categorical = [field for field in fields if field.kind == "categorical"]
        self._numeric = [field for field in fields if field.kind == "numeric"]
        in_parts = [*self._categorical, *self._numeric]
        self._order = [in_parts.index(field) for field in self.fields]
        vocabularies = [fitted.statistics[field.name].vocabulary for field in self._categorical]
        self._salts = np.array([_salt(field.name) for field in self._categorical], np.int64)
        self._num_oov = np.array([f.num_oov_buckets for f in self._categorical], np.int64)
        self._first_oov = np.array([1 + len(v) for v in vocabularies], np.int64)
        self._keys, self._ids = _sorted_keys(self._categorical, vocabularies, self._salts)
        boundaries = [fitted.statistics[field.name].boundaries for field in self._numeric]
        # No number reaches an infinite boundary, so shorter rows are filled up with them.
        longest = max(map(len, boundaries), default=0)
        self._boundaries = np.full((len(boundaries), longest), np.inf, np.float32)
        for row, values in zip(self._boundaries, boundaries, strict=True):
            row[: len(values)] = values

    def __call__(self, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Encodes columns [B] of every field to ids [B, F] int32.

        All fields of a kind are looked up together: a request is a few operations, not a few
        for each field.
        """
        parts = []
        for fields, look_up in (
            (self._categorical, self._look_up_strings),
            (self._numeric, self._look_up_numbers),
        ):
            if fields:
                stacked = tf.stack([columns[field.name] for field in fields], axis=1)
                parts.append(look_up(stacked, slice(None)))
        return tf.gather(tf.concat(parts, axis=1), self._order, axis=1)

    def encode_column(self, field: schema_lib.Field, values: tf.Tensor) -> tf.Tensor:
        """Encodes one column.

        Args:
            field: One of the encoder's fields.
            values: [B] float32 (NaN is missing) or string ("" is missing).

        Returns:
            [B] int32 ids.
        """
        if field.kind == "numeric":
            fields, look_up = self._numeric, self._look_up_numbers
        else:
            fields, look_up = self._categorical, self._look_up_strings
        place = fields.index(field)
        return look_up(values[:, None], slice(place, place + 1))[:, 0]

    def _look_up_strings(self, values: tf.Tensor, fields: slice) -> tf.Tensor:
        """Encodes strings [B, n] of n categorical fields."""
        fingerprints = tf.strings.to_hash_bucket_fast(values, _FINGERPRINT_RANGE)
        keys = tf.bitwise.bitwise_xor(fingerprints, self._salts[fields])
        slots = tf.searchsorted(self._keys, tf.reshape(keys, [-1]), side="left")
        slots = tf.reshape(slots, tf.shape(keys))
        oov = tf.cast(self._first_oov[fields] + fingerprints % self._num_oov[fields], tf.int32)
        known = tf.equal(tf.gather(self._keys, slots), keys)
        ids = tf.where(known, tf.gather(self._ids, slots), oov)
        return tf.where(tf.equal(values, ""), 0, ids)

    def _look_up_numbers(self, values: tf.Tensor, fields: slice) -> tf.Tensor:
        """Encodes numbers [B, n] of n numeric fields."""
        by_field = tf.transpose(values)
        buckets = 1 + tf.searchsorted(self._boundaries[fields], by_field, side="right")
        return tf.transpose(tf.where(tf.math.is_nan(by_field), 0, buckets))

    def encode_table(self, table: pa.Table) -> np.ndarray:
        """Encodes Arrow columns, each distinct string once.

        Args:
            table: Has a column per field: strings, or numbers; null is missing.

        Returns:
            [B, F] int32 ids.
        """
        encoded = np.empty((table.num_rows, len(self.fields)), np.int32)
        for index, field in enumerate(self.fields):
            encoded[:, index] = self._encode_arrow(field, table[field.name])
        return encoded

    def _encode_arrow(self, field: schema_lib.Field, column: pa.ChunkedArray) -> np.ndarray:
        if field.kind == "numeric":
            numbers = column.cast(pa.float32()).to_numpy()
            return self.encode_column(field, tf.constant(numbers, tf.float32)).numpy()
        encoded = column.combine_chunks().dictionary_encode()
        values = encoded.dictionary.to_numpy(zero_copy_only=False)
        indices = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
        distinct = tf.constant(np.append(values, "").astype(object), tf.string)
        return self.encode_column(field, distinct).numpy()[indices]


def _salt(name: str) -> int:
    """Returns a 63-bit number that keeps a field's keys apart from other fields'."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def _sorted_keys(
    fields: Sequence[schema_lib.Field], vocabularies: Sequence[Sequence[str]], salts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rising keys of all vocabulary values [V + 1], and their ids."""
    keys, ids = [np.array([_LAST_KEY])], [np.array([0])]
    for field, vocabulary, salt in zip(fields, vocabularies, salts, strict=True):
        if vocabulary:
            values = tf.constant(list(vocabulary), tf.string)
            fingerprints = tf.strings.to_hash_bucket_fast(values, _FINGERPRINT_RANGE).numpy()
            if len(np.unique(fingerprints)) != len(fingerprints):
                raise ValueError(
                    f"Field {field.name!r}: two vocabulary values share a 63-bit fingerprint; "
                    "drop one of them or lower max_vocabulary_size."
                )
            keys.append(fingerprints ^ salt)
            ids.append(np.arange(1, len(vocabulary) + 1))
    joined = np.concatenate(keys)
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate(ids)[order].astype(np.int32)


def input_signature(fields: Sequence[schema_lib.Field]) -> dict[str, tf.TensorSpec]:
    """Returns the raw-input tensor specs ([B] string or float32) of fields, by name."""
    return {
        field.name: tf.TensorSpec(
            [None], tf.float32 if field.kind == "numeric" else tf.string, name=field.name
        )
        for field in fields
    }
