"""Labels of rows: which are known, and which follow from others."""

import numpy as np
import pyarrow as pa
import pytest

from tfrecords import schema as schema_lib
from tfrecords.columns import RowFaults, checked_labels

FIELDS = (
    schema_lib.Field("user", "categorical", "query"),
    schema_lib.Field("ad", "categorical", "ad"),
)


def labels(**columns):
    schema = schema_lib.Schema("log", FIELDS, ("ad",), **{name: name for name in columns})
    table = pa.table(columns)
    faults = RowFaults(table.num_rows)
    found = checked_labels(schema, table, faults, True)
    assert not faults.any()
    return {name: values.to_numpy() for name, values in found.items()}


@pytest.mark.parametrize("empty", [None, float("nan")])
def test_without_an_engagement_missing_revenue_is_zero(empty):
    found = labels(
        click=pa.array([0, 1, 1, 1]),
        engagement=pa.array([0, 0, 1, None]),
        revenue=pa.array([empty, empty, empty, empty], pa.float64()),
    )
    # The engaged row may have brought any amount, and so may the one of which it is not known.
    np.testing.assert_array_equal(found["revenue"], [0, 0, np.nan, np.nan])


def test_without_a_click_missing_revenue_is_zero_and_given_revenue_stays():
    found = labels(click=pa.array([0, 0, 1]), revenue=pa.array([None, 2.5, None], pa.float64()))
    np.testing.assert_array_equal(found["revenue"], [0, 2.5, np.nan])
