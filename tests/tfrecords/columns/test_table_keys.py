"""Keys of tables that repeat, and rows without one."""

from typing import Any

import pyarrow as pa
import pytest

from tfrecords import columns

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "differing"),
    [
        (["x", "y", "x", "", "x", "y", ""], 0),
        (["x", "y", "z", "", "x", "y", ""], 1),
        (["x", "y", None, "", "z", "y", "w"], 2),
        ([NAN, 2.0, NAN, 0, NAN, 2.0, 0], 0),
        ([None, 2.0, 1.0, 0, None, 2.5, 0], 2),
        ([[1, 2], [], [1], [], [1, 2], [], []], 1),
        ([None] * 7, 0),
    ],
)
def test_rows_are_compared_with_the_last_of_their_key(values: list[Any], differing: int) -> None:
    table = pa.table({"key": ["a", "b", "a", "", "a", "b", ""], "value": values})
    ids, _, rows, keys = columns.rows_by_key(table, ["key"], ["value"])
    assert dict(zip(ids.to_pylist(), rows.tolist(), strict=True)) == {"a": 4, "b": 5}
    assert (keys.repeated, keys.differing, keys.without_key) == (3, differing, 2)
