"""Checks of columns."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from tfrecords.columns import RowFaults, checked_times, parse_times


def test_numbers_of_digits_are_read_in_the_format_of_times():
    faults = RowFaults(3)
    days = pa.chunked_array([pa.array([19700102, 19700103, 19701301])])
    times = checked_times(faults, "day", days, "%Y%m%d")
    assert times[:2].tolist() == [86_400, 172_800]
    assert faults.reasons() == ["day must be a time of the format '%Y%m%d', got '19701301'"]


@pytest.mark.parametrize("unit", ["s", "us"])
def test_times_far_from_1970_are_rejected(unit: str) -> None:
    # The years 1 and 9999 are 1969 and 8029 years from 1970; float64 counts microseconds up to 285.
    dates = [datetime.datetime(year, 1, 1) for year in (1, 1970, 9999)]
    faults = RowFaults(4)
    stamps = pa.chunked_array([pa.array([*dates, None], pa.timestamp(unit))])
    assert checked_times(faults, "ts", stamps)[1] == 0
    assert faults.bad.tolist() == [True, False, True, True]
    assert faults.reasons()[0] == "ts is missing or not a date of the years 1685 to 2254"


@pytest.mark.parametrize(
    "text",
    ["01/01/26 00:00:11", "26/01/01", "0001-01-01T00:00:00", "2024-07-01 10:00:00 CEST"],
)
def test_a_text_of_a_time_far_from_1970_or_of_an_unknown_zone_is_rejected(text: str) -> None:
    faults = RowFaults(2)
    times = checked_times(faults, "ts", pa.chunked_array([pa.array(["1970-01-02", text])]))
    assert times[0] == 86_400
    assert faults.reasons() == [
        "ts must be a number or an ISO 8601 time, with an offset such as +02:00 or without a zone "
        f"(or set time_format in the schema), got {text!r}"
    ]


def test_years_before_1685_are_rejected_with_a_format_too() -> None:
    times = parse_times(["01/02/1970", "01/01/0026"], "%d/%m/%Y")
    # January 31 days.
    assert times[0] == 31 * 86_400
    assert times[1] != times[1]


def test_an_offset_may_follow_a_space() -> None:
    """As databases and shops export times."""
    texts = [
        "1970-01-01 02:00:01.500 +0200",
        "1969-12-31 17:00:01.5 -07:00",
        "1970-01-01T00:00:02 UTC",
    ]
    assert parse_times(texts).tolist() == [1.5, 1.5, 2]
    assert np.isnan(parse_times(["1970-01-01 +2", "+0200"])[0])
