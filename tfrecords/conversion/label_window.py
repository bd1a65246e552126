"""Labels that may still come: engagements of the last rows of a log.

A conversion can follow its click by days. Of a row that is younger than the window, measured
from the end of the log, it is not known yet whether one follows, and "not yet" is no "no".
All rows younger than the window lose their labels, not those without an engagement alone:
to keep the quick engagements, or the rows without a click, would bend the rates of what is
left, upwards or downwards.

Shapes: B rows of a chunk.

References:
    Chapelle, Modeling Delayed Feedback in Display Advertising, 2014, §1 and §5 (a matching
    window, and what is lost with it).
"""

import numpy as np

from tfrecords import columns, records
from tfrecords.conversion import splitting
from tfrecords.schema import MISSING_LABEL, Schema

LABELS = ("engagement", "revenue")


def check(schema: Schema, window_seconds: float, sampled_negatives: int) -> None:
    """Checks that a log can have a window.

    Raises:
        ValueError: It cannot; the message says why.
    """
    if not window_seconds >= 0:
        raise ValueError(f"engagement_window_seconds must be 0 or more, got {window_seconds}.")
    if not window_seconds:
        return
    if schema.time is None:
        raise ValueError(
            "engagement_window_seconds leaves out labels by the time of their rows, so the schema "
            "must name a time column (time)."
        )
    if not any(label in schema.labels for label in LABELS):
        raise ValueError(
            "engagement_window_seconds is about labels after the click, and the schema names "
            "neither engagement nor revenue."
        )
    if sampled_negatives:
        raise ValueError(
            "engagement_window_seconds and sampled_negatives exclude each other: drawn ads have "
            "no engagement, known or not."
        )


def begin(keys: splitting.Keys, is_train: np.ndarray, window_seconds: float) -> float | None:
    """Returns the time after which labels are not known yet; None: all are.

    Args:
        keys: Of the whole log; times since 1970 in milli-, micro- or nanoseconds are
            recognised, other numbers are taken for seconds.
        is_train: [rows of the log].
        window_seconds: How long an engagement can take; 0: no time.

    Raises:
        ValueError: No training row is older.
    """
    if not window_seconds:
        return None
    assert keys.time is not None
    low, high = float(keys.time.min()), float(keys.time.max())
    first = high - window_seconds * columns.units_per_second(low, high)
    if not (keys.time[is_train] <= first).any():
        seconds = (high - low) / columns.units_per_second(low, high)
        raise ValueError(
            f"No training row is older than engagement_window_seconds ({window_seconds:g}): the "
            f"log spans {seconds:,.0f} seconds. Use a longer log, or a shorter window."
        )
    return first


def withhold(packed: records.Packed, times: np.ndarray, first: float) -> int:
    """Makes labels missing, in place.

    Args:
        packed: The rows of a chunk.
        times: [B].
        first: Labels of rows after it are not known yet.

    Returns:
        How many rows are.
    """
    young = times > first
    for label in LABELS:
        if label in packed:
            is_byte = packed[label].dtype == np.uint8
            packed[label][young] = MISSING_LABEL if is_byte else np.nan
    return int(young.sum())
