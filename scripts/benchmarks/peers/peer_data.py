"""The rows and features that the peers of the ranker are trained on.

They are the encoded ids of the ranker's splits, with one row per shown ad: the query ids of a
request are repeated for each of its ads. If the log has positions, the position of the ad is
another field.

Shapes: L shown ads of a split, W columns of ids (one per field, `max_list_length` per list).
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from serving import cli  # noqa: F401  (imported first: it selects Keras 2 and quiets TensorFlow)
from tfrecords import encoding, reader
from tfrecords.splits import SPLITS

POSITION = "position"
MAX_POSITIONS = 64


@dataclasses.dataclass(frozen=True)
class PeerField:
    """A field and its columns of ids.

    Attributes:
        name: Name in the schema.
        kind: Kind in the schema; the position is `numeric`.
        columns: Columns of the field's ids.
        cardinality: Number of ids, including 0 for missing.
    """

    name: str
    kind: str
    columns: slice
    cardinality: int


@dataclasses.dataclass(frozen=True)
class PeerRows:
    """The shown ads of a split with a known click label, in the order of the log.

    Attributes:
        ids: Encoded ids [L, W] int32.
        labels: Click labels [L] float32, 0 or 1.
        requests: Request number [L] int64 of each ad, ascending.
        known: Mask over all shown ads of the split of those with a known label.
    """

    ids: np.ndarray
    labels: np.ndarray
    requests: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class PeerData:
    """Fields and rows of all splits."""

    fields: tuple[PeerField, ...]
    train: PeerRows
    validation: PeerRows
    test: PeerRows

    @property
    def click_rate(self) -> float:
        """Click rate of the training rows."""
        return float(self.train.labels.mean())


# Returns the click logits [L] float64 of rows.
Predict = Callable[[PeerRows], np.ndarray]


def read(data_set: reader.DataSet, with_position: bool) -> PeerData:
    """Reads the splits of a data set.

    Args:
        data_set: Converted data set.
        with_position: Whether to include the logged position; the log must have it.

    Raises:
        ValueError: A split has no labeled rows.
    """
    return PeerData(
        _fields(data_set, with_position),
        *(_rows(data_set, split, with_position) for split in SPLITS),
    )


def _fields(data_set: reader.DataSet, with_position: bool) -> tuple[PeerField, ...]:
    both = (*data_set.schema.query_fields, *data_set.schema.ad_fields)
    fields = [
        PeerField(field.name, field.kind, own, data_set.fitted.cardinality(field))
        for field, own in encoding.columns(both)
    ]
    if with_position:
        first = encoding.width(both)
        # No field of a schema can have this name.
        name, columns = f"({POSITION})", slice(first, first + 1)
        fields.append(PeerField(name, "numeric", columns, MAX_POSITIONS + 1))
    return tuple(fields)


def _rows(data_set: reader.DataSet, split: str, with_position: bool) -> PeerRows:
    ids, labels, requests, first = [], [], [], 0
    for window in data_set.windows(split).as_numpy_iterator():
        lengths = window["list_lengths"]
        request = np.repeat(np.arange(len(lengths)), lengths)
        parts = [window["query"][request], window["ad"]]
        if with_position:
            # 0 is missing, as in every field.
            positions = np.clip(window[POSITION] + 1, 0, MAX_POSITIONS)
            parts.append(positions[:, None].astype(np.int32))
        ids.append(np.concatenate(parts, axis=1))
        labels.append(window["click"])
        requests.append(request + first)
        first += len(lengths)
    known = ~np.isnan(np.concatenate(labels)) if labels else np.zeros(0, bool)
    if not known.any():
        raise ValueError(
            f"The {split} split of {data_set.directory} has no rows with a click label; expected "
            "some to compare models. Use a larger log or larger split fractions."
        )
    return PeerRows(
        np.concatenate(ids)[known],
        np.concatenate(labels)[known],
        np.concatenate(requests)[known],
        known,
    )
