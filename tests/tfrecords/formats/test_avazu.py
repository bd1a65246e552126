"""The Avazu log: times, device ids, faults, unlabeled files."""

import dataclasses
import gzip
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecords import convert, formats, reader
from tfrecords import schema as schema_lib
from tfrecords.formats import avazu

HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,"
    "device_id,device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def row(**changes):
    """A line of the log: the first of Kaggle's, but for what is changed."""
    values = dict(
        id="1000009418151094273", click="0", hour="14102100", C1="1005", banner_pos="0",
        site_id="1fbe01fe", site_domain="f3845767", site_category="28905ebd", app_id="ecad2386",
        app_domain="7801e8d9", app_category="07d7df22", device_id="a99f214a",
        device_ip="ddd2926e", device_model="44956a24", device_type="1", device_conn_type="2",
        C14="15706", C15="320", C16="50", C17="1722", C18="0", C19="35", C20="-1", C21="79",
    )  # fmt: skip
    return ",".join({**values, **changes}.values())


def write(directory: pathlib.Path, rows, name="train.csv", header=HEADER, end="\n"):
    path = directory / name
    path.write_bytes("".join(line + end for line in [header, *rows]).encode())
    return path


def parse(path, schema=None, **files):
    opened = avazu.open_log(formats.Files((path,), **files), schema or avazu.schema())
    (chunk,) = opened.chunks()
    return opened.parse(chunk)


def with_columns(*names, **keys):
    """Avazu's convention with other query fields."""
    fields = [schema_lib.Field(name, "categorical", "query") for name in names]
    fields.append(schema_lib.Field("C14", "categorical", "ad"))
    return schema_lib.Schema("own", tuple(fields), ("C14",), "click", **keys)


def test_times_are_derived_from_the_hour(tmp_path):
    rows = [row(hour=hour) for hour in ("14102100", "14102123", "14102600", "14103023")]
    table = parse(write(tmp_path, rows)).table
    # 21 October 2014, a Tuesday, is day 16,364 since 1970: 16,364 · 86,400 = 1,413,849,600.
    # The 26th, a Sunday, is 5 days later, the 30th, a Thursday, 9 days.
    assert table["time"].to_pylist() == [
        1413849600,
        1413849600 + 23 * 3600,
        1413849600 + 5 * 86400,
        1413849600 + 9 * 86400 + 23 * 3600,
    ]
    assert table["hour_of_day"].to_pylist() == [0, 23, 0, 23]
    assert table["weekday"].to_pylist() == [1, 1, 6, 3]


@pytest.mark.parametrize(
    "hour", ["", "1410210", "141021001", "14102124", "14132100", "14022912", "2014-10-", "1410 100"]
)
def test_a_bad_hour_is_a_fault(tmp_path, hour):
    parsed = parse(write(tmp_path, [row(), row(hour=hour), row()]))
    assert dict(parsed.faults) == {
        3: f"hour must be YYMMDDHH, such as 14102100, got {hour!r}",
    }
    assert parsed.table[formats.LINE_NUMBER].to_pylist() == [2, 4]


def test_no_device_id_is_missing_and_other_ids_are_left(tmp_path):
    rows = [row(), row(device_id="c357dbff"), row(device_id="")]
    table = parse(write(tmp_path, rows)).table
    assert table["device_id"].to_pylist() == ["", "c357dbff", ""]
    table = parse(write(tmp_path, rows[:2])).table
    assert table["device_id"].to_pylist() == ["", "c357dbff"]
    assert table["app_id"].to_pylist() == ["ecad2386"] * 2


def test_the_derived_user_is_the_device_or_its_address_and_model(tmp_path):
    rows = [row(), row(device_id="c357dbff"), row(device_ip="")]
    table = parse(write(tmp_path, rows), with_columns("C1", user_key="user")).table
    assert table["user"].to_pylist() == ["ddd2926e/44956a24", "c357dbff", None]


def test_the_convention_is_every_column_but_the_id_once(tmp_path):
    schema = avazu.schema()
    names = [field.name for field in schema.fields]
    left = set(avazu.HEADER) - {"id", "click", "hour"}
    assert sorted(names) == sorted({*left, "hour_of_day", "weekday"})
    assert {f.name for f in schema.ad_fields} == {"C14", "C15", "C16", "C17", "C18", "C19", "C21"}
    table = parse(write(tmp_path, [row()])).table
    assert set(table.column_names) == {*schema.columns, formats.LINE_NUMBER}
    assert table["C20"].to_pylist() == ["-1"]


def test_a_test_file_lacks_the_click(tmp_path):
    train = write(tmp_path, [row(click="1")])
    names = HEADER.split(",")
    cut = [",".join(v for v, n in zip(line.split(","), names, strict=True) if n != "click")
           for line in (HEADER, row(), row())]  # fmt: skip
    test = write(tmp_path, cut[1:], "test.csv", header=cut[0])
    opened = avazu.open_log(formats.Files((train,), test=(test,)), avazu.schema())
    parts = {chunk.part: opened.parse(chunk).table for chunk in opened.chunks()}
    assert parts["train"]["click"].to_pylist() == ["1"]
    assert parts["test"]["click"].to_pylist() == [None, None]
    assert parts["test"]["C14"].to_pylist() == ["15706"] * 2


def test_gzip_windows_line_ends_and_quotes_give_the_same_table(tmp_path):
    rows = [row(), row(click="1")]
    plain = write(tmp_path, rows)
    windows = write(tmp_path, rows, "windows.csv", end="\r\n")
    quoted = [",".join(f'"{v}"' for v in line.split(",")) for line in rows]
    zipped = tmp_path / "train.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    tables = [parse(p).table for p in (plain, windows, zipped, write(tmp_path, quoted, "q.csv"))]
    assert all(table == tables[0] for table in tables)


def test_a_schema_may_name_raw_columns_and_numbers(tmp_path):
    schema = with_columns("id", "hour", "device_ip")
    numeric = schema_lib.Field("C20", "numeric", "query")
    schema = dataclasses.replace(schema, fields=(*schema.fields, numeric))
    # Without a derived time the hour is text like any other.
    table = parse(write(tmp_path, [row(), row(hour="soon", C20="100084")]), schema).table
    assert table["hour"].to_pylist() == ["14102100", "soon"]
    assert table["id"].to_pylist() == ["1000009418151094273"] * 2
    assert table["C20"].to_pylist() == [-1, 100084]


def test_an_unknown_column_is_refused_with_the_existing_ones():
    message = (
        r"The Avazu log has no column 'hour_of_week'\. Did you mean 'hour_of_day'\? It has id, "
        r"click, .*C21, and derived from them time, hour_of_day, weekday, user\."
    )
    with pytest.raises(ValueError, match=message):
        avazu.open_log(formats.Files((pathlib.Path("none"),)), with_columns("hour_of_week"))


def test_ads_can_be_added(tmp_path):
    path = write(tmp_path, [row()])
    assert avazu.read_ads(formats.Files((path,)), avazu.schema()) is None
    ads = tmp_path / "ads.csv"
    ads.write_text("C14,C15,C16,C17,C18,C19,C21\n1,320,50,2,0,35,79\n")
    values = {
        "C14": "1",
        "C15": "320",
        "C16": "50",
        "C17": "2",
        "C18": "0",
        "C19": "35",
        "C21": "79",
    }
    table = avazu.read_ads(formats.Files((path,), ads=ads), avazu.schema())
    assert table.to_pylist() == [values]
    pq.write_table(pa.table({name: [int(value)] for name, value in values.items()}), ads)
    table = avazu.read_ads(formats.Files((path,), ads=ads), avazu.schema())
    assert {name: str(value) for name, value in table.to_pylist()[0].items()} == values


def test_a_log_converts_and_splits_by_time(tmp_path):
    # Ten hours of twenty rows, the later ones first.
    rows = [
        row(hour=f"141021{hour:02}", C14=str(i % 5), click=str(int(i % 4 == 0)))
        for hour in reversed(range(10))
        for i in range(20)
    ]
    rows.insert(3, row(hour="bad"))
    source = convert.Source(write(tmp_path, rows), avazu.schema(), format="avazu")
    convert.convert(source, tmp_path / "data")
    data_set = reader.DataSet(tmp_path / "data")
    assert [data_set.num_rows(s) for s in ("train", "validation", "test")] == [160, 20, 20]
    assert data_set.label_sum("test", "click") == 5
    assert data_set.description.source.rejected == 1
    # The last hour is the test part.
    assert {sample["hour_of_day"] for sample in data_set.sample_requests()} == {"9"}
    assert {sample["device_id"] for sample in data_set.sample_requests()} == {None}
    assert len(data_set.catalog()) == 5
