"""Quality by segment: by value of ad fields, by position, and of new ads against seen ones.

Shapes: L rows of the split, N ads of the catalogue.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrec import metrics
from tfrec.evaluation import head_quality
from tfrecords import reader
from tfrecords.schema import Schema

POSITION, ADS = "position", "ads"
NEW, SEEN, OTHER, MISSING = "new", "seen in training", "all others", "(missing)"
VALUES_PER_FIELD = 8
MAX_POSITIONS = 10
NUM_FIELDS = 2
FEWEST_VALUES = 5
# With fewer ads a value, the field is nearly the ad itself.
FEWEST_ADS_PER_VALUE = 4


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """One way of cutting the rows into segments.

    Attributes:
        name: A field, `position` or `ads`.
        values: What the segments are called.
        segment: [L] which of them each row is in.
    """

    name: str
    values: Sequence[str]
    segment: np.ndarray


def check(fields: str, schema: Schema) -> list[str]:
    """Returns the fields that are named with commas between them.

    Raises:
        ValueError: One is no categorical field of the ad side.
    """
    known = [f.name for f in schema.ad_fields if f.kind == "categorical"]
    names = [name.strip() for name in fields.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ValueError(
                f"segment_fields: expected categorical fields of the ad side, {', '.join(known)}; "
                f"got {name!r}."
            )
    return names


def of_split(
    data_set: reader.DataSet,
    catalogue: reader.Catalogue,
    ad_rows: np.ndarray,
    position: np.ndarray | None,
    fields: Sequence[str] = (),
) -> list[Segmentation]:
    """Cuts shown ads into segments.

    Args:
        data_set: The converted log.
        catalogue: Its ads.
        ad_rows: [L] catalogue rows.
        position: [L] where the log has it.
        fields: Ad fields, as `check` gives them; empty is `advertiser_like`.
    """
    chosen = fields or advertiser_like(data_set.schema, catalogue)
    cuts = [_by_value(name, catalogue.fields[name], ad_rows) for name in chosen]
    is_new = (catalogue.impressions[ad_rows] == 0).astype(np.int64)
    cuts.append(Segmentation(ADS, (SEEN, NEW), is_new))
    if position is not None:
        cuts.append(_by_position(position))
    return cuts


def advertiser_like(schema: Schema, catalogue: reader.Catalogue) -> list[str]:
    """Chooses the fields that group ads as advertisers do: several groups of several ads.

    Of the categorical ad fields with at least `FEWEST_VALUES` values and `FEWEST_ADS_PER_VALUE`
    ads to a value, those whose number of values is nearest to √N, on a scale of ratios.
    """
    distance = {}
    for field in schema.ad_fields:
        if field.kind != "categorical" or field.source in schema.ad_key:
            continue
        count = pc.count_distinct(catalogue.fields[field.name]).as_py()
        if FEWEST_VALUES <= count <= len(catalogue) / FEWEST_ADS_PER_VALUE:
            distance[field.name] = abs(np.log(count) - np.log(len(catalogue)) / 2)
    return sorted(distance, key=lambda name: distance[name])[:NUM_FIELDS]


def measure(
    segmentation: Segmentation,
    rows: head_quality.HeadRows,
    predicted: np.ndarray,
    known: np.ndarray,
) -> list[dict[str, Any]]:
    """Measures a head in each segment.

    Args:
        segmentation: Of the L rows of the split.
        rows: The head's rows with a label.
        predicted: [N] of these.
        known: [L] which rows of the split they are.

    Returns:
        For each segment `value`, `rows`, `observed` and `predicted` means, `auc`,
        `normalized_entropy` (against the segment's own rate), `calibration_ratio`, their
        `intervals`, and `absent`: why one is None.
    """
    segment = segmentation.segment[known]
    report = []
    for number, value in enumerate(segmentation.values):
        own = segment == number
        report.append({"value": value, "rows": int(own.sum()), **_quality(rows, predicted, own)})
    return report


def _quality(rows: head_quality.HeadRows, predicted: np.ndarray, own: np.ndarray) -> dict[str, Any]:
    labels, predicted = rows.labels[own], predicted[own]
    names = ("observed", "predicted", "auc", "normalized_entropy", "calibration_ratio")
    if not len(labels):
        absent = dict.fromkeys(names, "no row of the segment has the label")
        return {**dict.fromkeys(names), "intervals": {}, "absent": absent}
    report: dict[str, Any] = {
        "observed": float(labels.mean(dtype=np.float64)),
        "predicted": float(predicted.mean(dtype=np.float64)),
        "auc": metrics.auc(labels, predicted),
        "normalized_entropy": metrics.normalized_entropy(labels, predicted),
        "calibration_ratio": metrics.calibration_ratio(labels, predicted),
    }
    resamples = rows.resamples.take(own)
    ones = np.ones(len(labels))
    sums = resamples.sums(
        metrics.log_losses(labels, predicted), labels.astype(np.float64), ones, predicted
    )
    replicates = {
        "auc": metrics.resampled_auc(resamples, labels, predicted),
        "normalized_entropy": metrics.resampled_normalized_entropy(*sums[:3]),
        "calibration_ratio": metrics.resampled_ratio(sums[3], sums[1]),
    }
    found = {n: metrics.metric_interval(v) for n, v in replicates.items() if report[n] is not None}
    report["intervals"] = {name: own for name, own in found.items() if own is not None}
    report["absent"] = {
        name: "the segment's rows are all of one class" for name in names if report[name] is None
    }
    return report


def _by_value(name: str, column: pa.ChunkedArray, ad_rows: np.ndarray) -> Segmentation:
    """Cuts by the values that are shown most often; the rest is one segment."""
    coded = pc.fill_null(column.cast(pa.string()), "").combine_chunks().dictionary_encode()
    codes = coded.indices.to_numpy()[ad_rows]
    shown = np.bincount(codes, minlength=len(coded.dictionary))
    num_shown = int((shown > 0).sum())
    # One more is as short as "all others" of one.
    kept = num_shown if num_shown <= VALUES_PER_FIELD + 1 else VALUES_PER_FIELD
    frequent = np.argsort(-shown, kind="stable")[:kept]
    number = np.full(len(shown), kept)
    number[frequent] = np.arange(kept)
    values = [value or MISSING for value in coded.dictionary.take(pa.array(frequent)).to_pylist()]
    return Segmentation(name, values + [OTHER] * (kept < num_shown), number[codes])


def _by_position(position: np.ndarray) -> Segmentation:
    """Cuts by the logged slot, counted as the log counts; the last slots are one segment."""
    distinct, number = np.unique(position, return_inverse=True)
    values = [str(int(value)) for value in distinct]
    if len(values) > MAX_POSITIONS:
        values = [*values[: MAX_POSITIONS - 1], f"{values[MAX_POSITIONS - 1]} and on"]
        number = np.minimum(number, MAX_POSITIONS - 1)
    return Segmentation(POSITION, values, number)


def of_heads(
    cuts: Sequence[Segmentation],
    heads: Mapping[str, tuple[head_quality.HeadRows, np.ndarray, np.ndarray]],
) -> dict[str, dict[str, Any]]:
    """Measures heads in all segmentations.

    Args:
        cuts: The segmentations.
        heads: Head -> its rows, predictions and mask, as `measure` takes them.
    """
    return {head: {cut.name: measure(cut, *own) for cut in cuts} for head, own in heads.items()}
