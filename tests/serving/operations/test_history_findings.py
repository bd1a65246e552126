"""Logged histories are those that follow from the logged events, or differ for a named cause."""

import json
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving import operations
from serving.operations import findings, history_findings
from tfrecords.histories import UserEvent
from tfrecords.schema import Field, Schema

SCHEMA = Schema(
    "shop",
    (
        Field("clicks", "history", "query", of="ad", event="click", max_length=3),
        Field("sku", "categorical", "ad"),
    ),
    ("sku",),
    "clicked",
    time="t",
    user_key="u",
)
EVENTS = [UserEvent("click", float(time), f"a{time}") for time in (10, 20, 30, 40, 102)]


def cause(values, ages=None, time=100.0):
    raw = {"clicks": values, "clicks__age_seconds": ages}
    logged = history_findings.LoggedHistories("ann", time, raw)
    return history_findings.cause_of(SCHEMA, logged, EVENTS)


@pytest.mark.parametrize(
    ("values", "ages", "expected"),
    [
        (["a20", "a30", "a40"], [80.0, 70.0, 60.0], None),
        (["a20", "a30", "a40"], [79.5, 69.5, 59.5], None),  # The answer came half a second later.
        (["a20", "a30", "a40"], None, None),
        (["a30", "a40"], [70.0, 60.0], "cut"),
        ([], [], "cut"),
        (["a10", "a20", "a40"], [90.0, 80.0, 60.0], "late"),
        (["a10", "a20", "a30"], [90.0, 80.0, 70.0], "late"),
        (["a30", "a40", "a102"], [70.0, 60.0, 0.0], "clock"),
        (["a20", "a30", "a40"], [380.0, 370.0, 360.0], "clock"),
        (["a20", "a30", "x"], [80.0, 70.0, 60.0], "other"),
    ],
)
def test_the_cause_of_a_difference_is_named(values, ages, expected):
    assert cause(values, ages) == expected


def write_logs(directory, ages):
    rows = {
        "_answer_id": ["1", "1", "2", "3"],
        "_request_id": ["r1", "r1", "r2", "r3"],
        "_time": [100.0, 100.0, 200.0, 300.0],
        "_user_id": ["ann", "ann", "ann", None],
        "_ad_id": ["a1", "a2", "a1", "a1"],
        "clicks": [[], [], ["a1"], []],
        "clicks__age_seconds": [[], [], ages, []],
    }
    types_of = {"clicks": pa.list_(pa.string()), "clicks__age_seconds": pa.list_(pa.float64())}
    table = pa.table({name: pa.array(own, types_of.get(name)) for name, own in rows.items()})
    pq.write_table(table, directory / "log.parquet")
    click = {"user_id": "ann", "ad_id": "a1", "time": 103.0, "event_id": "e", "click": 1}
    lines = [click, click, {**click, "user_id": "bob", "event_id": "f"}]
    (directory / "feedback.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    manifest = types.SimpleNamespace(schema=SCHEMA.to_json())
    release = types.SimpleNamespace(manifest=manifest, version=1)
    return [directory / "log.parquet"], [directory / "feedback.jsonl"], release


def test_equal_histories_are_counted_once_an_answer(tmp_path):
    found = operations.compare_histories(*write_logs(tmp_path, [97.0]))
    assert found == (
        "2 of 2 answers (100.0%) have the histories that follow from the logged events"
    )


def test_differences_are_counted_by_cause(tmp_path):
    with pytest.raises(findings.WrongError, match=r"1 of 2 answers \(50.0%\).*\(clock: 1\)"):
        operations.compare_histories(*write_logs(tmp_path, [17.0]))


def test_an_event_id_counts_once_and_malformed_lines_are_counted(tmp_path):
    log_files, (event_file,), release = write_logs(tmp_path, [97.0])
    # Sent again without a time, as the store knows it: the first stays.
    again = {"user_id": "ann", "ad_id": "a1", "time": 150.0, "event_id": "e", "click": 1}
    with event_file.open("a") as file:
        file.write("\n".join([json.dumps(again), "no JSON", "[]", ""]))
    found = operations.compare_histories(log_files, [event_file], release)
    assert found == (
        "2 of 2 answers (100.0%) have the histories that follow from the logged events; "
        "2 lines are not events and were left out"
    )
