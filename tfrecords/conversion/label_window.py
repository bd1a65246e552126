"""Delayed labels: engagements and revenue of the last rows of a log are not known yet.

A conversion can follow its click by days, so the labels of rows that are younger than a window at
the end of the log are missing, not negative. All of these rows lose their labels: keeping the
rows with an early engagement, or those without a click, would bias the rates.

The end of the log is the 99.9th percentile of its times: a row with a date in the future must not
make all others old. Some rows lose their labels unnecessarily, but no label is treated as final
before it is.

Shapes: B rows of a chunk.

References:
    Chapelle, Modeling Delayed Feedback in Display Advertising, 2014, §1 and §5 (a matching
    window, and its cost).
"""

import numpy as np

from tfrecords import records
from tfrecords.conversion import splitting
from tfrecords.schema import LABELS, MISSING_LABEL, Schema

# Share of the rows whose times may be wrong, at either end of the log.
_OUTLYING_SHARE = 0.001


def check(schema: Schema, window_seconds: float, sampled_negatives: int) -> None:
    """Checks that a log allows the window.

    Raises:
        ValueError: The window is negative, or the schema or another option does not allow it.
    """
    if not window_seconds >= 0:
        raise ValueError(f"engagement_window_seconds must be 0 or more, got {window_seconds}.")
    if not window_seconds:
        return
    if schema.time is None:
        raise ValueError(
            "engagement_window_seconds needs the times of rows: name a time column (time) in the "
            "schema."
        )
    late = [name for name, label in LABELS.items() if label.is_late]
    if not any(label in schema.labels for label in late):
        raise ValueError(
            "engagement_window_seconds needs a label after the click, and the schema names none "
            f"of {', '.join(late)}."
        )
    if sampled_negatives:
        raise ValueError(
            "engagement_window_seconds and sampled_negatives cannot be combined: sampled negatives "
            "have no engagement label. Set one of them to 0."
        )


def find(
    keys: splitting.RowKeys, is_train: np.ndarray, window_seconds: float, units_per_second: float
) -> tuple[float | None, int]:
    """Finds the time after which labels are not known yet.

    Args:
        keys: Keys of the log.
        is_train: Whether a row is a training row [rows of the log].
        window_seconds: Maximum delay of an engagement; 0: none.
        units_per_second: Units of the log's times in a second.

    Returns:
        The time, None if all labels are known; and the number of rows that are more than a window
        later than the log's end, so their time must be wrong.

    Raises:
        ValueError: No training row is older than the window.
    """
    if not window_seconds:
        return None, 0
    assert keys.time is not None
    low, end = span(keys.time)
    window = window_seconds * units_per_second
    if not (keys.time[is_train] <= end - window).any():
        seconds = (end - low) / units_per_second
        raise ValueError(
            f"No training row is older than engagement_window_seconds ({window_seconds:g}): the "
            f"log spans {seconds:,.0f} seconds. Use a longer log or a shorter window."
        )
    return end - window, int((keys.time > end + window).sum())


def span(times: np.ndarray) -> tuple[float, float]:
    """Returns the first and the last of times [B], without the outlying ones."""
    low = float(np.quantile(times, _OUTLYING_SHARE, method="higher"))
    high = float(np.quantile(times, 1 - _OUTLYING_SHARE, method="lower"))
    return min(low, high), max(low, high)  # Of two times, neither is outlying.


def withhold(packed: records.Packed, times: np.ndarray, first: float) -> int:
    """Marks late labels as missing, in place, in rows with times [B] after `first`.

    Returns:
        The number of these rows.
    """
    young = times > first
    for name, label in LABELS.items():
        if label.is_late and name in packed:
            packed[name][young] = np.nan if label.is_amount else MISSING_LABEL
    return int(young.sum())
