"""Logs of events, joined into impressions with labels."""

import dataclasses
import pathlib
import re

import logs
import numpy as np
import pytest

from tfrecords import convert, reader
from tfrecords import events as events_lib
from tfrecords import schema as schema_lib
from tfrecords.conversion import event_join
from tfrecords.events import Events
from tfrecords.schema import Field

EVENTS = Events("event", ("view",), ("click",), ("purchase",), window_seconds=100)
SHOP = schema_lib.Schema(
    "shop",
    (
        Field("country", "categorical", "query", min_count=1),
        Field("sku", "categorical", "ad", min_count=1),
    ),
    ad_key=("sku",),
    click=None,
    user_key="user",
    time="ts",
    revenue="price",
    events=EVENTS,
    weights={"click": 1, "engagement": 5},
)


def rows_of(table: list[tuple[str, float, int, float]]) -> event_join.EventRows:
    """Returns rows of (key, time, kind, revenue)."""
    keys = np.array([hash(row[0]) & 0xFFFF for row in table], np.uint64)
    times, kinds, revenue = zip(*(row[1:] for row in table), strict=True)
    return event_join.EventRows(
        keys, np.array(times, float), np.array(kinds, np.uint8), np.array(revenue, np.float32)
    )


def test_clicks_and_engagements_belong_to_the_latest_view_within_the_window():
    rows = rows_of(
        [
            ("a", 0, 0, 5),  # 0: a view, whose price is no revenue
            ("b", 1, 0, 5),  # 1: another ad
            ("a", 10, 1, 5),  # 2: click of 0
            ("a", 20, 0, 5),  # 3: a second view
            ("a", 30, 2, 7),  # 4: purchase of 3, which is a click as well
            ("a", 31, 2, 2),  # 5: and another
            ("a", 200, 1, 5),  # 6: 180 seconds after 3: left out
            ("c", 0, 1, 5),  # 7: no view at all: left out
            ("b", 1, 1, 5),  # 8: at the time of its view, 1
        ]
    )
    joined = event_join.join(rows, EVENTS, has_times=True)
    assert np.flatnonzero(joined.kept).tolist() == [0, 1, 3]
    assert joined.labels["click"][joined.kept].tolist() == [1, 1, 1]
    assert joined.labels["engagement"][joined.kept].tolist() == [0, 0, 1]
    assert joined.labels["revenue"][joined.kept].tolist() == [0, 0, 9]
    assert (joined.num_joined, joined.num_unmatched) == (4, 2)
    # Without times, no window applies: row 6 belongs to 3.
    joined = event_join.join(rows, EVENTS, has_times=False)
    assert (joined.num_joined, joined.num_unmatched) == (5, 1)


def test_a_new_kind_of_event_is_a_label_and_a_click(monkeypatch):
    saved = len(event_join.KINDS)
    monkeypatch.setattr(event_join, "KINDS", (*event_join.KINDS, "saved"))
    rows = event_join.EventRows(
        keys=np.array([7, 7, 8, 8], np.uint64),
        times=np.array([0.0, 5, 0, 9]),
        kinds=np.array([0, saved, 0, 1], np.uint8),
        revenue=None,
    )
    joined = event_join.join(rows, EVENTS, has_times=True, keep_times=True)
    assert joined.labels["click"][joined.kept].tolist() == [1, 1]
    assert joined.labels["engagement"][joined.kept].tolist() == [0, 0]
    assert joined.labels["saved"][joined.kept].tolist() == [1, 0]
    assert joined.times["saved"][joined.kept].tolist() == [5, np.inf]


def test_a_new_kind_of_event_changes_no_fingerprint_of_logs_without_it(monkeypatch):
    some = dataclasses.replace(EVENTS, view=(), engagement=())
    given = events_lib.events_json(dataclasses.asdict(some))
    assert {"view", "engagement"} <= set(given)
    monkeypatch.setattr(events_lib, "KINDS", (*events_lib.KINDS, "saved"))
    assert events_lib.events_json({**given, "saved": ()}) == given
    assert events_lib.events_json({**given, "saved": ("save",)})["saved"] == ("save",)


def test_a_log_of_clicks_alone_may_have_other_events(tmp_path):
    path = tmp_path / "log.csv"
    rows = [
        f"u{n % 9},i{n % 7},{'pv' if n % 5 else 'search'},{1_700_000_000 + n}" for n in range(200)
    ]
    path.write_text("\n".join(["user,item,type,time", *rows]))
    schema = schema_lib.schema_from_json(
        {
            "name": "clicks",
            "fields": [
                {"name": "user", "side": "query", "kind": "categorical"},
                {"name": "item", "side": "ad", "kind": "categorical"},
            ],
            "ad_key": ["item"], "user_key": "user", "time": "time",
            "events": {"column": "type", "click": ["pv"]},
        }
    )  # fmt: skip
    convert.convert(convert.Source(path, schema, "tabular"), tmp_path / "data")
    data_set = reader.DataSet(tmp_path / "data")
    assert sum(data_set.num_rows(split) for split in ("train", "validation", "test")) == 160
    assert data_set.description.source.events.others == {"search": 40}


def test_without_views_each_click_is_an_impression():
    events = Events("event", (), ("pv",), ("buy",), window_seconds=100)
    rows = rows_of([("a", 0, 1, 0), ("a", 5, 2, 3), ("a", 6, 1, 0), ("b", 0, 2, 4)])
    joined = event_join.join(rows, events, has_times=True)
    # The purchase of b has no click: it is an impression of its own, and nothing is lost.
    assert np.flatnonzero(joined.kept).tolist() == [0, 2, 3]
    assert joined.labels["click"][joined.kept].tolist() == [1, 1, 1]
    assert joined.labels["engagement"][joined.kept].tolist() == [1, 0, 1]
    assert joined.labels["revenue"][joined.kept].tolist() == [3, 0, 4]
    assert (joined.num_joined, joined.num_unmatched) == (1, 0)


def test_an_event_that_is_logged_repeatedly_counts_once():
    rows = rows_of(
        [
            ("a", 0, 0, 5),  # 0: a view
            ("a", 10, 2, 7),  # 1: a purchase
            ("a", 10, 2, np.nan),  # 2: another one, of an unknown amount
            ("a", 10, 2, 7),  # 3: repeats 1
            ("b", 10, 0, 5),  # 4: another ad
            ("a", 10, 2, np.nan),  # 5: repeats 2
            ("a", 0, 0, 5),  # 6: repeats 0
            ("a", 0, 0, 5),  # 7: repeats 0
            ("a", 11, 2, 7),  # 8: a later purchase
        ]
    )
    joined = event_join.join(rows, EVENTS, has_times=True)
    assert np.flatnonzero(joined.kept).tolist() == [0, 4]
    assert joined.labels["engagement"][joined.kept].tolist() == [1, 0]
    assert joined.labels["revenue"][joined.kept].tolist() == [14, 0]
    assert (joined.num_joined, joined.num_unmatched, joined.num_repeated) == (3, 0, 4)
    # Without amounts, row 2 also repeats 1.
    joined = event_join.join(dataclasses.replace(rows, revenue=None), EVENTS, has_times=True)
    assert (joined.num_joined, joined.num_repeated) == (2, 5)


def test_the_revenue_of_a_purchase_without_an_amount_is_not_known():
    nan = np.nan
    rows = rows_of(
        [
            ("a", 0, 0, 5),  # A purchase without an amount
            ("a", 1, 2, nan),
            ("b", 0, 0, nan),  # one with, and one without
            ("b", 1, 2, 3),
            ("b", 2, 2, nan),
            ("c", 0, 0, nan),  # no purchase
            ("c", 1, 1, nan),
        ]
    )
    joined = event_join.join(rows, EVENTS, has_times=True)
    np.testing.assert_array_equal(joined.labels["revenue"][joined.kept], [nan, 3, 0])


def test_a_log_without_purchases_has_no_revenue():
    rows = rows_of([("a", 0, 0, 5), ("a", 1, 1, 5), ("b", 2, 0, 3)])
    joined = event_join.join(rows, EVENTS, has_times=True)
    assert joined.labels["revenue"][joined.kept].tolist() == [0, 0]


def test_equal_events_of_the_same_hour_or_day_may_be_several():
    rows = rows_of([("a", 3600, 0, 5), ("a", 7200, 2, 7), ("a", 7200, 2, 7)])
    window = dataclasses.replace(EVENTS, window_seconds=3600)
    joined = event_join.join(rows, window, has_times=True)
    assert (joined.labels["revenue"][0], joined.num_repeated) == (14, 0)


def test_labels_that_may_still_come_are_counted():
    day = 86_400.0
    views = [(f"v{number}", number * 60.0, 0, 0.0) for number in range(2_000)]
    # Every second view is clicked after half an hour, and bought after one to twenty hours; nothing
    # is logged after the last view.
    clicked = [(key, time + 1_800, 1, 0.0) for key, time, *_ in views[::2]]
    bought = [
        (key, time + (1 + number % 20) * 3_600, 2, 1.0)
        for number, (key, time, *_) in enumerate(views[::2])
    ]
    log = rows_of([*views, *(row for row in clicked + bought if row[1] <= views[-1][1])])
    events = dataclasses.replace(EVENTS, window_seconds=day)
    late = event_join.join(log, events, has_times=True).late
    assert late.keys() == {"click", "engagement"}
    for name, minutes in (("click", 30), ("engagement", 20 * 60)):
        assert late[name].seconds == minutes * 60
        assert late[name].young == pytest.approx(minutes, abs=5)  # a view each minute
    assert event_join.join(log, events, has_times=False).late == {}


def write_log(path: pathlib.Path) -> pathlib.Path:
    """Writes 100 views of two ads at a time, every second one clicked, every fourth one bought."""
    lines = ["user,country,sku,event,price,ts"]
    for i in range(100):
        user, time = f"u{i % 7},c{i % 3}", 1_700_000_000 + 1_000 * i
        lines += [f"{user},s{ad},view,5.5,{time}" for ad in (i % 5, 5 + i % 2)]
        if i % 2 == 0:
            lines.append(f"{user},s{i % 5},click,5.5,{time + 3}")
        if i % 4 == 0:
            lines.append(f"{user},s{i % 5},purchase,5.5,{time + 50}")
        if i % 10 == 0:
            lines.append(f"{user},s{i % 5},scroll,,{time + 60}")
            lines.append(f"{user},s{i % 5},click,,{time + 500}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("rows_per_chunk", [20, 100_000])
def test_a_log_of_events_converts_and_every_row_is_accounted_for(tmp_path, rows_per_chunk):
    data_set = logs.converted(
        write_log(tmp_path / "log.csv"),
        tmp_path / "data",
        SHOP,
        rows_per_chunk=rows_per_chunk,
        format="tabular",
    )
    source = data_set.description.source
    rows = {split: data_set.num_rows(split) for split in ("train", "validation", "test")}
    assert sum(rows.values()) == 200
    assert source.events.model_dump() == {
        "joined": 75,  # 50 clicks and 25 purchases
        "unmatched": 10,
        "others": {"scroll": 10},
        "repeated": 0,
        "anonymous": 0,
        "late": {},
    }
    assert source.lines == 200 + 75 + 10 + 10
    clicks, engaged = (
        sum(data_set.label_sum(split, label) for split in rows) for label in ("click", "engagement")
    )
    assert (clicks, engaged) == (50, 25)
    assert sum(data_set.label_sum(split, "revenue") for split in rows) == 25 * 5.5
    # The two views of a user at one time are a request.
    assert data_set.num_requests("train") == rows["train"] / 2
    assert reader.DataSet(tmp_path / "data").schema == SHOP


def test_a_log_with_repeated_events_converts_as_without_them(tmp_path):
    path = write_log(tmp_path / "log.csv")
    header, *rows = path.read_text().splitlines()
    plain = logs.converted_table(path, tmp_path / "data", SHOP)
    path.write_text("\n".join([header, *rows, *rows[::3]]) + "\n")
    repeated = logs.converted_table(path, tmp_path / "repeated", SHOP)
    source = repeated.description.source
    # The 10 scrolls among the 295 rows were left out by their type.
    assert source.events.others["scroll"] + source.events.repeated == 10 + -(-295 // 3)
    assert source.lines == 200 + source.events.num_rows
    for split in ("train", "validation", "test"):
        assert repeated.num_rows(split) == plain.num_rows(split)
        for label in ("click", "engagement", "revenue"):
            assert repeated.label_sum(split, label) == plain.label_sum(split, label)


def test_a_log_without_impressions_names_its_types(tmp_path):
    path = write_log(tmp_path / "log.csv")
    found = r"in the schema; types that it does not name: view \(200 rows\), "
    for view, click, named in [
        (("impression",), ("click",), r"\['impression'\], the types of views"),
        ((), ("tap",), r"\['tap'\], the types of clicks"),
    ]:
        events = dataclasses.replace(EVENTS, view=view, click=click, engagement=())
        schema = dataclasses.replace(SHOP, click=None, engagement=None, events=events, weights=None)
        with pytest.raises(ValueError, match=f"^No row is an impression: .* of {named} {found}"):
            logs.converted_table(path, tmp_path / "data", schema)


def test_a_test_file_without_the_types_of_events_is_refused(tmp_path):
    test = tmp_path / "test.csv"
    test.write_text("user,country,sku,price,ts\nu1,c1,s1,,1700000000\n")
    source = convert.Source(
        write_log(tmp_path / "log.csv"), SHOP, format="tabular", test_path=(test,)
    )
    with pytest.raises(ValueError, match=r"test\.csv lacks the columns \['event'\]"):
        convert.convert(source, tmp_path / "data")
    # Its revenue is a label, which may be unknown.
    test.write_text("user,country,sku,event,ts\nu1,c1,s1,view,1700000000\n")
    convert.convert(source, tmp_path / "data")
    assert reader.DataSet(tmp_path / "data").num_rows("test") == 1


def test_only_views_need_a_position_a_split_and_a_local_time(tmp_path):
    rows = [
        f"u{number},s1,view,{number},,{number % 3},{split},2024-05-01T0{number % 7}:00"
        for number, split in enumerate(["train"] * 20 + ["validation"] * 5 + ["test"] * 5)
    ]
    orders = [f"u{number},s1,purchase,{number + 1},5.5,,," for number in range(0, 30, 2)]
    bad = ["u0,s2,view,40,,,test,2024-05-01T00:00", "u0,s2,view,41,,1,,2024-05-01T00:00"]
    header = "user,sku,event,ts,price,slot,part,local"
    path = tmp_path / "log.csv"
    path.write_text("\n".join([header, *rows, *orders, *bad]) + "\n")
    hour = Field("hour", "categorical", "query", column="local", calendar="hour", min_count=1)
    fields = (hour, SHOP.fields[1])
    schema = dataclasses.replace(SHOP, fields=fields, position="slot", split="part")
    data_set = logs.converted_table(path, tmp_path / "data", schema)
    source = data_set.description.source
    assert (source.rejected, source.events.joined) == (2, 15)
    assert data_set.label_sum("train", "revenue") == 10 * 5.5
    assert sorted(data_set.column("train", "position")) == [0] * 7 + [1] * 7 + [2] * 6
    assert (tmp_path / "data/rejected.tsv").read_text().count("slot must be a whole number") == 1


def test_a_wrong_time_does_not_change_the_unit_of_the_window(tmp_path):
    seconds = write_log(tmp_path / "log.csv").read_text()
    milliseconds = re.sub(r"(?m)(\d{10})$", r"\g<1>000", seconds)
    (tmp_path / "log.csv").write_text(f"{milliseconds}u1,c1,s9,view,,0\n")
    data_set = logs.converted_table(tmp_path / "log.csv", tmp_path / "data", SHOP)
    assert data_set.description.times_by_unit["milliseconds"] == 200 + 75 + 10
    assert data_set.description.source.events.joined == 75


def test_a_schema_of_events_is_read_back_and_faults_are_named(tmp_path):
    schema_lib.save_schema(SHOP, tmp_path / "schema.json")
    assert schema_lib.load_schema(tmp_path / "schema.json") == SHOP
    left_out = ("click", "engagement", "weights")
    value = {k: v for k, v in SHOP.to_json().items() if k not in left_out}
    value["events"] = {"column": "event", "view": ["view"], "click": ["click"]}
    # The labels are those of the event types: no purchase, no engagement.
    schema = schema_lib.schema_from_json(value)
    assert (schema.click, schema.engagement) == ("event", None)
    for events, message in [
        (["click"], r"events must be an object, got \['click'\]"),
        ({"view": ["v"]}, r"The object events lacks \['column'\]"),
        ({"column": "e", "clicks": ["c"]}, r"unknown key 'clicks'\. Did you mean 'click'\?"),
        ({"column": "e", "view": ["v"]}, "click names no event type"),
        ({"column": "e", "click": "c"}, "click must be a list of event types"),
        ({"column": "e", "click": ["c"], "view": ["c"]}, "a type is named twice"),
        ({"column": "e", "click": ["c"], "window_seconds": 0}, "window_seconds must be a number"),
    ]:
        with pytest.raises(ValueError, match=message):
            schema_lib.schema_from_json({**value, "events": events})
    with pytest.raises(ValueError, match="click follows from the event types"):
        schema_lib.schema_from_json({**value, "click": "clicked"})
    with pytest.raises(ValueError, match="joined by user_key or request_key"):
        dataclasses.replace(SHOP, user_key=None)
