"""The time of a log in proposed schemas: split over columns, or counted in days."""

import datetime
import pathlib
from typing import Any

import pandas as pd
import pytest

from tfrecords.schema_inference import proposal as infer

ROWS = 120
TIMES = [datetime.datetime(2024, 5, 1) + datetime.timedelta(minutes=37 * n) for n in range(ROWS)]


def propose(tmp_path: pathlib.Path, **more: Any) -> tuple[dict[str, Any], list[str]]:
    """Proposes for 120 rows of 7 users and 5 ads."""
    columns = {
        **more,
        "user_id": [f"u{n % 7}" for n in range(ROWS)],
        "ad_id": [f"a{n % 5}" for n in range(ROWS)],
        "click": [int(n % 3 == 0) for n in range(ROWS)],
    }
    rows = [columns.keys(), *zip(*columns.values(), strict=True)]
    path = tmp_path / "log.tsv"
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    proposal, notes = infer.propose([path])
    return proposal, [note for note in notes if note.startswith("! ") or " time" in note]


@pytest.mark.parametrize(
    ("date", "name", "clock", "both"),
    [
        ("%Y-%m-%d", "time", "%H:%M:%S", ""),
        ("%Y-%m-%d", "hour", "%H", ' + ":00"'),
        ("%d.%m.%Y", "Uhrzeit", "%H:%M", ", format='%d.%m.%Y %H:%M'"),
        ("%Y%m%d", "event_hour", "%H", ", format='%Y%m%d %H'"),
        ("%m/%d/%Y", "time", "%I:%M %p", ", format='%m/%d/%Y %I:%M %p'"),
    ],
)
def test_a_time_in_two_columns_should_be_joined(
    tmp_path: pathlib.Path, date: str, name: str, clock: str, both: str
) -> None:
    split = {
        "date": [at.strftime(date) for at in TIMES],
        name: [at.strftime(clock) for at in TIMES],
    }
    proposal, notes = propose(tmp_path, **split)
    assert proposal["time"] == "date"
    assert "H" not in proposal.get("time_format", "")
    assert (name in {field["name"] for field in proposal["fields"]}) == (clock == "%H")
    (said,) = [note for note in notes if note.startswith("! ")]
    assert f"The time is split over 'date' and '{name}'" in said
    assert "times within a day are lost" in said
    columns = f"""log['date'].astype(str) + " " + log['{name}'].astype(str){both}"""
    assert said.endswith(f'log["time"] = pd.to_datetime({columns})')
    # Another column has both.
    _, notes = propose(tmp_path, **split, timestamp=[at.isoformat() for at in TIMES])
    assert "is split over" not in " ".join(notes)


@pytest.mark.parametrize("name", ["event_ts", "shown_at", "log_date"])
def test_the_time_of_an_event_is_preferred_to_the_time_of_a_job(
    tmp_path: pathlib.Path, name: str
) -> None:
    # One job a day, and an event every 37 minutes.
    loaded = [at.date().isoformat() + "T23:59:59" for at in TIMES]
    events = [at.isoformat() for at in TIMES]
    proposal, _ = propose(tmp_path, load_time=loaded, ingested_at=loaded, **{name: events})
    assert proposal["time"] == name
    assert "load_time" not in {field["name"] for field in proposal["fields"]}
    proposal, _ = propose(tmp_path, load_time=events)
    assert proposal["time"] == "load_time"


@pytest.mark.parametrize("time_format", ["%d.%m.%Y %H:%M", "%m/%d/%Y %I:%M %p", "%d.%m.%y %H:%M"])
def test_times_in_a_format_need_no_known_name(tmp_path: pathlib.Path, time_format: str) -> None:
    texts = [at.strftime(time_format) for at in TIMES]
    released = [f"0{1 + n % 5}.06.2023" for n in range(ROWS)]
    proposal, _ = propose(tmp_path, released=released, gesehen=texts)
    assert (proposal["time"], proposal["time_format"]) == ("gesehen", time_format)
    assert "gesehen" not in {field["name"] for field in proposal["fields"]}
    assert "request_key" not in proposal


@pytest.mark.parametrize(("days", "name"), [(0, "shown_ts"), (40, "date")])
def test_a_time_of_day_is_preferred_to_its_date(
    tmp_path: pathlib.Path, days: int, name: str
) -> None:
    # Within the date, or 40 days later.
    later = [at + datetime.timedelta(days=days * (n % 2)) for n, at in enumerate(TIMES)]
    dates = [at.date().isoformat() for at in TIMES]
    proposal, _ = propose(tmp_path, date=dates, shown_ts=[at.isoformat() for at in later])
    assert proposal["time"] == name


@pytest.mark.parametrize(("hours", "is_reported"), [(1, False), (25, True)])
def test_ids_that_restart_each_day_are_not_requests(
    tmp_path: pathlib.Path, hours: int, is_reported: bool
) -> None:
    # Ten requests of three rows, then the same ids again.
    minutes = [n // 3 + 60 * hours * (n // 30) for n in range(ROWS)]
    columns = {
        "time": [TIMES[0] + datetime.timedelta(minutes=of_row) for of_row in minutes],
        "request_id": [n // 3 % 10 for n in range(ROWS)],
        "ad_id": [f"a{n % 7}" for n in range(ROWS)],
        "country": ["CH" if n // 3 % 2 else "DE" for n in range(ROWS)],
        "click": [int(n % 5 == 0) for n in range(ROWS)],
    }
    rows = [columns.keys(), *zip(*columns.values(), strict=True)]
    path = tmp_path / "log.tsv"
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    proposal, notes = infer.propose([path])
    assert (proposal.get("request_key") is None) == is_reported
    told = "! 'request_id' is not a request, because its values reappear after more than a day"
    assert any(note.startswith(told) for note in notes) == is_reported


def test_times_of_day_need_a_date(tmp_path: pathlib.Path) -> None:
    proposal, notes = propose(tmp_path, time=[at.strftime("%H:%M:%S") for at in TIMES])
    assert "time" not in proposal
    said = " ".join(notes)
    assert "'time' holds times of day without a date, such as '00:00:00'" in said
    assert "time_format" not in said


@pytest.mark.parametrize(
    ("name", "step", "is_refused"),
    [("date", 0.01, True), ("Day", 1, True), ("time", 0.01, True), ("time", 1, False)],
)
def test_days_since_1900_are_not_seconds(
    tmp_path: pathlib.Path, name: str, step: float, is_refused: bool
) -> None:
    proposal, notes = propose(
        tmp_path, **{name: [round(45_413 + step * n, 2) for n in range(ROWS)]}
    )
    assert ("time" not in proposal) == is_refused
    assert name not in {field["name"] for field in proposal["fields"]}
    said = [note for note in notes if note.startswith(f"! {name!r} is not the time")]
    assert len(said) == is_refused
    # 45,413 is May 1, 2024.
    remedy = f'pd.to_datetime(log[{name!r}], unit="D", origin="1899-12-30")'
    assert all(note.endswith(remedy) for note in said)


@pytest.mark.parametrize(
    ("name", "days", "is_refused"), [("DAY", 1, True), ("week_no", 7, True), ("age", 1, False)]
)
def test_counted_days_should_be_dates(
    tmp_path: pathlib.Path, name: str, days: int, is_refused: bool
) -> None:
    proposal, notes = propose(tmp_path, **{name: [1 + n // 4 for n in range(ROWS)]})
    assert "time" not in proposal
    assert (name not in {field["name"] for field in proposal["fields"]}) == is_refused
    said = [note for note in notes if note.startswith(f"! {name!r} is not the time")]
    assert len(said) == is_refused
    factor = "" if days == 1 else f"{days} * "
    remedy = f'= pd.to_datetime({factor}log[{name!r}], unit="D", origin="2000-01-01")'
    assert all(note.endswith(remedy) for note in said)


def test_days_that_follow_the_time_are_not_a_field_and_days_of_the_week_are(
    tmp_path: pathlib.Path,
) -> None:
    counted, of_week = [1 + n // 4 for n in range(ROWS)], [n // 4 % 7 for n in range(ROWS)]
    proposal, notes = propose(tmp_path, time=TIMES, day=counted, day_of_week=of_week)
    assert proposal["time"] == "time"
    assert "day_of_week" in {field["name"] for field in proposal["fields"]}
    assert any("a time, and later requests have later times" in note for note in notes)
    assert "day" not in {field["name"] for field in proposal["fields"]}


def test_a_date_may_be_named_dt(tmp_path: pathlib.Path) -> None:
    dates = [at.strftime("%m/%d/%Y") for at in TIMES]
    proposal, _ = propose(tmp_path, transaction_dt=dates)
    assert (proposal["time"], proposal["time_format"]) == ("transaction_dt", "%m/%d/%Y")


@pytest.mark.parametrize("are_dates", [True, False])
def test_months_and_days_are_not_seconds(tmp_path: pathlib.Path, are_dates: bool) -> None:
    numbers = [100 * (5 + n // 20) + 1 + n % 20 + (0 if are_dates else 79) for n in range(ROWS)]
    proposal, notes = propose(tmp_path, time_stamp=numbers)
    assert proposal["time"] == "time_stamp"
    remedy = "pd.to_datetime(\"2000\" + log['time_stamp'].astype(str).str.zfill(4))"
    assert any(note.endswith(remedy) for note in notes) == are_dates


@pytest.mark.parametrize(
    ("offsets", "is_mixed"),
    [
        (("", "+02:00"), True),
        (("", "Z"), True),
        (("+01:00", "+0200"), False),
        (("", ""), False),
    ],
)
def test_times_with_and_without_offsets_are_named(
    tmp_path: pathlib.Path, offsets: tuple[str, str], is_mixed: bool
) -> None:
    texts = [f"2026-10-{1 + n // 24:02d}T{n % 24:02d}:30:00{offsets[n % 2]}" for n in range(ROWS)]
    proposal, notes = propose(tmp_path, time_stamp=texts)
    assert proposal["time"] == "time_stamp"
    assert any("have an offset" in note for note in notes) == is_mixed


@pytest.mark.parametrize(
    ("form", "zone", "offset"),
    [
        ("%Y-%m-%d %H:%M:%S {}", "CEST", "+02:00"),
        ("%Y-%m-%dT%H:%M:%S.%f{}", "Europe/Zurich", "+02:00"),
        ("%a %b %d %H:%M:%S {} %Y", "CEST", "+02:00"),
        ("%Y-%m-%dT%H:%M:%S+02:00{}", "[Europe/Zurich]", ""),
        ("%Y-%m-%dT%H:%MZ{}", "[UTC]", ""),
    ],
)
def test_a_note_on_names_of_zones_makes_the_times_readable(
    tmp_path: pathlib.Path, form: str, zone: str, offset: str
) -> None:
    texts = [at.strftime(form.format(zone)) for at in TIMES]
    proposal, (said,) = propose(tmp_path, timestamp=texts)
    assert "time" not in proposal
    assert said.startswith(
        f"! 'timestamp' is not the time, because names of zones such as {zone!r}"
    )
    log = pd.DataFrame({"timestamp": texts})
    exec(said.partition("offset: ")[2])
    assert log.timestamp[0] == texts[0].replace(zone, offset)
    proposal, notes = propose(tmp_path, timestamp=log.timestamp)
    assert proposal["time"] == "timestamp"
    assert not any(note.startswith("! ") for note in notes)


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M Uhr", "%Y-%m-%d %I:%M %p sharp"])
def test_other_text_after_a_time_is_no_zone(tmp_path: pathlib.Path, form: str) -> None:
    _, (said,) = propose(tmp_path, timestamp=[at.strftime(form) for at in TIMES])
    assert "is neither a number nor an ISO 8601 time" in said


@pytest.mark.parametrize(
    ("start", "wrong", "is_date"),
    [
        (893_286_638, None, True),  # April 1998, as in MovieLens.
        (893_286_638, 0, True),  # A wrong time does not change the unit.
        (3_000_000_000, None, True),  # 2065.
        (500_000_000, None, False),  # 1985.
    ],
)
def test_numbers_are_dates_if_the_conversion_reads_them_as_dates(
    tmp_path: pathlib.Path, start: int, wrong: int | None, is_date: bool
) -> None:
    times = [start + 2_220 * n for n in range(ROWS)]
    times[7] = times[7] if wrong is None else wrong
    propose(tmp_path, timestamp=times)
    proposal, notes = infer.propose([tmp_path / "log.tsv"])
    assert proposal["time"] == "timestamp"
    assert any("They count as seconds" in note for note in notes) == (not is_date)


@pytest.mark.parametrize("name", ["timestamp", "shown_at"])
def test_times_that_are_not_read_are_named_and_no_categories(
    tmp_path: pathlib.Path, name: str
) -> None:
    texts = [f"{at:%d} mai 2024 à {at.hour}h" for at in TIMES]  # 74 different hours
    proposal, notes = propose(tmp_path, **{name: texts})
    assert name not in {field["name"] for field in proposal["fields"]}
    assert notes == [
        f"{name!r} is not the time, because '01 mai 2024 à 0h' is neither a number nor an ISO 8601 "
        "time. If it is the time, set time and time_format in the schema.",
        f"Left out (a time that is not read, and later requests have later times): {name!r}.",
    ]


def test_dates_of_ads_that_are_not_read_are_fields(tmp_path: pathlib.Path) -> None:
    released = [f"{1990 + n % 5} mai" for n in range(ROWS)]
    proposal, notes = propose(tmp_path, release_date=released)
    assert "release_date" in {field["name"] for field in proposal["fields"]}
    assert notes == []
