"""The rows and features that every peer of the ranker's benchmark learns from.

They are the encoded ids that the ranker reads, of the same splits, one row a shown ad: a
request's query-side ids are repeated for each of its ads. Where the log holds positions, the
slot an ad was shown in is one more field.

Shapes: L shown ads of a split, W columns of ids (one a field, `max_list_length` a list).
"""

import dataclasses

import numpy as np

from serving import cli  # noqa: F401  (first: it settles Keras and quiets TensorFlow)
from tfrecords import encoding, reader
from tfrecords.splits import SPLITS

POSITION = "position"
MOST_POSITIONS = 64


@dataclasses.dataclass(frozen=True)
class Field:
    """Where a field's ids stand.

    Attributes:
        name: Its name in the schema.
        kind: As in the schema; the position is `numeric`.
        columns: Its columns of the ids.
        cardinality: Its ids are below this; 0 is missing.
    """

    name: str
    kind: str
    columns: slice
    cardinality: int


@dataclasses.dataclass(frozen=True)
class Rows:
    """The shown ads of a split whose click label is known, in log order.

    Attributes:
        ids: [L, W] int32.
        labels: [L] float32, 0 or 1.
        requests: [L] int64, the number of each ad's request; rises.
        known: [all shown ads of the split] bool, which of them these are.
    """

    ids: np.ndarray
    labels: np.ndarray
    requests: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Data:
    """What peers learn from."""

    fields: tuple[Field, ...]
    train: Rows
    validation: Rows
    test: Rows

    @property
    def click_rate(self) -> float:
        """Share of clicks in training."""
        return float(self.train.labels.mean())


def read(data_set: reader.DataSet, with_position: bool) -> Data:
    """Reads the splits of a data set.

    Args:
        data_set: The converted log.
        with_position: Whether the logged position is a field; the log must hold it.

    Raises:
        ValueError: A split has no labelled rows.
    """
    return Data(
        _fields(data_set, with_position),
        *(_rows(data_set, split, with_position) for split in SPLITS),
    )


def _fields(data_set: reader.DataSet, with_position: bool) -> tuple[Field, ...]:
    both = (*data_set.schema.query_fields, *data_set.schema.ad_fields)
    fields = [
        Field(field.name, field.kind, own, data_set.fitted.cardinality(field))
        for field, own in encoding.columns(both)
    ]
    if with_position:
        first = encoding.width(both)
        # Of a name that no schema's field can have.
        name, columns = f"({POSITION})", slice(first, first + 1)
        fields.append(Field(name, "numeric", columns, MOST_POSITIONS + 1))
    return tuple(fields)


def _rows(data_set: reader.DataSet, split: str, with_position: bool) -> Rows:
    ids, labels, requests, first = [], [], [], 0
    for window in data_set.windows(split).as_numpy_iterator():
        lengths = window["list_lengths"]
        request = np.repeat(np.arange(len(lengths)), lengths)
        parts = [window["query"][request], window["ad"]]
        if with_position:
            # 0 is missing, as in every field.
            slots = np.clip(window[POSITION] + 1, 0, MOST_POSITIONS)
            parts.append(slots[:, None].astype(np.int32))
        ids.append(np.concatenate(parts, axis=1))
        labels.append(window["click"])
        requests.append(request + first)
        first += len(lengths)
    known = ~np.isnan(np.concatenate(labels)) if labels else np.zeros(0, bool)
    if not known.any():
        raise ValueError(
            f"The {split} split of {data_set.directory} has no rows with a click label: peers "
            "cannot be compared; use a larger log, or larger fractions."
        )
    return Rows(
        np.concatenate(ids)[known],
        np.concatenate(labels)[known],
        np.concatenate(requests)[known],
        known,
    )
