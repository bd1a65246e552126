"""Quality by segment: by value of ad fields, by position, and for new and seen ads.

Shapes: L rows of the split, N ads of the catalog.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrec import metrics
from tfrec.evaluation import head_quality, report
from tfrecords import reader
from tfrecords.schema import Schema

POSITION, ADS = "position", "ads"
NEW, SEEN, OTHER, MISSING = "new", "seen in training", "all others", "(missing)"
VALUES_PER_FIELD = 8
MAX_POSITIONS = 10
NUM_FIELDS = 2
MIN_VALUES = 5
# With fewer ads per value, the field nearly identifies the ad.
MIN_ADS_PER_VALUE = 4
_METRICS = ("observed", "predicted", "auc", "normalized_entropy", "calibration_ratio")


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """One way of splitting the rows into segments.

    Attributes:
        name: A field, `position` or `ads`.
        values: Names of the segments.
        segment: [L] index of the segment of each row.
    """

    name: str
    values: Sequence[str]
    segment: np.ndarray


def check_segments(fields: str, schema: Schema) -> list[str]:
    """Returns the fields of a comma-separated list.

    Raises:
        ValueError: A name is not a categorical field of the ad side.
    """
    known = [f.name for f in schema.ad_fields if f.kind == "categorical"]
    names = [name.strip() for name in fields.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ValueError(
                "segment_fields: expected categorical fields of the ad side "
                f"({', '.join(known)}), got {name!r}."
            )
    return names


def split_rows(
    data_set: reader.DataSet,
    ad_rows: np.ndarray,
    position: np.ndarray | None,
    fields: Sequence[str] = (),
) -> list[Segmentation]:
    """Splits shown ads into segments.

    Args:
        data_set: The converted log.
        ad_rows: [L] catalog rows.
        position: [L] logged positions; None if the log has none.
        fields: Ad fields, from `check_segments`; empty: `advertiser_like` chooses them.
    """
    catalog = data_set.catalog()
    chosen = fields or advertiser_like(data_set.schema, catalog)
    cuts = [_by_value(name, catalog.fields[name], ad_rows) for name in chosen]
    is_new = (catalog.impressions[ad_rows] == 0).astype(np.int64)
    cuts.append(Segmentation(ADS, (SEEN, NEW), is_new))
    if position is not None:
        cuts.append(_by_position(position))
    return cuts


def advertiser_like(schema: Schema, catalog: reader.Catalog) -> list[str]:
    """Chooses the fields that group ads as an advertiser would: several groups of several ads.

    These are the categorical ad fields with at least `MIN_VALUES` values and `MIN_ADS_PER_VALUE`
    ads per value whose number of values is closest to √N on a logarithmic scale.
    """
    distance = {}
    for field in schema.ad_fields:
        if field.kind != "categorical" or field.source in schema.ad_key:
            continue
        count = pc.count_distinct(catalog.fields[field.name]).as_py()
        if MIN_VALUES <= count <= len(catalog) / MIN_ADS_PER_VALUE:
            distance[field.name] = abs(np.log(count) - np.log(len(catalog)) / 2)
    return sorted(distance, key=lambda name: distance[name])[:NUM_FIELDS]


def measure(
    segmentation: Segmentation,
    rows: head_quality.HeadRows,
    predicted: np.ndarray,
    known: np.ndarray,
) -> list[report.Segment]:
    """Measures a head in each segment.

    Args:
        segmentation: Segments of the L rows of the split.
        rows: The head's rows with a label.
        predicted: [N] served values of these rows.
        known: [L] bool, their mask.
    """
    segment = segmentation.segment[known]
    return [
        report.Segment(
            value=value,
            rows=int((segment == number).sum()),
            metrics=_quality(rows, predicted, segment == number),
        )
        for number, value in enumerate(segmentation.values)
    ]


def _quality(
    rows: head_quality.HeadRows, predicted: np.ndarray, mask: np.ndarray
) -> dict[str, report.Estimate]:
    if not mask.any():
        absent = report.Estimate(absent="no row of the segment has the label")
        return dict.fromkeys(_METRICS, absent)
    labels, predicted, resamples = rows.labels[mask], predicted[mask], rows.resamples.take(mask)
    total, shown, count = resamples.sums(labels, predicted, np.ones(len(labels)))
    samples = (
        metrics.resampled_ratio(total, count),
        metrics.resampled_ratio(shown, count),
        metrics.resampled_auc(resamples, labels, predicted),
        head_quality.entropy_samples(resamples, labels, predicted)[1],
        metrics.resampled_ratio(shown, total),
    )
    reason = "the segment's rows are all of one class"
    return {
        name: report.Estimate.of(values, absent=reason)
        for name, values in zip(_METRICS, samples, strict=True)
    }


def _by_value(name: str, column: pa.ChunkedArray, ad_rows: np.ndarray) -> Segmentation:
    """Splits by the most frequently shown values; the others are one segment."""
    coded = pc.fill_null(column.cast(pa.string()), "").combine_chunks().dictionary_encode()
    codes = coded.indices.to_numpy()[ad_rows]
    shown = np.bincount(codes, minlength=len(coded.dictionary))
    num_shown = int((shown > 0).sum())
    # A segment of all others with a single value is replaced by that value.
    kept = num_shown if num_shown <= VALUES_PER_FIELD + 1 else VALUES_PER_FIELD
    frequent = np.argsort(-shown, kind="stable")[:kept]
    number = np.full(len(shown), kept)
    number[frequent] = np.arange(kept)
    values = [value or MISSING for value in coded.dictionary.take(pa.array(frequent)).to_pylist()]
    return Segmentation(name, values + [OTHER] * (kept < num_shown), number[codes])


def _by_position(position: np.ndarray) -> Segmentation:
    """Splits by the logged position; the last positions are one segment."""
    distinct, number = np.unique(position, return_inverse=True)
    values = [str(int(value)) for value in distinct]
    if len(values) > MAX_POSITIONS:
        values = [*values[: MAX_POSITIONS - 1], f"{values[MAX_POSITIONS - 1]} and on"]
        number = np.minimum(number, MAX_POSITIONS - 1)
    return Segmentation(POSITION, values, number)
