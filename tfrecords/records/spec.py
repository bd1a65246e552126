"""The record format: many requests per `tf.train.Example`, as flat raw columns.

One specification drives writer and reader. A record holds R requests with L shown ads in total;
each feature is one bytes value, little-endian:

    list_lengths   [R] int32          shown ads of each request
    query_W        [R, F_W]           query-side ids that fit the unsigned width W
    ad_W           [L, F_W]           ad-side ids that fit the unsigned width W; vectors of ads are
                                      only in the catalog
    order          [R] int64          ascends with the time of the request or, in a log without
                                      times, in the order of the log
    user           [R] int64          fingerprint of the user key, if the schema has one
    ad_row         [L] int32          row of the ad in the catalog
    click, engagement [L] uint8, revenue [L] float32    the labels of the log (`LABELS`); 255 or
                                      NaN is missing
    position       [L] int32          position at which the ad was shown, if logged

Raw bytes can be concatenated, so reading many records takes one join and one decode per feature.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfrecords.schema import LABELS, MISSING_LABEL

WIDTHS = ("uint8", "uint16", "int32")
USER, ORDER = "user", "order"
LABEL_TYPES = {name: "float32" if label.is_amount else "uint8" for name, label in LABELS.items()}


def narrowest(cardinality: int) -> str:
    """Returns the narrowest stored type for ids 0..cardinality - 1."""
    return next(w for w in WIDTHS if cardinality - 1 <= np.iinfo(w).max)


@dataclasses.dataclass(frozen=True)
class Spec:
    """Content of a record.

    Attributes:
        query_widths: Stored type of each query-side column.
        ad_widths: Stored type of each ad-side column of ids.
        labels: Labels of the log, of `schema.LABELS`.
        has_position: Whether the position is stored.
        has_user: Whether the user is stored.
        has_order: Whether the order is stored.
        num_ad_vector_columns: Number of columns Va of the ads' vectors, which the catalog has.
    """

    query_widths: tuple[str, ...]
    ad_widths: tuple[str, ...]
    labels: tuple[str, ...]
    has_position: bool
    has_user: bool = False
    num_ad_vector_columns: int = 0
    has_order: bool = True

    def per_ad(self) -> dict[str, str]:
        """Returns the names and types of the features with one value per shown ad."""
        position = {"position": "int32"} if self.has_position else {}
        return {"ad_row": "int32", **{name: LABEL_TYPES[name] for name in self.labels}, **position}

    def per_request(self) -> dict[str, str]:
        """Returns the names and types of the features with one value per request."""
        stored = {USER: self.has_user, ORDER: self.has_order}
        numbers = {name: "int64" for name, is_stored in stored.items() if is_stored}
        return {"list_lengths": "int32", **numbers}


# Requests as the arrays of a record's features, by name.
Packed = dict[str, np.ndarray]


def columns_of(widths: Sequence[str]) -> dict[str, list[int]]:
    """Returns the columns of ids of each stored width."""
    grouped = {w: [i for i, column_width in enumerate(widths) if column_width == w] for w in WIDTHS}
    return {width: columns for width, columns in grouped.items() if columns}


def pack(side: str, widths: Sequence[str], ids: np.ndarray) -> Packed:
    """Returns ids [B, F] of a side as the features that store them."""
    return {
        f"{side}_{width}": ids[:, columns].astype(width)
        for width, columns in columns_of(widths).items()
    }


def serialize(requests: Packed) -> bytes:
    """Serializes requests as one record."""
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[values.tobytes()]))
        for name, values in requests.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(
        deterministic=True
    )


def decode(spec: Spec, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Reads records [N] in the stored types: features by name; a side's are [R or L, F_W]."""
    names = {**spec.per_request(), **spec.per_ad()}
    columns = {}
    for side, widths in (("query", spec.query_widths), ("ad", spec.ad_widths)):
        for width, indices in columns_of(widths).items():
            names[f"{side}_{width}"] = width
            columns[f"{side}_{width}"] = len(indices)
    raw = tf.io.parse_example(serialized, {n: tf.io.FixedLenFeature([], tf.string) for n in names})
    decoded = {
        name: tf.io.decode_raw(tf.strings.reduce_join(raw[name], axis=0), tf.as_dtype(dtype))
        for name, dtype in names.items()
    }
    for name, count in columns.items():
        decoded[name] = tf.reshape(decoded[name], [-1, count])
    return decoded


def unpack(
    spec: Spec, stored: Mapping[str, tf.Tensor], ad_vectors: tf.Tensor | None = None
) -> dict[str, tf.Tensor]:
    """Converts stored features to the types of models.

    Args:
        spec: Content of the records.
        stored: Features, from `decode`.
        ad_vectors: Columns of vectors [N, Va] int32 of the catalog's ads; None: no vectors.

    Returns:
        `list_lengths` [R] int32, `query` [R, Fq] int32, `ad` [L, Fa] int32, and each per-ad
        feature [L]; labels are float32, NaN is missing. Users and the order are omitted.
    """
    unpacked = {"list_lengths": stored["list_lengths"], **unpack_sides(spec, stored, ad_vectors)}
    for name, dtype in spec.per_ad().items():
        unpacked[name] = stored[name]
        if name in spec.labels:
            unpacked[name] = tf.cast(stored[name], tf.float32)
            if dtype == "uint8":
                missing = stored[name] == MISSING_LABEL
                unpacked[name] = tf.where(missing, float("nan"), unpacked[name])
    return unpacked


def unpack_sides(
    spec: Spec, stored: Mapping[str, tf.Tensor], ad_vectors: tf.Tensor | None = None
) -> dict[str, tf.Tensor]:
    """Returns `query` [R, Fq] and `ad` [L, Fa], both int32.

    The arguments are the same as for `unpack`.
    """
    query, ad = (
        _unpack_side(side, widths, stored)
        for side, widths in (("query", spec.query_widths), ("ad", spec.ad_widths))
    )
    if ad_vectors is not None:
        ad.append(tf.gather(ad_vectors, stored["ad_row"]))
    return {"query": tf.concat(query, axis=1), "ad": tf.concat(ad, axis=1)}


def _unpack_side(
    side: str, widths: Sequence[str], stored: Mapping[str, tf.Tensor]
) -> list[tf.Tensor]:
    """Returns runs of the columns [B, F] of all widths, in order."""
    groups = {w: tf.cast(stored[f"{side}_{w}"], tf.int32) for w in columns_of(widths)}
    taken = dict.fromkeys(groups, 0)
    parts = []
    # Adjacent columns of one width are copied at once: a gather would copy each by itself.
    for width, run in itertools.groupby(widths):
        first, last = taken[width], taken[width] + len(list(run))
        parts.append(groups[width][:, first:last])
        taken[width] = last
    return parts
