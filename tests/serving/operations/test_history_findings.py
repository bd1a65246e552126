"""Logged histories are those that follow from the logged events, or differ for a named cause."""

import dataclasses
import json
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving import operations
from serving.config import UserStoreConfig
from serving.operations import event_lines, findings, history_findings
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
TIMES = (10, 20, 30, 40, 102)
EVENTS = [
    UserEvent("click", float(time), f"a{time}", event_id=f"e{time}") for time in reversed(TIMES)
]
IN_TIME = {f"e{time}": time + 1.0 for time in TIMES}


def cause(values, ages=None, time=100.0, user_data="found", received=None, events=EVENTS):
    raw = {"clicks": values, "clicks__age_seconds": ages}
    logged = history_findings.LoggedHistories("ann", time, raw, user_data)
    known = history_findings.KnownEvents(events, received or {})
    return history_findings.cause_of(SCHEMA, logged, known)


@pytest.mark.parametrize(
    ("values", "ages", "expected"),
    [
        (["a20", "a30", "a40"], [80.0, 70.0, 60.0], None),
        (["a20", "a30", "a40"], [79.5, 69.5, 59.5], None),  # The answer came half a second later.
        (["a20", "a30", "a40"], None, None),
        (["a30", "a40"], [70.0, 60.0], "lost"),
        ([], [], "lost"),
        (["a10", "a20", "a40"], [90.0, 80.0, 60.0], "late"),
        (["a10", "a20", "a30"], [90.0, 80.0, 70.0], "late"),
        (["a30", "a40", "a102"], [70.0, 60.0, 0.0], "clock"),
        (["a20", "a30", "a40"], [380.0, 370.0, 360.0], "clock"),
        (["a20", "a30", "x"], [80.0, 70.0, 60.0], "other"),
    ],
)
def test_the_cause_follows_from_the_values_and_their_ages(values, ages, expected):
    assert cause(values, ages) == expected


@pytest.mark.parametrize(
    ("values", "user_data", "received", "expected"),
    [
        ([], "late", IN_TIME, "unread"),
        ([], "failed", IN_TIME, "unread"),
        # Emptied or erased, and then shown ads.
        ([], "unknown", IN_TIME, "lost"),
        ([], "found", IN_TIME, "lost"),
        (["a40"], "found", IN_TIME, "lost"),
        (["a20", "a40"], "found", IN_TIME, "lost"),
        # All of them arrived after the request, or one did, or just before it.
        ([], "unknown", dict.fromkeys(IN_TIME, 101.0), "late"),
        (["a10", "a20", "a40"], "found", {**IN_TIME, "e30": 101.0}, "late"),
        (["a10", "a20", "a30"], "found", {**IN_TIME, "e40": 99.5}, "late"),
        (["a10", "a20", "a30"], "found", {}, "late"),
        # Histories that the caller sent.
        (["a10"], "unknown", IN_TIME, "other"),
        (["x"], "late", IN_TIME, "other"),
        (["a40"], None, IN_TIME, "other"),
    ],
)
def test_the_cause_follows_from_how_the_user_was_found_and_when_events_arrived(
    values, user_data, received, expected
):
    assert cause(values, user_data=user_data, received=received) == expected


@pytest.mark.parametrize("time", [102.03, 101.99])
@pytest.mark.parametrize("values", [["a1", "a2"], ["a2", "a3"], ["a3", "a4"]])
def test_a_history_follows_if_it_was_right_at_some_instant_near_the_time_in_the_log(values, time):
    # Read just before the answer, or just after the request, while events followed each other.
    of_time = zip(("a1", "a2", "a3", "a4"), (10.0, 101.98, 102.0, 102.01), strict=True)
    events = [UserEvent("click", when, ad, event_id=ad) for ad, when in of_time]
    two = dataclasses.replace(SCHEMA.fields[0], max_length=2)
    plan = dataclasses.replace(SCHEMA, fields=(two, SCHEMA.fields[1]))
    logged = history_findings.LoggedHistories("ann", time, {"clicks": values}, "found")
    received = {event.event_id: event.time for event in events}
    known = history_findings.KnownEvents(events, received)
    assert history_findings.cause_of(plan, logged, known) is None
    other = dataclasses.replace(logged, raw={"clicks": ["a1", "a3"]})
    assert history_findings.cause_of(plan, other, known) == "lost"
    # The click of 101.98 arrived after the read, which came after the click of 102.
    known.received["a2"] = 102.02
    assert history_findings.cause_of(plan, other, known) == "late"


def test_a_history_is_cut_where_the_store_ends(monkeypatch):
    day = 86_400.0
    old = [UserEvent("click", (91 - number) * day, f"a{number}") for number in (90, 1, 0)]
    # On day 91.5 the events of days 90 and 91 are there, and that of day 1 has expired.
    at = {"time": 91.5 * day, "user_data": "found", "events": old}
    assert cause(["a1", "a0"], **at) == "cut"
    assert cause(["a0"], **at) == "lost"
    monkeypatch.setattr(history_findings, "_STORE", UserStoreConfig(max_actions=1))
    assert cause(["a0"], **at) == "cut"


def write_logs(directory, ages):
    rows = {
        "_answer_id": ["1", "1", "2", "3"],
        "_request_id": ["r1", "r1", "r2", "r3"],
        "_time": [100.0, 100.0, 200.0, 300.0],
        "_user_id": ["ann", "ann", "ann", None],
        "_user_data": ["found", "found", "found", None],
        "_ad_id": ["a1", "a2", "a1", "a1"],
        "_bundle_version": [1, 1, 1, 1],
        "clicks": [[], [], ["a1"], []],
        "clicks__age_seconds": [[], [], ages, []],
    }
    types_of = {"clicks": pa.list_(pa.string()), "clicks__age_seconds": pa.list_(pa.float64())}
    table = pa.table({name: pa.array(own, types_of.get(name)) for name, own in rows.items()})
    table = table.replace_schema_metadata({"tfrec": json.dumps({"counts_as_shown": True})})
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


def test_differences_are_counted_by_cause_and_the_remedy_is_for_it(tmp_path):
    with pytest.raises(
        findings.WrongError, match=r"1 of 2 answers \(50.0%\).*\(clock: 1\)"
    ) as found:
        operations.compare_histories(*write_logs(tmp_path, [17.0]))
    assert found.value.remedy == "For clock, synchronize the clocks."


@pytest.mark.parametrize(
    ("user_data", "received", "cause", "remedy"),
    [
        ("late", (), "unread", "why the user store was late"),
        ("found", (), "lost", "the store was emptied or did not accept the events"),
        ("found", (250, 150), "late", "send events sooner"),  # It came again.
    ],
)
def test_how_the_user_was_found_and_when_events_arrived_is_read_from_the_logs(
    tmp_path, user_data, received, cause, remedy
):
    (file,), event_files, release = write_logs(tmp_path, [97.0])
    click = json.loads(event_files[0].read_text().partition("\n")[0])
    with event_files[0].open("a") as log:
        log.writelines(json.dumps({**click, "received": at}) + "\n" for at in received)
    table = pq.read_table(file).drop_columns(["clicks", "clicks__age_seconds", "_user_data"])
    for name, kind in (("clicks", pa.string()), ("clicks__age_seconds", pa.float64())):
        table = table.append_column(name, pa.array([[]] * 4, pa.list_(kind)))
    table = table.append_column("_user_data", pa.array(["found", "found", user_data, None]))
    pq.write_table(table, file)
    with pytest.raises(findings.WrongError, match=rf"\({cause}: 1\)") as found:
        operations.compare_histories([file], event_files, release)
    assert remedy in (found.value.remedy or "")


def test_answers_of_other_releases_are_left_out(tmp_path):
    files, event_files, release = write_logs(tmp_path, [17.0])
    table = pq.read_table(files[0])
    of_two = table.set_column(
        table.column_names.index("_bundle_version"), "_bundle_version", pa.array([1, 1, 2, 2])
    )
    pq.write_table(of_two, files[0])
    assert operations.compare_histories(files, event_files, release).startswith("1 of 1 answers")
    release.version = 3
    with pytest.raises(findings.SkippedError, match="no answers of release 3 to users whose ids"):
        operations.compare_histories(files, event_files, release)


def test_an_event_id_counts_once_and_malformed_lines_are_counted(tmp_path):
    log_files, (event_file,), release = write_logs(tmp_path, [97.0])
    # Sent again without a time: as in the store, the first event counts.
    again = {"user_id": "ann", "ad_id": "a1", "time": 150.0, "event_id": "e", "click": 1}
    with event_file.open("a") as file:
        file.write("\n".join([json.dumps(again), "no JSON", "[]", ""]))
    found = operations.compare_histories(log_files, [event_file], release)
    assert found == (
        "2 of 2 answers (100.0%) have the histories that follow from the logged events; "
        "2 lines are not events and were left out: "
        f"{event_file}, line 5: expected a JSON object (Expecting value: line 1 column 1 (char "
        "0)); "
        f"{event_file}, line 6: expected a JSON object, got list"
    )


def test_answers_that_do_not_count_as_shown_are_not_impressions(tmp_path):
    (file,), event_files, release = write_logs(tmp_path, [97.0])
    shown = Field("clicks", "history", "query", of="ad", event="impression", max_length=3)
    plan = dataclasses.replace(SCHEMA, fields=(shown, SCHEMA.fields[1]))
    release.manifest = types.SimpleNamespace(schema=plan.to_json())
    with event_files[0].open("a") as log:
        view = {"user_id": "ann", "ad_id": "a1", "time": 103.0, "event_id": "v", "impression": 1}
        log.write(json.dumps(view) + "\n")
    with pytest.raises(findings.WrongError, match="1 of 2"):
        operations.compare_histories([file], event_files, release)
    table = pq.read_table(file)
    described = {"tfrec": json.dumps({"counts_as_shown": False})}
    pq.write_table(table.replace_schema_metadata(described), file)
    found = operations.compare_histories([file], event_files, release)
    assert found.startswith("2 of 2 answers (100.0%)")


def test_impressions_that_no_history_lists_are_not_kept(tmp_path):
    (file,), (event_file,), release = write_logs(tmp_path, [97.0])
    lines = [event_lines.read_event_lines(event_file, now=1e9)]
    known = history_findings._events(SCHEMA, [pq.read_table(file)], lines, release)
    assert [event.event for event in known["ann"].events] == ["click"]
