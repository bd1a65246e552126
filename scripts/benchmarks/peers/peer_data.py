"""The training rows, features and targets of the peers of the ranker.

The features are the encoded ids of the ranker's splits, with one row per shown ad: the query ids of
a request are repeated for each of its ads. If the log has positions, the position of the ad is
another field. Dense vectors of ads are left out.

A head is learned as one target, an amount as two (`PeerTarget`). Labels that can only follow a
click are learned from clicked rows, so that rare heads profit from the click model.

Shapes: L shown ads of a split, W columns of ids (one per field, `max_list_length` per list), T
targets.

References:
    Ma et al., Entire Space Multi-Task Model, 2018 (the probability after a click).
    Wang, Liu and Miao, A Deep Probabilistic Model for Customer Lifetime Value Prediction, 2019
    (a positive amount, and its logarithm).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import numpy as np
import scipy.special

from tfrec import layers
from tfrec.heads import CLICK, HEADS, HeadKind
from tfrecords import encoding, reader, records, schema
from tfrecords.splits import SPLITS

POSITION = "position"
MAX_POSITIONS = 64
_TINY = 1e-6


@dataclasses.dataclass(frozen=True)
class PeerField:
    """A field and its columns of ids.

    Attributes:
        name: Name in the schema.
        kind: Kind in the schema; the position is `numeric`.
        columns: Columns of the field's ids.
        cardinality: Number of ids, including 0 for missing.
        is_ad: Whether the field describes the ad, not the request.
    """

    name: str
    kind: str
    columns: slice
    cardinality: int
    is_ad: bool = False


@dataclasses.dataclass(frozen=True)
class PeerRows:
    """The shown ads of a split with a known click label, in the order of `DataSet.windows`.

    Attributes:
        ids: Encoded ids [L, W] int32.
        labels: Label -> [L] float32; NaN where missing.
        requests: Request number [L] int64 of each ad, ascending.
        order: [L] int64, ascends with the time of the requests.
        known: Which of all shown ads of the split have a known click label.
    """

    ids: np.ndarray
    labels: dict[str, np.ndarray]
    requests: np.ndarray
    order: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class PeerTarget:
    """The target of one output of a peer.

    Attributes:
        head: The head.
        after_click: Whether only clicked rows have the target.
        is_log_amount: Whether it is the logarithm of an amount above 0; else the output is the
            logit of a label above 0.
    """

    head: str
    after_click: bool = False
    is_log_amount: bool = False

    @property
    def name(self) -> str:
        """Name in results."""
        return f"{self.head}_amount" if self.is_log_amount else self.head

    def values(self, rows: PeerRows) -> np.ndarray:
        """Returns the target [L] float32 of rows; NaN for rows without it."""
        label = rows.labels[self.head]
        if self.is_log_amount:
            return np.log(np.where(label > 0, label, np.nan))
        value = np.where(np.isnan(label), np.nan, label > 0)
        if self.after_click:
            value = np.where(rows.labels[CLICK.label] > 0, value, np.nan)
        return value.astype(np.float32)

    def base(self, rows: PeerRows) -> float:
        """Returns the best constant output for rows."""
        values = self.values(rows)
        mean = float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else 0.0
        if self.is_log_amount:
            return mean
        return float(scipy.special.logit(np.clip(mean, _TINY, 1 - _TINY)))

    def losses(self, values: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Returns the log losses, or squared errors, of outputs for known values."""
        if self.is_log_amount:
            return 0.5 * np.square(values - outputs)
        return np.logaddexp(0.0, outputs) - values * outputs


@dataclasses.dataclass(frozen=True)
class PeerData:
    """Fields and rows of all splits.

    Attributes:
        fields: The fields.
        train, validation, test: The rows of the splits.
        histories: Name of a list of ads -> the ad-side ids [V, Wa] of its values.
    """

    fields: tuple[PeerField, ...]
    train: PeerRows
    validation: PeerRows
    test: PeerRows
    histories: layers.Ties = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def heads(self) -> tuple[str, ...]:
        """Heads with a positive training row, as in the ranker."""
        return tuple(head for head in HEADS if (self.train.labels.get(head, np.zeros(0)) > 0).any())

    @functools.cached_property
    def targets(self) -> tuple[PeerTarget, ...]:
        """Targets of the peers: one per head, two per amount; click is the first."""
        targets = []
        for head in self.heads:
            if HEADS[head].is_amount:
                labels = self.train.labels
                without_click = (labels[head] > 0) & (labels[CLICK.label] == 0)
                targets.append(PeerTarget(head, after_click=not without_click.any()))
                targets.append(PeerTarget(head, is_log_amount=True))
            else:
                after = HEADS[head].kind == HeadKind.PROBABILITY_AFTER_CLICK
                targets.append(PeerTarget(head, after_click=after))
        return tuple(targets)

    @functools.cached_property
    def bases(self) -> np.ndarray:
        """[T] constant outputs that are best for the training rows."""
        return np.array([target.base(self.train) for target in self.targets])

    def values(self, rows: PeerRows) -> np.ndarray:
        """Returns the targets [L, T] float32 of rows; NaN where a row lacks a target."""
        return np.stack([target.values(rows) for target in self.targets], axis=1)

    def losses(self, rows: PeerRows, outputs: np.ndarray) -> np.ndarray:
        """Returns the mean loss [T] of outputs [L, T], relative to the constant `bases`.

        It is 1 for a target without rows.
        """
        result = np.ones(len(self.targets))
        for number, target in enumerate(self.targets):
            values = target.values(rows)
            known = ~np.isnan(values)
            if known.any():
                mean_loss, constant = (
                    float(target.losses(values[known], target_outputs).mean(dtype=np.float64))
                    for target_outputs in (outputs[known, number], self.bases[number])
                )
                result[number] = mean_loss / max(constant, _TINY)
        return result

    def logits(self, outputs: np.ndarray, spread: float) -> dict[str, np.ndarray]:
        """Returns the logits of the heads, in the layout of the ranker's.

        Args:
            outputs: [L, T] outputs of a peer.
            spread: Standard deviation of the logarithms of amounts around their outputs.

        Returns:
            Head -> [L] float32, or [L, 3] of an amount.
        """
        column = {target: outputs[:, number] for number, target in enumerate(self.targets)}
        click = column[self.targets[0]]
        result = {}
        for target, target_outputs in column.items():
            if target.is_log_amount:
                scale = np.full(len(target_outputs), layers.raw_amount_scale(spread))
                target_outputs = np.stack([result[target.head], target_outputs, scale], axis=1)
            elif HEADS[target.head].is_amount and target.after_click:
                target_outputs = layers.after_click_logits(click, target_outputs).numpy()
            result[target.head] = target_outputs.astype(np.float32)
        return result

    def spread(self, rows: PeerRows, outputs: np.ndarray) -> float:
        """Returns the standard deviation of log amounts around outputs [L, T]; 1 without any."""
        for number, target in enumerate(self.targets):
            if target.is_log_amount:
                residuals = target.values(rows) - outputs[:, number]
                if (~np.isnan(residuals)).any():
                    return float(np.sqrt(np.nanmean(np.square(residuals))))
        return 1.0


# Returns the outputs [L, T] float64 of rows.
Predict = Callable[[PeerRows], np.ndarray]


def read(
    data_set: reader.DataSet, with_position: bool, labels: Iterable[str] | None = None
) -> PeerData:
    """Reads the splits of a data set.

    Args:
        data_set: Converted data set.
        with_position: Whether to include the logged position; the log must have it.
        labels: Labels to learn, click among them; None: all.

    Raises:
        ValueError: A split has no labeled rows.
    """
    chosen = tuple(data_set.spec.labels if labels is None else labels)
    return PeerData(
        _fields_and_position(data_set, with_position),
        *(_rows(data_set, split, with_position, chosen) for split in SPLITS),
        layers.find_histories(data_set.fitted, data_set.catalog()),
    )


def fields_of(data_set: reader.DataSet, fields: Iterable[schema.Field]) -> tuple[PeerField, ...]:
    """Returns fields of the schema with their columns in an array of only these fields.

    A history is a list of its values: peers read neither ages nor kinds of events.
    """
    ad_fields = data_set.schema.ad_fields
    return tuple(
        PeerField(
            field.name,
            "categorical_list" if field.is_list else field.kind,
            columns,
            data_set.fitted.cardinality(field),
            field in ad_fields,
        )
        for field, columns in encoding.value_columns(fields)
    )


def _fields_and_position(data_set: reader.DataSet, with_position: bool) -> tuple[PeerField, ...]:
    schema_fields = (*data_set.schema.query_fields, *data_set.schema.ad_fields)
    fields = fields_of(data_set, schema_fields)
    if not with_position:
        return fields
    first = encoding.width(schema_fields)
    # No field of a schema can have this name.
    name, columns = f"({POSITION})", slice(first, first + 1)
    return (*fields, PeerField(name, "numeric", columns, MAX_POSITIONS + 1))


def _rows(
    data_set: reader.DataSet, split: str, with_position: bool, chosen: tuple[str, ...]
) -> PeerRows:
    ids, requests, first = [], [], 0
    labels: dict[str, list[np.ndarray]] = {label: [] for label in chosen}
    for window in data_set.windows(split).as_numpy_iterator():
        lengths = window["list_lengths"]
        request = np.repeat(np.arange(len(lengths)), lengths)
        parts = [window["query"][request], window["ad"]]
        if with_position:
            # 0 is missing, as in every field.
            positions = np.clip(window[POSITION] + 1, 0, MAX_POSITIONS)
            parts.append(positions[:, None].astype(np.int32))
        ids.append(np.concatenate(parts, axis=1))
        for label, values in labels.items():
            values.append(window[label])
        requests.append(request + first)
        first += len(lengths)
    joined = {label: np.concatenate([np.zeros(0), *windows]) for label, windows in labels.items()}
    known = ~np.isnan(joined[CLICK.label])
    if not known.any():
        raise ValueError(
            f"The {split} split of {data_set.directory} has no rows with a click label; expected "
            "some to compare models. Use a larger log or larger split fractions."
        )
    request = np.concatenate(requests)[known]
    return PeerRows(
        np.concatenate(ids)[known],
        {label: column[known].astype(np.float32) for label, column in joined.items()},
        request,
        data_set.column(split, records.ORDER)[request],
        known,
    )
