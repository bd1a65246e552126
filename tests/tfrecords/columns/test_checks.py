"""Checks of columns."""

import pyarrow as pa

from tfrecords.columns import RowFaults, checked_times


def test_numbers_of_digits_are_read_in_the_format_of_times():
    faults = RowFaults(3)
    days = pa.chunked_array([pa.array([19700102, 19700103, 19701301])])
    times = checked_times(faults, "day", days, "%Y%m%d")
    assert times[:2].tolist() == [86_400, 172_800]
    assert faults.reasons() == ["day must be a time of the format '%Y%m%d', got '19701301'"]
