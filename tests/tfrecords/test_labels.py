"""Labels of rows: which are known, and which follow from others."""

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pytest
from repository import ROOT

from tfrecords import columns as columns_lib
from tfrecords import events
from tfrecords import schema as schema_lib
from tfrecords.columns import RowFaults, checked_labels
from tfrecords.conversion import label_window

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
    # The engaged row may have brought any amount, and so may the row whose engagement is unknown.
    np.testing.assert_array_equal(found["revenue"], [0, 0, np.nan, np.nan])


def test_without_a_click_missing_revenue_is_zero_and_given_revenue_stays():
    found = labels(click=pa.array([0, 0, 1]), revenue=pa.array([None, 2.5, None], pa.float64()))
    np.testing.assert_array_equal(found["revenue"], [0, 2.5, np.nan])


def test_a_missing_amount_is_zero_only_without_the_label_that_it_follows(monkeypatch):
    for label in (
        schema_lib.Label("saved", after="click"),
        schema_lib.Label("tip", is_amount=True, after="click"),
        schema_lib.Label("shipping", is_amount=True, after="saved"),
        schema_lib.Label("visible", is_amount=True),
    ):
        monkeypatch.setitem(schema_lib.LABELS, label.name, label)
    amounts = ("revenue", "tip", "shipping", "visible")
    columns = {
        "click": [0, 1, 1, 1],
        "engagement": [0, 0, 1, 0],
        "saved": [0, 0, 1, 1],
        **{name: pa.nulls(4, pa.float64()) for name in amounts},
    }
    schema = SchemaWithMore("log", FIELDS, ("ad",), **{name: name for name in columns})
    found = checked_labels(schema, pa.table(columns), RowFaults(4), True)
    # Revenue needs an engagement, and the tip a click alone.
    expected = {
        "revenue": [0, 0, np.nan, 0],
        "tip": [0, np.nan, np.nan, np.nan],
        "shipping": [0, 0, np.nan, np.nan],
        "visible": [np.nan] * 4,
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name].to_numpy(), values, err_msg=name)


def test_every_label_comes_after_the_one_that_it_depends_on():
    names = list(schema_lib.LABELS)
    for name, label in schema_lib.LABELS.items():
        assert label.after is None or label.after in names[: names.index(name)]


def test_every_label_is_an_attribute_of_the_schema():
    assert set(schema_lib.LABELS) <= {field.name for field in dataclasses.fields(schema_lib.Schema)}


@dataclasses.dataclass(frozen=True)
class SchemaWithMore(schema_lib.Schema):
    saved: str | None = None
    tip: str | None = None
    shipping: str | None = None
    visible: str | None = None


@pytest.fixture
def more_labels(monkeypatch):
    for label in (
        schema_lib.Label("saved", is_late=True),
        schema_lib.Label("tip", is_amount=True, is_late=True, after="click"),
    ):
        monkeypatch.setitem(schema_lib.LABELS, label.name, label)


def test_a_new_label_is_checked_and_withheld_by_its_entry(more_labels):
    schema = SchemaWithMore("log", FIELDS, ("ad",), click="click", saved="in_list", tip="tip")
    table = pa.table({"click": [1, 0, 1], "in_list": ["yes", "no", "two"], "tip": [2.5, None, -1]})
    faults = RowFaults(3)
    found = checked_labels(schema, table, faults, True)
    (reason,) = faults.reasons()
    assert reason.startswith("in_list must be 0 or 1, got 'two'")
    assert found["saved"].type == pa.uint8()
    assert found["tip"].to_pylist()[:2] == [2.5, 0.0]
    packed = {name: values.to_numpy().copy() for name, values in found.items()}
    label_window.check(dataclasses.replace(schema, time="time"), 1, 0)
    assert label_window.withhold(packed, np.array([1, 2, 3]), first=1) == 2
    assert packed["click"].tolist() == [1, 0, 1]
    assert packed["saved"].tolist() == [1, schema_lib.MISSING_LABEL, schema_lib.MISSING_LABEL]
    np.testing.assert_array_equal(packed["tip"], [2.5, np.nan, np.nan])


def test_a_log_of_events_has_no_new_label(more_labels):
    kept = events.Events("event", ("view",), ("click",))
    assert SchemaWithMore("log", FIELDS, ("ad",), None, user_key="user", events=kept).click
    with pytest.raises(ValueError, match="revenue are read; set saved, tip to null"):
        SchemaWithMore(
            "log", FIELDS, ("ad",), None, user_key="user", events=kept, saved="saved", tip="tip"
        )


def test_a_new_label_changes_no_fingerprint_of_logs_without_it():
    # The fingerprint of existing data sets.
    for kind in (schema_lib.Schema, SchemaWithMore):
        assert kind("log", FIELDS, ("ad",), "click").fingerprint() == "cbd98925c6a8c589"


def test_the_texts_of_labels_are_documented():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    listed = re.search(r"booleans or, in any case, (.*?)\. Other texts are rejected", text, re.S)
    assert listed is not None
    found = re.findall(r"`(\S+)` or\s+`(\S+)`", listed[1])
    truths = {no: 0.0 for no, _ in found} | {yes: 1.0 for _, yes in found}
    assert truths == columns_lib.TRUTHS
