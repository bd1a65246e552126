"""Columns of Arrow as texts."""

import pyarrow as pa
import pytest

from tfrecords.columns import as_strings


@pytest.mark.parametrize(
    ("kind", "ticks"),
    [("s", [60, None]), ("ms", [60_000, 500]), ("us", [60_000_000, 1]), ("ns", [60 * 10**9, 1000])],
)
@pytest.mark.parametrize(("zone", "time"), [(None, "00:01:00"), ("Asia/Tokyo", "09:01:00+0900")])
def test_times_have_a_fraction_only_if_it_is_not_0(kind, ticks, zone, time) -> None:
    fraction = {"s": None, "ms": ".500000", "us": ".000001", "ns": ".000001"}[kind]
    texts = as_strings(pa.chunked_array([pa.array(ticks, pa.timestamp(kind, zone))])).to_pylist()
    assert texts[0] == f"1970-01-01 {time}"
    other = fraction and f"1970-01-01 {time.replace('01:00', f'00:00{fraction}')}"
    assert texts[1] == other


def test_dates_are_texts_without_a_time() -> None:
    for kind, tick in ((pa.date32(), 1), (pa.date64(), 86_400_000)):
        assert as_strings(pa.chunked_array([pa.array([tick], kind)])).to_pylist() == ["1970-01-02"]
