"""Units of times: those of a number, and that of a log with a few wrong times."""

import numpy as np
import pytest

from tfrecords.columns import calendar_values, time_units

# 2023-11-14 22:13:20 UTC.
NOW = 1.7e9


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        ([NOW, NOW + 1], "seconds"),
        ([NOW * 1e3, NOW * 1e3 + 1], "milliseconds"),
        ([NOW * 1e6], "microseconds"),
        ([NOW * 1e9], "nanoseconds"),
        ([0, 2.6e6], None),
        ([20231114, 20231115], None),
        ([], None),
        # A time that is missing, or one in another unit, decides nothing.
        ([0, NOW * 1e3, NOW, NOW * 1e3, NOW * 1e3], "milliseconds"),
    ],
)
def test_the_unit_of_a_log_is_that_of_most_times(times, unit):
    assert time_units.unit_of(time_units.count_units(np.array(times, float))) == unit


def test_times_are_counted_by_unit():
    times = np.array([NOW, NOW * 1e3, NOW * 1e3, 0, 20240229, 20240229170500, 20241331, 2.5])
    assert time_units.count_units(times) == {
        "seconds": 1, "milliseconds": 2, "microseconds": 0, "nanoseconds": 0, "digits": 2,
        "others": 3,
    }  # fmt: skip


def test_the_calendar_of_a_row_does_not_depend_on_the_times_of_others():
    times = np.array([NOW, NOW * 1e3, NOW * 1e6, NOW * 1e9, 0, np.nan])
    assert calendar_values(times, "hour").to_pylist() == ["22"] * 4 + ["0", None]
    assert calendar_values(times, "month").to_pylist() == ["11"] * 4 + ["1", None]
