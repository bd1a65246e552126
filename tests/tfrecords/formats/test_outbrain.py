"""The Outbrain log: joins, derived columns, missing and bad files and rows."""

import dataclasses
import gzip
import pathlib
import threading

import pytest

from tfrecords import convert, formats, reader
from tfrecords import schema as schema_lib
from tfrecords.formats.outbrain import columns_of_tables, log
from tfrecords.formats.outbrain import tables as outbrain_tables

# Kaggle's layouts, with its quirks. Timestamps are milliseconds since 2016-06-14 03:59:59.998.
FILES = {
    "clicks_train.csv": """\
display_id,ad_id,clicked
1,42337,0
1,139684,1
2,139684,0
2,7,1
3,42337,1
4,42337,0
4,8,1
""",
    "clicks_test.csv": """\
display_id,ad_id
5,42337
5,139684
""",
    "events.csv": """\
display_id,uuid,document_id,timestamp,platform,geo_location
1,cb8c55702adb93,379743,61,3,US>SC>519
2,79a85fa78311b9,1794259,81,2,US>CA
3,822932ce3d8757,1179111,3600002,\\N,--
4,85281d0a49f7ac,1777797,72000002,1.0,
5,cb8c55702adb93,9,86400002,1,US>--
""",
    # In no order; ad 8 is not there; ads 5 and 6 are never shown.
    "promoted_content.csv": """\
ad_id,document_id,campaign_id,advertiser_id
139684,1200,30,40
42337,379743,31,41
7,1300,32,
5,1400,33,42
6,,34,43
""",
    "documents_meta.csv": """\
document_id,source_id,publisher_id,publish_time
1200,5,,2016-06-13 03:59:59
379743,6,603,2016-06-04 00:00:00
1300,,604,2050-01-01 00:00:00
1794259,7,605,
1179111,8,606,0000-00-00 00:00:00
1400,9,607,2016-06-15
""",
    "documents_categories.csv": """\
document_id,category_id,confidence_level
379743,1611,0.92
379743,1610,0.07
1200,1702,0.05
1200,1403,0.95
""",
    "documents_topics.csv": """\
document_id,topic_id,confidence_level
1200,140,0.0731
379743,143,0.0354
1200,16,0.0594
1200,260,0.1128
1794259,8,
1794259,9,0.01
""",
}
FIELDS = {name: "query" for name in columns_of_tables.DISPLAY_COLUMNS}
FIELDS.update({name: "ad" for name in columns_of_tables.AD_COLUMNS})
NUMERIC = ("timestamp", "time", "publish_time", "age_days", "ad_publish_time", "ad_age_days")


def all_columns():
    """A schema with every column that there is."""
    fields = []
    for name, side in FIELDS.items():
        kind = "categorical_list" if name in columns_of_tables.LIST_COLUMNS else "categorical"
        fields.append(schema_lib.Field(name, "numeric" if name in NUMERIC else kind, side))
    return dataclasses.replace(log.schema(), fields=tuple(fields))


def write(directory, without=(), end="\n", compress=False, **changes):
    """Writes the files, but for some, with those of `changes` (by the name before the dot)."""
    directory.mkdir(exist_ok=True)
    for name, text in FILES.items():
        text = changes.get(name.removesuffix(".csv"), text)
        if name in without or text is None:
            continue
        content = text.replace("\n", end).encode()
        if compress:
            (directory / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (directory / name).write_bytes(content)
    return directory


def parse(path, schema=None, **files):
    opened = log.open_log(formats.Files((path,), **files), schema or all_columns())
    (chunk,) = opened.chunks()
    return opened.parse(chunk)


def columns(table, *names):
    return [table[name].to_pylist() for name in names]


def test_events_are_joined_to_displays(tmp_path):
    table = parse(write(tmp_path)).table
    displays, ads, clicked = columns(table, "display_id", "ad_id", "clicked")
    assert displays == ["1", "1", "2", "2", "3", "4", "4"]
    assert ads == ["42337", "139684", "139684", "7", "42337", "42337", "8"]
    assert clicked == ["0", "1", "0", "1", "1", "0", "1"]
    assert table[formats.LINE_NUMBER].to_pylist() == [2, 3, 4, 5, 6, 7, 8]
    assert table["uuid"].to_pylist() == [
        *["cb8c55702adb93"] * 2, *["79a85fa78311b9"] * 2, "822932ce3d8757", *["85281d0a49f7ac"] * 2
    ]  # fmt: skip
    assert table["document_id"].to_pylist() == [
        *["379743"] * 2, *["1794259"] * 2, "1179111", *["1777797"] * 2
    ]  # fmt: skip


def test_platforms_and_places_are_cleaned(tmp_path):
    table = parse(write(tmp_path)).table
    platform, country, state, dma, raw = columns(
        table, "platform", "country", "state", "dma", "geo_location"
    )
    assert platform == ["3", "3", "2", "2", None, "1", "1"]
    assert country == ["US", "US", "US", "US", None, None, None]
    assert state == ["SC", "SC", "CA", "CA", None, None, None]
    assert dma == ["519", "519", None, None, None, None, None]
    assert raw == ["US>SC>519", "US>SC>519", "US>CA", "US>CA", None, None, None]


def test_times_are_derived_in_utc(tmp_path):
    table = parse(write(tmp_path)).table
    # Tuesday 14 June 2016, 04:00:00.059, 04:00:00.079, 05:00:00.000; Wednesday 00:00:00.000.
    first = 1465876800
    assert table["time"].to_pylist() == [
        *[first + 0.059] * 2, *[first + 0.079] * 2, first + 3600, *[first + 20 * 3600] * 2
    ]  # fmt: skip
    assert table["hour"].to_pylist() == [4, 4, 4, 4, 5, 0, 0]
    assert table["weekday"].to_pylist() == [1, 1, 1, 1, 1, 2, 2]
    assert table["timestamp"].to_pylist() == [61, 61, 81, 81, 3600002, 72000002, 72000002]


def test_promoted_content_is_joined_to_ads(tmp_path):
    table = parse(write(tmp_path)).table
    document, campaign, advertiser = columns(
        table, "ad_document_id", "campaign_id", "advertiser_id"
    )
    # Ad 8 is not in promoted_content.csv: it stays, with missing values.
    assert document == ["379743", "1200", "1200", "1300", "379743", "379743", None]
    assert campaign == ["31", "30", "30", "32", "31", "31", None]
    assert advertiser == ["41", "40", "40", None, "41", "41", None]


def test_documents_are_joined_on_both_sides(tmp_path):
    table = parse(write(tmp_path)).table
    assert table["source_id"].to_pylist() == ["6", "6", "7", "7", "8", None, None]
    assert table["publisher_id"].to_pylist() == ["603", "603", "605", "605", "606", None, None]
    assert table["ad_source_id"].to_pylist() == ["6", "5", "5", None, "6", "6", None]
    assert table["ad_publisher_id"].to_pylist() == ["603", None, None, "604", "603", "603", None]
    assert table["category_id"].to_pylist() == ["1611", "1611", None, None, None, None, None]
    assert table["topic_id"].to_pylist() == ["143", "143", "9", "9", None, None, None]
    assert table["ad_category_id"].to_pylist() == [
        "1611", "1403", "1403", None, "1611", "1611", None
    ]  # fmt: skip
    # By rising confidence; one without a confidence comes first.
    assert table["topics"].to_pylist() == [[143], [143], [8, 9], [8, 9], [], [], []]
    assert table["ad_topics"].to_pylist() == [
        [143], [16, 140, 260], [16, 140, 260], [], [143], [143], []
    ]  # fmt: skip
    assert table["ad_categories"].to_pylist()[:2] == [[1610, 1611], [1702, 1403]]


def test_the_age_of_a_document_is_in_days_to_the_origin_and_wrong_dates_are_missing(tmp_path):
    table = parse(write(tmp_path)).table
    ages = table["ad_age_days"].to_pylist()
    # 13 June 03:59:59 is 86,400.998 s before 14 June 03:59:59.998; 2050 is after the log.
    assert ages[1] == pytest.approx(1 + 0.998 / 86400)
    assert [age is None for age in ages] == [False, False, False, True, False, False, True]
    # 4 June is 10 days and 3:59:59.998 before.
    assert ages[0] == pytest.approx(10 + (4 * 3600 - 0.002) / 86400)
    # 1 January 2016 was 1,451,606,400; 4 June is day 155 from there (31+29+31+30+31+3).
    assert table["ad_publish_time"].to_pylist()[0] == 1451606400 + 155 * 86400
    # The documents of the displays: 4 June, none, year 0.
    assert table["age_days"].to_pylist()[2:5] == [None, None, None]


def test_all_ads_of_promoted_content_are_read(tmp_path):
    schema = all_columns()
    table = log.read_ads(formats.Files((write(tmp_path),)), schema)
    assert table["ad_id"].to_pylist() == ["5", "6", "7", "42337", "139684"]
    assert set(table.column_names) == {f.source for f in schema.ad_fields}
    assert table["ad_document_id"].to_pylist() == ["1400", None, "1300", "379743", "1200"]
    assert table["ad_source_id"].to_pylist() == ["9", None, None, "6", "5"]
    # Published 2016-06-15, after the log began: 20 hours and 2 ms.
    assert table["ad_age_days"].to_pylist()[0] == pytest.approx(-(20 * 3600 + 0.002) / 86400)
    assert table["ad_topics"].to_pylist() == [[], [], [], [143], [16, 140, 260]]


def test_another_table_of_ads_can_replace_promoted_content(tmp_path):
    directory = write(tmp_path)
    ads = tmp_path / "ads.csv"
    ads.write_text("ad_id,document_id,campaign_id,advertiser_id\n42337,1200,1,2\n99,1200,3,4\n")
    files = formats.Files((directory,), ads=ads)
    table = log.read_ads(files, all_columns())
    assert table["ad_id"].to_pylist() == ["99", "42337"]
    opened = log.open_log(files, all_columns())
    assert ads in opened.files
    assert directory / "promoted_content.csv" not in opened.files
    (chunk,) = opened.chunks()
    assert opened.parse(chunk).table["campaign_id"].to_pylist()[:2] == ["1", None]


def test_a_row_whose_display_is_not_in_events_is_a_fault(tmp_path):
    clicks = FILES["clicks_train.csv"] + "-1,42337,0\n,42337,1\nx,42337,0\n3,1.5,0\n3,7\n77,7,1\n"
    parsed = parse(write(tmp_path, clicks_train=clicks))
    assert dict(parsed.faults) == {
        9: "display_id -1 is not in events.csv",
        10: "display_id is empty",
        11: "display_id must be a whole number, got 'x'",
        12: "ad_id must be a whole number, got '1.5'",
        13: "expected 3 columns, got 2 columns",
        14: "display_id 77 is not in events.csv",
    }
    assert parsed.table[formats.LINE_NUMBER].to_pylist() == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("name", ["directory", "file"])
@pytest.mark.parametrize("compress", [False, True])
def test_a_log_is_a_directory_or_a_file_plain_or_gzip_and_windows_ends(tmp_path, name, compress):
    expected = parse(write(tmp_path / "plain")).table
    directory = write(tmp_path / "other", compress=compress, end="\r\n")
    file = directory / ("clicks_train.csv.gz" if compress else "clicks_train.csv")
    assert parse(directory if name == "directory" else file).table == expected


def test_the_order_of_the_tables_does_not_matter(tmp_path):
    expected = parse(write(tmp_path / "sorted")).table
    changes = {}
    for name in ("events", "promoted_content", "documents_meta"):
        header, *rows = FILES[f"{name}.csv"].splitlines()
        changes[name] = "\n".join([header, *reversed(rows)]) + "\n"
    table = parse(write(tmp_path / "reversed", **changes)).table
    assert table.to_pylist() == expected.to_pylist()


def test_the_files_of_a_log_are_all_that_it_is_read_from(tmp_path):
    directory = write(tmp_path)
    opened = log.open_log(
        formats.Files((directory,), test=(directory / "clicks_test.csv",)), log.schema()
    )
    assert sorted(path.name for path in opened.files) == sorted(FILES)
    fields = [f for f in log.schema().fields if f.name in ("platform", "ad_id")]
    small = dataclasses.replace(log.schema(), fields=tuple(fields))
    opened = log.open_log(formats.Files((directory,)), small)
    assert sorted(path.name for path in opened.files) == [
        "clicks_train.csv", "events.csv", "promoted_content.csv"
    ]  # fmt: skip


def test_a_test_file_has_no_labels(tmp_path):
    directory = write(tmp_path)
    for test in (directory / "clicks_test.csv", directory):
        opened = log.open_log(formats.Files((directory,), test=(test,)), log.schema())
        parts = {chunk.part: opened.parse(chunk).table for chunk in opened.chunks()}
        assert parts["train"]["clicked"].to_pylist() == ["0", "1", "0", "1", "1", "0", "1"]
        assert parts["test"]["clicked"].to_pylist() == [None, None]
        assert parts["test"]["country"].to_pylist() == ["US", "US"]
        assert parts["test"]["state"].to_pylist() == [None, None]


def test_columns_of_files_that_are_not_there_are_missing(tmp_path):
    schema = all_columns()
    optional = [name for name in FILES if name.startswith(("promoted", "documents"))]
    directory = write(tmp_path, without=optional)
    table = parse(directory).table
    assert table["ad_id"].to_pylist()[:2] == ["42337", "139684"]
    assert table["document_id"].to_pylist()[0] == "379743"
    gone = ("campaign_id", "source_id", "age_days", "topic_id", "ad_source_id", "ad_age_days",
            "ad_publish_time", "ad_category_id")  # fmt: skip
    assert all(table[name].to_pylist() == [None] * 7 for name in gone)
    assert table["categories"].to_pylist() == table["ad_topics"].to_pylist() == [[]] * 7
    assert log.read_ads(formats.Files((directory,)), schema) is None


def test_missing_files_are_named(tmp_path):
    schema = log.schema()
    directory = write(tmp_path / "log", without=["events.csv"])
    with pytest.raises(FileNotFoundError, match=r"log has neither events\.csv nor events\.csv\.gz"):
        log.open_log(formats.Files((directory,)), schema)
    (directory / "events.csv.zip").touch()
    with pytest.raises(FileNotFoundError, match=r"; unzip events\.csv\.zip\."):
        log.open_log(formats.Files((directory,)), schema)
    with pytest.raises(FileNotFoundError, match=r"has neither clicks_train\.csv nor"):
        log.open_log(formats.Files((tmp_path,)), schema)
    with pytest.raises(FileNotFoundError, match=r"No log at .*clicks\.csv"):
        log.open_log(formats.Files((tmp_path / "clicks.csv",)), schema)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("events", "display_id,uuid\n1,a\n", r"events\.csv: the header lacks the columns"),
        ("events", FILES["events.csv"] + "6,a,b,1,1,US\n", r"events\.csv, line 7: .*Correct or re"),
        ("events", FILES["events.csv"] + ",a,1,1,1,US\n", r"events\.csv, line 7: display_id is em"),
        ("events", FILES["events.csv"] + "4,a,1,1,1,US\n", r"events\.csv: display_id 4 is in more"),
        ("promoted_content", FILES["promoted_content.csv"] + "9,9\n", r"line 7: expected 4 colum"),
    ],
)
def test_a_bad_row_in_another_file_than_the_clicks_is_an_error_that_names_it(
    tmp_path, name, text, message
):
    directory = write(tmp_path, **{name: text})
    with pytest.raises(ValueError, match=message):
        parse(directory)


def test_an_event_without_a_time_has_a_missing_time(tmp_path):
    events = FILES["events.csv"].replace(",61,", ",,")
    table = parse(write(tmp_path, events=events)).table
    assert table["time"].to_pylist()[:2] == [None, None]
    assert table["hour"].to_pylist()[:3] == [None, None, 4]


def test_threads_read_the_tables_once(tmp_path, monkeypatch):
    directory = write(tmp_path)
    expected = parse(directory).table
    read = []

    def counted(path, key, types, plain=outbrain_tables.read_table):
        read.append(path.name)
        return plain(path, key, types)

    monkeypatch.setattr(outbrain_tables, "read_table", counted)
    opened = log.open_log(formats.Files((directory,)), all_columns())
    (chunk,) = opened.chunks()
    started = threading.Barrier(8)
    tables = []

    def work():
        started.wait(timeout=60)
        tables.append(opened.parse(chunk).table)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == ["documents_meta.csv", "events.csv", "promoted_content.csv"]
    assert len(tables) == 8
    assert all(table == expected for table in tables)


def test_a_schema_that_does_not_fit_the_log_is_refused():
    files = formats.Files((pathlib.Path("none"),))
    plain = log.schema()

    def refused(message, *fields, **changes):
        changed = dataclasses.replace(plain, fields=(*plain.fields, *fields), **changes)
        with pytest.raises(ValueError, match=message):
            log.open_log(files, changed)

    field = schema_lib.Field
    refused(
        r"has no column 'entity_id'\. .*It has display_id, ad_id, clicked, uuid, .*, ad_topics\.",
        field("entity_id", "categorical", "query"),
    )
    refused(r"has no column 'day'", time="day")
    refused(
        r"'geo_location' describes the display; give field 'place' the side 'query', not 'ad'",
        field("place", "categorical", "ad", column="geo_location"),
    )
    refused(r"'ad_topic_id' describes the ad", field("ad_topic_id", "categorical", "query"))
    refused(r"'topics' holds lists", field("topics", "categorical", "query"))
    refused(r"ad_key or show names \['display_id'\].*use some of ad_id, ", ad_key=("display_id",))


def test_displays_convert_to_lists_split_by_time_with_the_ads_never_shown(tmp_path):
    data_set = converted(tmp_path, write_many(tmp_path / "log"))
    assert [data_set.num_requests(s) for s in ("train", "validation", "test")] == [80, 10, 10]
    assert [data_set.num_rows(s) for s in ("train", "validation", "test")] == [240, 30, 30]
    assert data_set.label_sum("train", "click") == 80
    catalog = data_set.catalog()
    assert len(catalog) == 12  # 10 shown
    ads = {row["__ad_id__"]: row for row in catalog.table.to_pylist()}
    assert ads["11"]["__impressions__"] == 0
    assert ads["11"]["campaign_id"] == "1"
    assert ads["3"]["ad_topics"] == ["3", "103"]
    sample = data_set.sample_requests()[0]
    assert sample["country"] == "US"
    assert sample["platform"] is None
    assert set(sample) == {field.name for field in log.schema().query_fields}


def test_a_log_without_the_optional_files_converts(tmp_path):
    directory = write_many(tmp_path / "log", optional=False)
    data_set = converted(tmp_path, directory)
    assert data_set.num_rows("train") == 240
    assert len(data_set.catalog()) == 10
    assert set(data_set.catalog().table["campaign_id"].to_pylist()) == {None}


def converted(tmp_path, directory):
    convert.convert(convert.Source(directory, log.schema(), format="outbrain"), tmp_path / "data")
    return reader.DataSet(tmp_path / "data")


def write_many(directory, optional=True):
    """Writes 100 displays of three of ten ads; later displays come first."""
    directory.mkdir()
    order = list(range(100, 0, -1))
    clicks = [(d, (d + i) % 10, int(i == d % 3)) for d in order for i in range(3)]
    tables = {
        "clicks_train.csv": ("display_id,ad_id,clicked", clicks),
        "events.csv": (
            "display_id,uuid,document_id,timestamp,platform,geo_location",
            [(d, f"{d:014x}", d % 7, d * 1000, "\\N", "US>CA>803") for d in order],
        ),
    }
    if optional:
        tables["promoted_content.csv"] = (
            "ad_id,document_id,campaign_id,advertiser_id",
            [(a, 100 + a, a % 2, a % 3) for a in range(12)],
        )
        tables["documents_topics.csv"] = (
            "document_id,topic_id,confidence_level",
            [(100 + a, t, t / 1000) for a in range(12) for t in (100 + a, a)],
        )
    for name, (header, rows) in tables.items():
        lines = [header, *(",".join(map(str, row)) for row in rows)]
        (directory / name).write_text("\n".join(lines) + "\n")
    return directory
