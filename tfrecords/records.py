"""The record format: many requests per `tf.train.Example`, as flat raw columns.

One specification drives writer and reader. A record holds R requests with L shown ads
in all; every feature is one bytes value, little-endian:

    list_lengths   [R] int32          shown ads of each request
    query_W        [R, F_W]           query-side ids that fit the unsigned width W
    ad_W           [L, F_W]           ad-side ids that fit the unsigned width W
    ad_row         [L] int32          row of the ad in the catalogue
    click, engagement [L] uint8, revenue [L] float32    the labels that the log has; 255 or
                                      NaN is missing
    position       [L] int32          slot the ad was shown in, where the log has it

Raw bytes concatenate, so reading many records is one join and one decode per feature.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

WIDTHS = ("uint8", "uint16", "int32")
MISSING_LABEL = 255
LABEL_TYPES = {"click": "uint8", "engagement": "uint8", "revenue": "float32"}


def narrowest(cardinality: int) -> str:
    """Returns the narrowest stored type for ids 0..cardinality - 1."""
    return next(w for w in WIDTHS if cardinality - 1 <= np.iinfo(w).max)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a record holds.

    Attributes:
        query_widths: Stored type of each query-side column of ids.
        ad_widths: Stored type of each ad-side column of ids.
        labels: Labels present, of `click`, `engagement`, `revenue`.
        has_position: Whether the slot is stored.
    """

    query_widths: tuple[str, ...]
    ad_widths: tuple[str, ...]
    labels: tuple[str, ...]
    has_position: bool

    def per_ad(self) -> dict[str, str]:
        """Names and types of the features with one value per shown ad."""
        position = {"position": "int32"} if self.has_position else {}
        return {"ad_row": "int32", **{name: LABEL_TYPES[name] for name in self.labels}, **position}

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def spec_from_json(value: Mapping) -> Spec:
    """The inverse of `Spec.to_json`."""
    return Spec(
        tuple(value["query_widths"]),
        tuple(value["ad_widths"]),
        tuple(value["labels"]),
        bool(value["has_position"]),
    )


# Requests as the arrays of a record's features, by name.
Packed = dict[str, np.ndarray]


def columns_of(widths: Sequence[str]) -> dict[str, list[int]]:
    """Returns the columns of ids stored in each width that is used."""
    grouped = {w: [i for i, own in enumerate(widths) if own == w] for w in WIDTHS}
    return {width: columns for width, columns in grouped.items() if columns}


def pack(side: str, widths: Sequence[str], ids: np.ndarray) -> Packed:
    """Returns ids [B, F] of a side as the features that store them."""
    return {
        f"{side}_{width}": ids[:, columns].astype(width)
        for width, columns in columns_of(widths).items()
    }


def serialize(requests: Packed) -> bytes:
    """Serialises requests as one record."""
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[values.tobytes()]))
        for name, values in requests.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(
        deterministic=True
    )


def parse(spec: Spec, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses records [N] into one run of requests.

    Returns:
        `list_lengths` [R] int32, `query` [R, Fq] int32, `ad` [L, Fa] int32, and each
        per-ad feature [L]; labels are float32, NaN is missing.
    """
    names = {"list_lengths": "int32", **spec.per_ad()}
    for side, widths in (("query", spec.query_widths), ("ad", spec.ad_widths)):
        names.update({f"{side}_{width}": width for width in columns_of(widths)})
    raw = tf.io.parse_example(serialized, {n: tf.io.FixedLenFeature([], tf.string) for n in names})
    decoded = {
        name: tf.io.decode_raw(tf.strings.reduce_join(raw[name]), tf.as_dtype(dtype))
        for name, dtype in names.items()
    }
    parsed = {"list_lengths": decoded["list_lengths"]}
    parsed["query"] = _unpack("query", spec.query_widths, decoded)
    parsed["ad"] = _unpack("ad", spec.ad_widths, decoded)
    for name, dtype in spec.per_ad().items():
        parsed[name] = decoded[name]
        if name in spec.labels:
            parsed[name] = tf.cast(decoded[name], tf.float32)
            if dtype == "uint8":
                missing = decoded[name] == MISSING_LABEL
                parsed[name] = tf.where(missing, float("nan"), parsed[name])
    return parsed


def _unpack(side: str, widths: Sequence[str], decoded: Mapping[str, tf.Tensor]) -> tf.Tensor:
    groups, order = [], []
    for width, columns in columns_of(widths).items():
        flat = tf.cast(decoded[f"{side}_{width}"], tf.int32)
        groups.append(tf.reshape(flat, [-1, len(columns)]))
        order.extend(columns)
    if order == list(range(len(widths))):
        return tf.concat(groups, axis=1)
    return tf.gather(tf.concat(groups, axis=1), np.argsort(order), axis=1)
