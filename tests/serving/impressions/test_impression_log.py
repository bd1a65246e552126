"""The impression log: its rows, that it never fails an answer, and its join with feedback."""

import asyncio
import collections
import contextlib
import dataclasses
import json
import pathlib

import clocks
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving_fixtures
import waiting

from serving import errors, impressions, requests
from serving.config import ImpressionLogConfig
from serving.health import Health
from serving.impressions import impression_log, impression_rows, logged_schema

REQUEST = requests.Request(user={"country": "CH", "age": 33, "history": ["ad-3"]}, k=3)


def valid(release, request=REQUEST):
    return requests.Validator(release.manifest, 10, 1000).check(request)


def answer(request_id="r", ad_ids=("ad-1", "ad-2", "ad-4"), **parts):
    """An answer with given ads, of ascending propensities 0.1, 0.2, …"""
    fields = {"advertiser": "a", "category": None, "price": 1.5, "tags": ["x", "y"]}
    ads = [
        requests.RankedAd(
            rank=place + 1,
            ad_id=ad,
            utility=0.5,
            click_probability=0.25,
            engagement_probability=0.125,
            expected_revenue=1.0,
            retrieval_score=0.75,
            fields=fields,
            propensity=(place + 1) / 10,
        )
        for place, ad in enumerate(ad_ids)
    ]
    whole = {"degraded": None, "order": "utility", "absent_heads": [], "stage_ms": {}, **parts}
    return requests.Answer(request_id=request_id, bundle_version=1, ads=ads, **whole)


def written(directory):
    return pa.concat_tables(
        [pq.read_table(path) for path in sorted(directory.glob(impression_log.FILE_PATTERN))]
    )


def test_a_row_has_the_request_and_the_ad_with_its_position_and_scores(tiny_bundle, tmp_path):
    log = impression_log.ImpressionLog(tmp_path / "deep" / "log")
    log.record(tiny_bundle.manifest, valid(tiny_bundle), answer())
    log.close()
    rows = written(tmp_path / "deep" / "log").to_pylist()
    assert [row["_position"] for row in rows] == [0, 1, 2]
    assert [row["_ad_id"] for row in rows] == ["ad-1", "ad-2", "ad-4"]
    assert [row["_propensity"] for row in rows] == [0.1, 0.2, 0.3]
    assert len({(row["_answer_id"], row["_time"]) for row in rows}) == 1
    request_fields = {"country": "CH", "device": None, "age": 33.0, "history": ["ad-3"]}
    ad_fields = {"advertiser": "a", "category": None, "price": 1.5, "tags": ["x", "y"]}
    assert rows[1] == {
        "_answer_id": rows[1]["_answer_id"],
        "_request_id": "r",
        "_user_id": None,
        "_user_data": None,
        "_time": rows[1]["_time"],
        "_bundle_version": 1,
        "_order": "utility",
        "_degraded": None,
        "_position": 1,
        "_ad_id": "ad-2",
        "_utility": 0.5,
        "_click_probability": 0.25,
        "_engagement_probability": 0.125,
        "_expected_revenue": 1.0,
        "_retrieval_score": 0.75,
        "_propensity": 0.2,
        "_weight_click": 1.0,
        "_weight_engagement": 1.0,
        "_weight_revenue": 1.0,
        **request_fields,
        **ad_fields,
    }
    assert log.status()["written_rows"] == 3
    assert [path.name for path in (tmp_path / "deep" / "log").glob(".*")] == []


def test_degraded_answers_of_the_orchestrator_are_logged(tiny_bundle, tmp_path):
    address = f"127.0.0.1:{serving_fixtures.free_port()}"
    log = impression_log.ImpressionLog(tmp_path)

    async def main():
        service = serving_fixtures.make_orchestrator(tiny_bundle, address)
        service.impressions = log
        try:
            return await serving_fixtures.together(service, [REQUEST, requests.Request(k=2)])
        finally:
            await service.close()

    answers = asyncio.run(main())
    log.close()
    rows = written(tmp_path).to_pylist()
    expected = [(a.request_id, ad.ad_id, ad.retrieval_score) for a in answers for ad in a.ads]
    assert len(expected) == 5
    assert [(r["_request_id"], r["_ad_id"], r["_retrieval_score"]) for r in rows] == expected
    assert {row["_order"] for row in rows} == {"retrieval"}
    assert all(address in row["_degraded"] and row["_utility"] is None for row in rows)


def test_files_are_written_by_size_and_by_age(tiny_bundle, tmp_path):
    config = ImpressionLogConfig(rows_per_file=800, seconds_per_file=600)
    log = impression_log.ImpressionLog(tmp_path, config)
    request = valid(tiny_bundle)
    for number in range(400):
        log.record(tiny_bundle.manifest, request, answer(str(number)))
    log.close()
    # Batches of at least 400 rows, of whole answers: 402; a file has two, 804 rows; 1200 - 804.
    sizes = sorted(pq.read_metadata(path).num_rows for path in tmp_path.glob("*.parquet"))
    assert sizes == [396, 804]
    clock = clocks.Clock()
    log = impression_log.ImpressionLog(tmp_path / "aged", config, clock)
    log.record(tiny_bundle.manifest, request, answer())
    waiting.until(lambda: log.status()["pending_rows"] == 3)
    assert log.status()["files"] == log.status()["queued_answers"] == 0
    clock.advance(600)
    waiting.until(lambda: log.status()["files"])
    assert written(tmp_path / "aged").num_rows == 3
    assert log.status()["pending_rows"] == 0
    log.close()


def test_answers_beyond_the_queue_are_dropped_and_counted(tiny_bundle, tmp_path):
    log = impression_log.ImpressionLog(tmp_path, ImpressionLogConfig(max_queued=5))
    request = valid(tiny_bundle)
    recorded = 0
    # Faster than the thread polls the queue.
    while log.status()["dropped_answers"] < 10 and recorded < 100_000:
        log.record(tiny_bundle.manifest, request, answer())
        recorded += 1
    log.close()
    status = log.status()
    assert status["dropped_answers"] == 10
    assert status["written_rows"] == 3 * (recorded - 10)
    assert status["queued_answers"] == 0


def test_a_directory_that_cannot_be_written_loses_rows_not_answers(tiny_bundle, tmp_path):
    directory = tmp_path / "log"
    config = ImpressionLogConfig(rows_per_file=400, seconds_per_file=600)
    log = impression_log.ImpressionLog(directory, config)
    directory.rmdir()
    request = valid(tiny_bundle)
    for _ in range(400):
        log.record(tiny_bundle.manifest, request, answer())
    log.close()
    status = log.status()
    assert "No such file or directory" in status["problem"]
    assert status["written_rows"] == 0
    assert status["dropped_rows"] > 0
    with pytest.raises(
        errors.ImpressionLogError, match=r"is not writable .* expected a directory to write"
    ):
        impression_log.ImpressionLog("/proc/nothing")


def test_an_answer_that_cannot_become_rows_loses_only_its_own_rows(tiny_bundle, tmp_path):
    counted = collections.Counter()

    def observe(outcome, rows):
        counted[outcome] += rows

    log = impression_log.ImpressionLog(tmp_path, observe=observe)
    # A string that is not Unicode text.
    log.record(tiny_bundle.manifest, valid(tiny_bundle), answer("\ud800"))
    log.close()
    log = impression_log.ImpressionLog(tmp_path, observe=observe)
    log.record(tiny_bundle.manifest, valid(tiny_bundle), answer("r"))
    log.close()
    assert counted == {"dropped": 3, "written": 3}
    assert written(tmp_path)["_request_id"].to_pylist() == ["r"] * 3


def test_rows_that_cannot_be_written_at_the_end_are_counted_and_logged(
    tiny_bundle, tmp_path, caplog
):
    counted = collections.Counter()
    log = impression_log.ImpressionLog(
        tmp_path / "log",
        ImpressionLogConfig(seconds_per_file=0.02),
        observe=lambda outcome, rows: counted.update({outcome: rows}),
    )
    (tmp_path / "log").rmdir()
    log.record(tiny_bundle.manifest, valid(tiny_bundle), answer())
    # The same problem as at the end.
    waiting.until(lambda: log.status()["problem"])
    assert log.status()["pending_rows"] == 3
    log.close()
    assert log.status()["dropped_rows"] == counted["dropped"] == 3
    assert log.status()["pending_rows"] == 0
    assert caplog.messages == [
        f"impression log: {tmp_path / 'log'} cannot be written: No such file or directory. "
        "The latest rows wait in memory. Check the directory, its permissions and the space on its "
        "disk; create it again if it was moved.",
        "3 rows of the impression log were lost at shutdown: No such file or directory",
    ]


def test_a_partial_file_that_another_process_renames_is_not_an_error(tmp_path, monkeypatch):
    (tmp_path / ".gone.partial").touch()
    monkeypatch.setattr(impression_log, "_ABANDONED_SECONDS", -1.0)
    glob = pathlib.Path.glob

    def glob_and_lose(directory, pattern):
        found = list(glob(directory, pattern))
        (tmp_path / ".gone.partial").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(pathlib.Path, "glob", glob_and_lose)
    impression_log.ImpressionLog(tmp_path).close()


def test_rows_are_kept_until_the_directory_is_back(tiny_bundle, tmp_path):
    directory = tmp_path / "log"
    observed = []
    health = Health(lambda part, has_problem: observed.append(has_problem))
    log = impression_log.ImpressionLog(
        directory, ImpressionLogConfig(seconds_per_file=0.02), health=health
    )
    directory.rmdir()
    log.record(tiny_bundle.manifest, valid(tiny_bundle), answer())
    waiting.until(lambda: log.status()["problem"])
    directory.mkdir()
    log.close()
    assert written(directory).num_rows == 3
    assert log.status()["problem"] is None
    assert (observed[0], observed[-1]) == (True, False)


@pytest.fixture
def log_files(tiny_bundle, tmp_path):
    """Three answers in two files: r1, r2, and r1 again."""
    times = iter([100.0, 200.0, 300.0])
    for group in (["r1", "r2"], ["r1"]):
        shown = [
            impression_rows.RecordedAnswer(valid(tiny_bundle), answer(name), next(times))
            for name in group
        ]
        table = pa.Table.from_batches([impression_rows.batch(tiny_bundle.manifest, shown)])
        path = tmp_path / f"impressions-{group[0]}-{len(group)}.parquet"
        pq.write_table(table, path, write_page_checksum=True)
    return sorted(tmp_path.glob("impressions-*"))


def join(log_files, events, tmp_path, **options):
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    joined = impressions.join_feedback(log_files, [path], tmp_path / "shown.parquet", **options)
    return joined, pq.read_table(tmp_path / "shown.parquet").sort_by(
        [("_time", "ascending"), ("_position", "ascending")]
    )


def test_feedback_is_joined_to_the_ad_that_it_names(log_files, tmp_path):
    events = [
        {"request_id": "r2", "ad_id": "ad-1", "click": 1},
        {"request_id": "r2", "ad_id": "ad-1", "revenue": 2.5},
        {"request_id": "r2", "ad_id": "ad-1", "revenue": 0.5, "click": False, "event_id": 7},
        {"request_id": "r1", "ad_id": "ad-4", "click": 1},
        {"request_id": "r9", "ad_id": "ad-4", "click": 1},
    ]
    joined, table = join(log_files, events, tmp_path)
    # r1 was shown at 100 and again at 300, which gets its click.
    assert table["_time"].to_pylist() == [100.0] * 3 + [200.0] * 3 + [300.0] * 3
    assert table["_click"].to_pylist() == [0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert table["_revenue"].to_pylist() == [0, 0, 0, 3, 0, 0, 0, 0, 0]
    assert table["_propensity"].to_pylist() == [0.1, 0.2, 0.3] * 3
    assert (joined.rows, joined.requests, joined.repeated) == (9, 3, 1)
    assert (joined.events, joined.matched) == (5, 4)
    assert joined.totals == {"click": 2.0, "revenue": 3.0}
    assert (joined.schema["click"], joined.schema["engagement"]) == ("_click", None)


def test_later_impressions_are_left_out(log_files, tmp_path):
    events = [{"request_id": "r1", "ad_id": "ad-1", "click": 1}]
    joined, table = join(log_files, events, tmp_path, until=150)
    assert table["_time"].to_pylist() == [100.0] * 3
    assert (joined.rows, joined.late_rows) == (3, 6)
    with pytest.raises(errors.ImpressionLogError, match="9 are later than --until"):
        join(log_files, events, tmp_path, until=50)


def test_events_are_read_from_parquet(log_files, tmp_path):
    columns = {"request_id": ["r2", "r2"], "ad_id": ["ad-1", "ad-2"], "click": [1, 0]}
    path = tmp_path / "events.parquet"
    pq.write_table(pa.table(columns), path)
    joined = impressions.join_feedback(log_files, [path], tmp_path / "shown.parquet")
    assert (joined.matched, joined.totals) == (2, {"click": 1.0})


def test_events_with_the_same_id_count_once(log_files, tmp_path):
    purchase = {"request_id": "r2", "ad_id": "ad-1", "revenue": 2.5, "click": 1}
    events = [
        {**purchase, "event_id": "e-1"},
        {**purchase, "event_id": "e-2"},
        # The same id for another ad is a different event.
        {**purchase, "event_id": "e-1", "ad_id": "ad-2"},
    ]
    # A copy of a file in another directory.
    copy = tmp_path / "copy" / log_files[0].name
    copy.parent.mkdir()
    copy.write_bytes(log_files[0].read_bytes())
    once, table = join(log_files, events, tmp_path)
    twice, again = join([*log_files, copy], [*events, *events], tmp_path)
    assert table.equals(again)
    assert table["_revenue"].to_pylist() == [0, 0, 0, 5, 2.5, 0, 0, 0, 0]
    assert (once.duplicate_events, once.events) == (0, 3)
    assert (twice.duplicate_events, twice.events) == (3, 3)
    assert (twice.rows, twice.requests, twice.repeated) == (9, 3, once.repeated)


def test_refunds_are_subtracted_from_revenue(log_files, tmp_path):
    events = [
        {"request_id": "r2", "ad_id": "ad-1", "click": 1, "revenue": 5},
        {"request_id": "r2", "ad_id": "ad-1", "revenue": -2},
        # Its purchase is not in the log.
        {"request_id": "r2", "ad_id": "ad-2", "click": 1, "revenue": -4},
    ]
    joined, table = join(log_files, events, tmp_path)
    assert table["_revenue"].to_pylist()[3:6] == [3, 0, 0]
    assert table["_click"].to_pylist()[3:6] == [1, 1, 0]
    assert joined.totals["revenue"] == 3.0


GOOD = (
    '{"request_id": "r2", "ad_id": "ad-1", "click": 1}\n'
    '{"request_id": "r2", "ad_id": "ad-2", "click": 0}'
)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"request_id": "r2", "ad', "Unterminated string"),
        (b"\0\0\0\0", "Expecting value"),
        (b"[1]", "expected a JSON object, got [1] (list)"),
        (b'{"ad_id": "a", "click": 1}', "expected request_id as a string or an integer, got None"),
        (b'{"request_id": "\\ud800", "ad_id": 1}', "surrogates not allowed"),
        (b'{"request_id": "r\xff", "ad_id": 1}', "invalid start byte"),
        (b'{"request_id": "r", "ad_id": 1, "click": "1"}', "expected 0 or 1 as click, got '1'"),
        (b'{"request_id": "r", "ad_id": 1, "click": 2}', "expected 0 or 1 as click, got 2"),
        (b'{"request_id": "r", "ad_id": 1, "revenue": NaN}', "expected a finite number as revenue"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_malformed_events_are_counted_and_left_out(log_files, tmp_path, line, reason):
    path, output = tmp_path / "e.jsonl", tmp_path / "shown.parquet"
    path.write_bytes(GOOD.encode() + b"\n" + line)
    joined = impressions.join_feedback(log_files, [path], output, max_rejected_fraction=0.5)
    assert (joined.events, joined.rejected_events, joined.totals["click"]) == (2, 1, 1.0)
    assert joined.first_rejected.startswith(f"{path}, line 3: ")
    assert reason in joined.first_rejected


def test_logged_events_without_an_answer_do_not_count_as_malformed(log_files, tmp_path):
    other = {"request_id": None, "ad_id": "a", "event_id": "e", "user_id": "u", "click": 1}
    events = tmp_path / "events.jsonl"
    events.write_text(f"{json.dumps(other)}\n" * 200 + f"{GOOD}\n" + '{"request_id": "tor')
    joined = impressions.join_feedback(log_files, [events], tmp_path / "shown.parquet")
    assert (joined.other_events, joined.rejected_events) == (200, 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.jsonl", "{", "Malformed events: 1 of 1; expected a share of at most 0.01"),
        ("e.jsonl", '{"request_id": "r", "ad_id": "a"}', "Expected events with click as 0 or 1"),
        (
            "e.jsonl",
            '{"request_id": null, "ad_id": "a", "event_id": "e", "user_id": "u", "click": 1}',
            "1 events, of which 1 name no answer. Send the request_id of the answer",
        ),
        ("e.csv", "request_id,ad_id,click", "expected events as JSON lines (.jsonl) or Parquet"),
        ("e.parquet", "text", "e.parquet cannot be read ("),
    ],
)
def test_files_without_valid_events_are_refused(log_files, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(errors.ImpressionLogError) as refused:
        impressions.join_feedback(log_files, [tmp_path / name], tmp_path / "shown.parquet")
    assert message in str(refused.value)
    with pytest.raises(errors.ImpressionLogError, match=r"none\.jsonl cannot be read"):
        impressions.join_feedback(log_files, [tmp_path / "none.jsonl"], tmp_path / "shown.parquet")
    assert not (tmp_path / "shown.parquet").exists()


def test_a_flipped_bit_is_found(log_files, tmp_path):
    events = tmp_path / "events.jsonl"
    events.write_text('{"request_id": "r1", "ad_id": "ad-1", "click": 1}')
    content = log_files[0].read_bytes()
    output = tmp_path / "shown.parquet"
    impressions.join_feedback(log_files, [events], output)
    expected = output.read_bytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for position in range(4, end, end // 60):
        flipped = bytearray(content)
        flipped[position] ^= 4
        log_files[0].write_bytes(flipped)
        with contextlib.suppress(errors.ImpressionLogError):
            impressions.join_feedback(log_files, [events], output)
        # A flip that is not found is in a part of a page header that is not read.
        assert output.read_bytes() == expected


def test_files_of_other_programs_and_schemas_are_refused(log_files, tmp_path):
    events = tmp_path / "events.jsonl"
    events.write_text('{"request_id": "r1", "ad_id": "ad-1", "click": 1}')
    other = tmp_path / "other.parquet"
    for content, message in (
        (pa.table({"x": [1]}), "but another Parquet file"),
        (pq.read_table(log_files[0]).drop_columns("price"), "expected the column 'price'"),
    ):
        pq.write_table(content, other)
        with pytest.raises(errors.ImpressionLogError, match=message):
            impressions.join_feedback([*log_files, other], [events], tmp_path / "shown.parquet")
    other.write_bytes(b"PAR1")
    with pytest.raises(errors.ImpressionLogError, match="cannot be read as a file of the impr"):
        impressions.join_feedback([other], [events], tmp_path / "shown.parquet")


def test_the_next_schema_keeps_users_and_histories(tiny_bundle, tmp_path):
    listed = {"name": "history", "kind": "history", "side": "query", "of": "ad", "event": "click"}
    changed = dataclasses.replace(
        tiny_bundle.manifest,
        schema={"name": "tiny", "user_key": "uid", "fields": [listed]},
        query_fields=[
            *tiny_bundle.manifest.query_fields,
            {"name": "history__age_seconds", "kind": "numeric_list", "of": "history"},
        ],
    )
    values = {"history": [b"ad-3"], "history__age_seconds": [60.0]}
    asked = dataclasses.replace(valid(tiny_bundle), values=values, user_id="u")
    shown = [impression_rows.RecordedAnswer(asked, answer("r"), 100.0)]
    table = pa.Table.from_batches([impression_rows.batch(changed, shown)])
    row = table.to_pylist()[0]
    assert (row["_user_id"], row["history"], row["history__age_seconds"]) == ("u", ["ad-3"], [60])
    pq.write_table(table, tmp_path / "log.parquet")
    converted = logged_schema.newest_schema([tmp_path / "log.parquet"]).to_convert(["click"])
    assert converted["user_key"] == "_user_id"
    by_name = {field["name"]: field for field in converted["fields"]}
    assert by_name["history"] == listed
    assert "history__age_seconds" not in by_name


def test_a_head_that_is_not_a_label_is_not_converted():
    heads = {"click": "probability", "install": "probability"}
    logged = logged_schema.LoggedSchema([], [], {}, heads)
    converted = logged.to_convert(["click", "install"])
    assert converted["click"] == "_click"
    assert "install" not in converted


def test_values_and_weights_of_the_feedback_are_kept_in_the_next_schema():
    heads = {"click": "probability", "engagement": "probability_after_click"}
    source = {"values": {"click": 0.05, "engagement": 2.0}, "weights": {"engagement": 1.0}}
    logged = logged_schema.LoggedSchema([], [], source, heads)
    # There was no feedback on engagements.
    converted = logged.to_convert(["click"])
    assert converted["values"] == {"click": 0.05}
    assert "weights" not in converted


def test_the_name_of_a_schema_does_not_grow_with_each_joined_log():
    names = [
        logged_schema.LoggedSchema([], [], {"name": name}, {}).to_convert([])["name"]
        for name in ("shop", "shop_shown")
    ]
    assert names == ["shop_shown", "shop_shown"]


def test_histories_and_rates_of_the_next_schema_lose_events_without_feedback():
    orders = {"kind": "history", "side": "query", "of": "ad", "name": "orders"}
    fields = [
        {"name": "city", "kind": "categorical", "side": "query"},
        {**orders, "event": "engagement"},
        {**orders, "name": "acts", "event": ["impression", "click", "engagement"]},
        {"name": "rate", "kind": "numeric", "side": "ad", "of": "ad", "event": "engagement"},
    ]
    heads = {"click": "probability", "engagement": "probability_after_click"}
    logged = logged_schema.LoggedSchema([], fields, {}, heads)
    assert logged.to_convert(["click", "engagement"])["fields"] == fields
    # A schema without an engagement column must not count engagements.
    acts = {**orders, "name": "acts", "event": ["impression", "click"]}
    assert logged.to_convert(["click"])["fields"] == [fields[0], acts]
