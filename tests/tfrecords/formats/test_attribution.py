"""The Criteo attribution log: labels, sentinels, what may not leak, faults."""

import dataclasses
import gzip
import pathlib

import numpy as np
import pytest

from tfrecords import convert, formats, reader
from tfrecords import schema as schema_lib
from tfrecords.formats import attribution

HEADER = (
    "timestamp\tuid\tcampaign\tconversion\tconversion_timestamp\tconversion_id\tattribution\t"
    "click\tclick_pos\tclick_nb\tcost\tcpo\ttime_since_last_click\tcat1\tcat2\tcat3\tcat4\tcat5\t"
    "cat6\tcat7\tcat8\tcat9"
)
CATEGORIES = "5824233\t9312274\t3490278\t29196072\t11409686\t1973606\t25162884\t29196072\t29196072"


def row(**changes):
    """A line of the log as Criteo wrote them: an impression without a click."""
    values = dict(
        timestamp="0", uid="20073966", campaign="22589171", conversion="0",
        conversion_timestamp="-1", conversion_id="-1", attribution="0", click="0", click_pos="-1",
        click_nb="-1", cost="1.00000025e-05", cpo="0.390794", time_since_last_click="-1",
    )  # fmt: skip
    return "\t".join([*{**values, **changes}.values(), CATEGORIES])


def write(directory: pathlib.Path, rows, name="log.tsv", header=HEADER, end="\n"):
    path = directory / name
    path.write_bytes("".join(line + end for line in [header, *rows]).encode())
    return path


def parse(path, schema=None, **files):
    opened = attribution.open_log(formats.Files((path,), **files), schema or attribution.schema())
    (chunk,) = opened.chunks()
    return opened.parse(chunk)


def test_the_labels_are_in_impression_space_and_money_is_counted_once(tmp_path):
    led = dict(conversion="1", conversion_timestamp="900", conversion_id="7", attribution="1")
    rows = [
        row(),  # no click
        row(click="1", click_pos="0", click_nb="1"),  # a click alone
        # The path of one conversion: seen, clicked twice, seen; the second click is paid.
        row(**led, click="0", cpo="0.5"),
        row(**led, click="1", click_pos="0", click_nb="2", cpo="0.5"),
        row(**led, click="1", click_pos="1", click_nb="2", cpo="0.5"),
        # Converted after the click, but somebody else is paid.
        row(**{**led, "attribution": "0"}, click="1", click_pos="0", click_nb="1", cpo="0.5"),
        # Paid, but how much is not known.
        row(**led, click="1", click_pos="0", click_nb="1", cpo="-1"),
        row(**led, click="1", click_pos="0", click_nb="1", cpo=""),
        # A click without a position is the last one.
        row(**led, click="1", cpo="0.25"),
    ]
    table = parse(write(tmp_path, rows)).table
    assert table["click"].to_pylist() == [0, 1, 0, 1, 1, 1, 1, 1, 1]
    assert table["engagement"].to_pylist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert table["revenue"].to_pylist() == [0, 0, 0, 0, 0.5, 0, None, None, 0.25]


def test_minus_one_is_missing_in_time_since_the_last_click(tmp_path):
    rows = [row(time_since_last_click=t) for t in ("-1", "0", "423858", "")]
    table = parse(write(tmp_path, rows)).table
    assert table["time_since_last_click"].to_pylist() == [None, 0, 423858, None]


def test_the_convention_reads_nothing_that_is_known_after_the_request():
    schema = attribution.schema()
    late = {"conversion", "conversion_timestamp", "conversion_id", "attribution", "click",
            "click_pos", "click_nb", "cost", "cpo", "engagement", "revenue"}  # fmt: skip
    assert not late & {field.source for field in schema.fields}
    assert schema.user_key == "uid"
    assert schema.ad_key == ("campaign",) == tuple(f.name for f in schema.ad_fields)
    assert schema.time == "timestamp"


def test_every_column_wanted_and_the_line_numbers_are_there(tmp_path):
    table = parse(write(tmp_path, [row(), row(uid="5")])).table
    schema = attribution.schema()
    assert set(schema.columns) < set(table.column_names)
    assert table[formats.LINE_NUMBER].to_pylist() == [2, 3]
    assert table["uid"].to_pylist() == ["20073966", "5"]
    assert table["cat9"].to_pylist() == ["29196072"] * 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"conversion": "2"}, "conversion must be 0 or 1, got 2"),
        ({"attribution": "-1"}, "attribution must be 0 or 1, got -1"),
        ({"click": "-1"}, "click must be 0 or 1, got -1"),
        ({"cpo": "-3"}, "cpo must be at least 0, or -1 where it is missing, got -3"),
        ({"cpo": "x"}, "cpo must be a finite number or empty, got 'x'"),
        ({"timestamp": "inf"}, "timestamp must be a finite number or empty, got 'inf'"),
    ],
)
def test_a_bad_row_is_a_fault_with_its_line_and_reason(tmp_path, changes, reason):
    parsed = parse(write(tmp_path, [row(), row(**changes), row()]))
    assert dict(parsed.faults) == {3: reason}
    assert parsed.table[formats.LINE_NUMBER].to_pylist() == [2, 4]


def test_a_short_line_is_a_fault(tmp_path):
    parsed = parse(write(tmp_path, [row(), "1\t2"]))
    assert dict(parsed.faults) == {3: "expected 22 columns, got 2 columns"}


def test_gzip_and_windows_line_ends_give_the_same_table(tmp_path):
    rows = [row(), row(click="1")]
    plain = write(tmp_path, rows)
    windows = write(tmp_path, rows, "windows.tsv", end="\r\n")
    zipped = tmp_path / "log.tsv.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert parse(plain).table == parse(windows).table == parse(zipped).table


def test_a_test_file_without_labels_has_missing_labels(tmp_path):
    wanted = ("timestamp", "uid", "campaign", "time_since_last_click")
    names = HEADER.split("\t")
    keep = [i for i, name in enumerate(names) if name in wanted or name.startswith("cat")]
    cut = ["\t".join(line.split("\t")[i] for i in keep) for line in (HEADER, row(), row())]
    train = write(tmp_path, [row()])
    test = write(tmp_path, cut[1:], "test.tsv", header=cut[0])
    schema = attribution.schema()
    opened = attribution.open_log(formats.Files((train,), test=(test,)), schema)
    parts = {chunk.part: opened.parse(chunk).table for chunk in opened.chunks()}
    assert parts["train"]["engagement"].to_pylist() == [0]
    for label in schema.labels.values():
        assert parts["test"][label].to_pylist() == [None, None]


def test_a_file_with_half_of_the_labels_is_refused(tmp_path):
    path = write(tmp_path, [], header=HEADER.replace("attribution", "attributed"))
    with pytest.raises(ValueError, match=r"lacks \['attribution'\], which the labels need"):
        attribution.open_log(formats.Files((path,)), attribution.schema())


def test_a_file_without_the_columns_is_refused_and_says_what_it_has(tmp_path):
    path = write(tmp_path, [], header=HEADER.replace("campaign", "campagne"))
    with pytest.raises(ValueError, match=r"lacks the columns \['campaign'\]; it has .*'campagne'"):
        attribution.open_log(formats.Files((path,)), attribution.schema())


def test_a_schema_may_name_any_raw_column(tmp_path):
    names = [n for n in attribution.HEADER if n not in ("click", "campaign")]
    fields = [schema_lib.Field(n, "categorical", "query") for n in names]
    fields.append(schema_lib.Field("campaign", "categorical", "ad"))
    schema = schema_lib.Schema("all", tuple(fields), ("campaign",), "click")
    table = parse(write(tmp_path, [row(conversion_id="12345678")]), schema).table
    assert table["conversion_id"].to_pylist() == [12345678]
    assert table["click_pos"].to_pylist() == [None]
    assert table["cost"].to_pylist() == [1.00000025e-05]


def test_an_unknown_column_is_refused_with_the_existing_ones():
    plain = attribution.schema()
    schema = dataclasses.replace(plain, engagement="conversions")
    message = (
        r"The Criteo attribution log has no column 'conversions'\. Did you mean 'conversion'\? It "
        r"has timestamp, uid, .*cat9, and derived from them engagement, revenue\."
    )
    with pytest.raises(ValueError, match=message):
        attribution.open_log(formats.Files((pathlib.Path("none"),)), schema)


def test_a_table_of_users_is_refused(tmp_path):
    path = write(tmp_path, [row()])
    with pytest.raises(ValueError, match="a table of users was given"):
        attribution.open_log(formats.Files((path,), users=path), attribution.schema())


def test_campaigns_can_be_added(tmp_path):
    path = write(tmp_path, [row()])
    assert attribution.read_ads(formats.Files((path,)), attribution.schema()) is None
    ads = tmp_path / "ads.tsv"
    ads.write_text("campaign\n1\n2\n")
    table = attribution.read_ads(formats.Files((path,), ads=ads), attribution.schema())
    assert table["campaign"].to_pylist() == ["1", "2"]


def test_a_log_converts_and_splits_by_time(tmp_path):
    rng = np.random.default_rng(0)
    order = rng.permutation(200)
    rows = []
    for i in order.tolist():
        clicked = i % 4 == 0
        converted = i % 8 == 0
        rows.append(
            row(
                timestamp=str(i * 10),
                uid=str(i % 7),
                campaign=str(i % 5),
                click=str(int(clicked)),
                conversion=str(int(converted)),
                attribution=str(int(converted)),
                click_pos="0" if converted else "-1",
                click_nb="1" if converted else "-1",
                cpo="0.5",
            )
        )
    source = convert.Source(
        write(tmp_path, rows), attribution.schema(), format="criteo_attribution"
    )
    convert.convert(source, tmp_path / "data")
    data_set = reader.DataSet(tmp_path / "data")
    assert [data_set.num_rows(s) for s in ("train", "validation", "test")] == [160, 20, 20]
    # Every fourth of 160..179, and every eighth of 180..199.
    assert [data_set.label_sum(s, "click") for s in ("validation", "test")] == [5, 5]
    assert data_set.label_sum("validation", "engagement") == 3  # 160, 168, 176
    assert data_set.label_sum("test", "revenue") == pytest.approx(1.0)  # 184 and 192
    assert len(data_set.catalog()) == 5
