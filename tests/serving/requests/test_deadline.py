"""Durations in messages."""

import pytest

from serving import requests


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(-3.0, "0 ms"), (0.0412, "0.041 ms"), (0.4, "0.4 ms"), (2.46, "2.5 ms"), (1499.7, "1500 ms")],
)
def test_a_short_duration_is_not_rounded_to_zero(milliseconds, text):
    assert requests.milliseconds_text(milliseconds) == text
