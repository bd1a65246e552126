"""Parquet files as logs: types, runs of rows, raw rows, and what cannot be read."""

import dataclasses
import datetime
import decimal
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecords import convert, formats, reader
from tfrecords import schema as schema_lib
from tfrecords.conversion import parsed_rows
from tfrecords.formats import tabular

SCHEMA = schema_lib.Schema(
    "shop",
    (
        schema_lib.Field("context", "categorical", "query"),
        schema_lib.Field("amount", "numeric", "query"),
        schema_lib.Field("tags", "categorical_list", "ad"),
    ),
    ad_key=("sku",),
    click="clicked",
    time="at",
)
DEFAULTS = {
    "context": ["CH", "DE"],
    "amount": [1.5, None],
    "tags": ["new|old", ""],
    "sku": [7, 8],
    "clicked": [1, 0],
    "at": [10, 20],
}


def write(path: pathlib.Path, **columns: object) -> pathlib.Path:
    pq.write_table(pa.table({**DEFAULTS, **columns}), path)
    return path


def parsed(
    path: pathlib.Path, schema: schema_lib.Schema = SCHEMA
) -> tuple[parsed_rows.Rows, dict[int, str]]:
    opened = tabular.open_log(formats.Files((path,)), schema)
    (chunk,) = opened.chunks()
    good, faults = parsed_rows.normalize(
        schema, opened.parse(chunk), 0, parsed_rows.is_labeled(schema, chunk)
    )
    assert chunk.num_rows == len(good) + len(faults)
    return good, dict(faults)


def values(good: parsed_rows.Rows, name: str) -> list[object]:
    field = next(field for field in SCHEMA.fields if field.name == name)
    return good.raw(field, np.arange(len(good))).to_pylist()


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", None]), ["a", None]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array([b"a", b"\xc3\xbc"], pa.binary()), ["a", "ü"]),
        (pa.array(["a", None]).dictionary_encode(), ["a", None]),
        (pa.array([f"{i}" for i in range(2)], pa.dictionary(pa.int8(), pa.string())), ["0", "1"]),
        (pa.array([5, None], pa.int64()), ["5", None]),
        (pa.array([2**64 - 1, None], pa.uint64()), ["18446744073709551615", None]),
        # As pandas writes whole numbers if some are missing.
        (pa.array([5.0, float("nan")]), ["5", None]),
        # How one is written does not depend on the others.
        (pa.array([1234567890125.0, 0.5]), ["1234567890125", "0.5"]),
        (
            pa.array([decimal.Decimal(2**63 + i) for i in range(2)], pa.decimal128(20, 0)),
            [f"{2**63}", f"{2**63 + 1}"],
        ),
        (pa.array([True, False]), ["true", "false"]),
        # The shortest text of the same float32, as in CSV.
        (pa.array([1.1, 7.0], pa.float32()), ["1.1", "7"]),
        (pa.array([float("nan"), 16777216.0], pa.float32()), [None, "16777216"]),
        (pa.array([0.5, 7.0], pa.float16()), ["0.5", "7"]),
        (pa.array([1.1, None], pa.float32()).dictionary_encode(), ["1.1", None]),
        (pa.array([datetime.date(2024, 1, 2), None]), ["2024-01-02", None]),
        (pa.array([86_400_000, None], pa.date64()), ["1970-01-02", None]),
        (
            pa.array([86_400_000, 1_500], pa.timestamp("ms")),
            ["1970-01-02 00:00:00", "1970-01-01 00:00:01.500000"],
        ),
        (pa.array([3_600, None], pa.timestamp("s", "Asia/Tokyo")), ["1970-01-01 01:00:00", None]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_columns_as_strings(tmp_path: pathlib.Path, column: pa.Array, expected: list[str]) -> None:
    good, faults = parsed(write(tmp_path / "log.parquet", context=column))
    assert not faults
    assert values(good, "context") == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([3, None], pa.int8()), [3.0, None]),
        (pa.array([2**53 + 1, 0], pa.int64()), [2.0**53, 0.0]),
        (pa.array([1.5, float("nan")], pa.float32()), [1.5, None]),
        (pa.array([True, None]), [1.0, None]),
        (pa.array([decimal.Decimal("1.25"), None]), [1.25, None]),
        # As number texts are read, not 8035 times 0.01.
        (pa.array([decimal.Decimal("80.35"), decimal.Decimal("0.1")]), [80.35, 0.1]),
        (pa.array(["1e3", "NA"]), [1000.0, None]),
        (pa.array([datetime.datetime(1970, 1, 2), None], pa.timestamp("ns")), [86400.0, None]),
        (pa.array([datetime.date(1970, 1, 3), None]), [172800.0, None]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_columns_as_numbers(
    tmp_path: pathlib.Path, column: pa.Array, expected: list[float]
) -> None:
    good, faults = parsed(write(tmp_path / "log.parquet", amount=column))
    assert not faults
    assert values(good, "amount") == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([["a", "b"], None]), [["a", "b"], []]),
        (pa.array([["a", None, ""], []]), [["a"], []]),
        (pa.array([["a"], ["b"]], pa.large_list(pa.string())), [["a"], ["b"]]),
        (pa.array([["a", "b"], ["c", None]], pa.list_(pa.string(), 2)), [["a", "b"], ["c"]]),
        (pa.array([[1, 2], [3]]), [["1", "2"], ["3"]]),
        (pa.array([[1.0, float("nan")], [0.5]]), [["1"], ["0.5"]]),
        (pa.array([[1234567890125.0, None], [0.5]]), [["1234567890125"], ["0.5"]]),
        (pa.array([[1.1, None], [2]], pa.list_(pa.float32())), [["1.1"], ["2"]]),
        (pa.array([[1, 2], []], pa.list_(pa.date32())), [["1970-01-02", "1970-01-03"], []]),
        (pa.array([["a"], ["b"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), [["a"], ["b"]]),
        (pa.array(["a|b", None]), [["a", "b"], []]),
        # As pandas, NumPy and JSON write lists to CSV.
        (pa.array(["['a', 'b|c']", "[]"]), [["a", "b|c"], []]),
        (pa.array(["['a' 'b']", " [1, 2.0, None, nan]"]), [["a", "b"], ["1", "2"]]),
        (pa.array(['["\\u00e9", "\\ud800", null]', '["it\'s"]']), [["é", "?"], ["it's"]]),
        (pa.array(["""['it\\'s', "a"]""", "a|[b]"]), [["it's", "a"], ["a", "[b]"]]),
        (
            pa.array([str(["caf\xa0e", "x\ny"]), str(["it's\u200b\t"])]),
            [["caf\xa0e", "x\ny"], ["it's\u200b"]],
        ),
        (pa.array([r"['\U0001f600', '\d\\n']", r'["\ud83d\ude00\/"]']), [["😀", "d\\n"], ["😀/"]]),
        (pa.array(["a|b", "['c', 'd']"]), [["a", "b"], ["c", "d"]]),
        (pa.array(["['c', 'd']", None]), [["c", "d"], []]),
        # Not lists.
        (pa.array(["[new]|x", "[18-25]"]), [["[new]", "x"], ["[18-25]"]]),
    ],
)
def test_columns_as_lists(
    tmp_path: pathlib.Path, column: pa.Array, expected: list[list[str]]
) -> None:
    good, faults = parsed(write(tmp_path / "log.parquet", tags=column))
    assert not faults
    assert values(good, "tags") == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, 2]), [1.0, 2.0]),
        (pa.array([1.5, 2.5]), [1.5, 2.5]),
        (pa.array([1, 86_400_000], pa.timestamp("ms")), [0.001, 86400.0]),
        # Finer than microseconds is left out.
        (pa.array([1_000_000_001, 5_000], pa.timestamp("ns")), [1.0, 5e-6]),
        (pa.array([0, 60], pa.timestamp("s", "Europe/Zurich")), [0.0, 60.0]),
        (pa.array([1, 2], pa.date32()), [86400.0, 172800.0]),
        (pa.array(["1970-01-02", "1970-01-02T00:00:01Z"]), [86400.0, 86401.0]),
        # Nanoseconds since 1970, more than a float holds exactly.
        (pa.array([1_700_000_000_000_000_001, 0]), [1.7e18, 0.0]),
    ],
)
def test_columns_as_times(tmp_path: pathlib.Path, column: pa.Array, expected: list[float]) -> None:
    good, faults = parsed(write(tmp_path / "log.parquet", at=column))
    assert not faults
    assert good.array(parsed_rows.TIME).tolist() == expected


def test_labels_of_any_type(tmp_path: pathlib.Path) -> None:
    for column in ([True, False], [1.0, 0.0], ["yes", "0"], pa.array([1, 0], pa.uint8())):
        good, faults = parsed(write(tmp_path / "log.parquet", clicked=column))
        assert not faults
        assert good.array(parsed_rows.LABEL_COLUMNS["click"]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("click", "0 or 1"),
        ("engagement", "0 or 1"),
        ("revenue", "a number"),
        ("position", "a whole number"),
    ],
)
def test_a_label_of_times_is_refused(tmp_path: pathlib.Path, role: str, expected: str) -> None:
    schema = dataclasses.replace(SCHEMA, **{role: "sold_at"})
    path = write(tmp_path / "log.parquet", sold_at=pa.array([1, None], pa.timestamp("ms")))
    with pytest.raises(ValueError, match=f"'sold_at' holds times; expected {expected}"):
        parsed(path, schema)


def test_a_time_may_be_a_numeric_field_too(tmp_path: pathlib.Path) -> None:
    age = schema_lib.Field("age", "numeric", "ad", column="at")
    schema = dataclasses.replace(SCHEMA, fields=(*SCHEMA.fields, age))
    good, _ = parsed(write(tmp_path / "log.parquet", at=pa.array([1, 60], pa.date32())), schema)
    assert (
        good.array("age").tolist()
        == good.array(parsed_rows.TIME).tolist()
        == [86400.0, 60 * 86400.0]
    )


def test_bad_rows_are_named_by_their_number(tmp_path: pathlib.Path) -> None:
    path = write(
        tmp_path / "log.parquet",
        context=pa.array(["a", "b", "c", "d"]),
        amount=pa.array([1.0, float("inf"), 1.0, 1.0]),
        tags=pa.array([["x"], [], None, ["y"]]),
        sku=pa.array([1, 2, 3, None]),
        clicked=pa.array([1, 1, 2, 1]),
        at=pa.array([1, 2, 3, 4]),
    )
    good, faults = parsed(path)
    assert len(good) == 1
    assert faults == {
        2: "amount must be empty or a number between ±3.4e+38, got inf",
        3: "clicked must be 0 or 1, got 2; other numbers need click_threshold in the schema",
        4: "sku is empty",
    }
    opened = tabular.open_log(formats.Files((path,)), SCHEMA)
    (chunk,) = opened.chunks()
    (raw,) = opened.raw(chunk, [3])
    assert json.loads(raw) == {
        "context": "c", "amount": 1.0, "tags": None, "sku": 3, "clicked": 2, "at": 3
    }  # fmt: skip
    assert opened.raw(chunk, []) == []


def test_bytes_that_are_not_utf8_are_a_fault(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "log.parquet", context=pa.array([b"a", b"\xff"], pa.binary()))
    good, faults = parsed(path)
    assert values(good, "context") == ["a"]
    assert faults == {
        2: "context is not UTF-8; convert it, such as bytes by .map(bytes.hex) of pandas"
    }
    opened = tabular.open_log(formats.Files((path,)), SCHEMA)
    (chunk,) = opened.chunks()
    assert json.loads(opened.raw(chunk, [2])[0])["context"] == "\\xff"


@pytest.mark.parametrize("row_group_size", [3, 100])
def test_chunks_do_not_depend_on_row_groups(tmp_path: pathlib.Path, row_group_size: int) -> None:
    count = 25
    table = pa.table(
        {
            "context": [f"c{i}" for i in range(count)],
            "amount": np.arange(count),
            "tags": [[f"t{i}"] for i in range(count)],
            "sku": np.arange(count),
            "clicked": [1] * count,
            "at": np.arange(count),
        }
    )
    path = tmp_path / "log.parquet"
    pq.write_table(table, path, row_group_size=row_group_size)
    opened = tabular.open_log(formats.Files((path,)), SCHEMA, rows_per_chunk=10)
    chunks = list(opened.chunks())
    assert [(c.first_line, c.num_rows) for c in chunks] == [(1, 10), (11, 10), (21, 5)]
    last = opened.parse(chunks[2]).table
    assert last["amount"].to_pylist() == [20, 21, 22, 23, 24]
    assert last["tags"].to_pylist() == [["t20"], ["t21"], ["t22"], ["t23"], ["t24"]]
    assert last[formats.LINE_NUMBER].to_pylist() == [21, 22, 23, 24, 25]
    assert json.loads(opened.raw(chunks[1], [12])[0])["context"] == "c11"


def test_names_with_dots_are_names_of_columns(tmp_path: pathlib.Path) -> None:
    fields = (
        schema_lib.Field("a", "categorical", "query"),
        schema_lib.Field("b", "categorical", "ad", column="a.b"),
    )
    dotted = schema_lib.Schema("dotted", fields, ("a.b",), None)
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"a.c": ["no"], "a.b": ["2"], "a": ["1"]}), path)
    good, _ = parsed(path, dotted)
    assert good.raw(fields[0], np.arange(1)).to_pylist() == ["1"]
    assert good.raw(fields[1], np.arange(1)).to_pylist() == ["2"]


def test_what_cannot_be_read_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        ValueError, match=r"'context' holds lists .*only as a field of kind 'categorical_list'"
    ):
        parsed(write(tmp_path / "a.parquet", context=[["x"], ["y"]]))
    with pytest.raises(ValueError, match=r"the column 'context'; it is not in .*'context\.x'"):
        parsed(write(tmp_path / "b.parquet", context=[{"x": 1}, {"x": 2}]))
    with pytest.raises(ValueError, match=r"'tags' has the unsupported type list<"):
        parsed(write(tmp_path / "c.parquet", tags=[[["x"]], [["y"]]]))
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16] * 2, pa.binary(16)))
    with pytest.raises(
        ValueError, match=r"'context' has the unsupported type extension<arrow.uuid>.* strings"
    ):
        parsed(write(tmp_path / "e.parquet", context=uuids))
    whole = write(tmp_path / "d.parquet").read_bytes()
    (tmp_path / "d.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"d\.parquet cannot be read as Parquet"):
        parsed(tmp_path / "d.parquet")


def test_text_and_parquet_are_not_mixed_in_one_log(tmp_path: pathlib.Path) -> None:
    text = tmp_path / "b.csv"
    text.write_text("context,amount,tags,sku,clicked,at\nCH,1,x,1,1,1\n")
    with pytest.raises(ValueError, match=r"a\.parquet is Parquet and .*b\.csv is text"):
        tabular.open_log(formats.Files((write(tmp_path / "a.parquet"), text)), SCHEMA)


def test_tables_of_ads_in_parquet_join_a_log_in_text(tmp_path: pathlib.Path) -> None:
    text = tmp_path / "log.csv"
    text.write_text("context,amount,sku,clicked,at\nCH,1,7,1,1\nDE,2,9,0,2\n")
    ads = tmp_path / "ads.parquet"
    pq.write_table(pa.table({"sku": [7, 8], "tags": [["a", "b"], ["c"]]}), ads)
    files = formats.Files((text,), ads=ads)
    opened = tabular.open_log(files, SCHEMA)
    (chunk,) = opened.chunks()
    good, _ = parsed_rows.normalize(SCHEMA, opened.parse(chunk), 0, True)
    assert values(good, "tags") == [["a", "b"], []]
    table = tabular.read_ads(files, SCHEMA)
    assert table is not None
    assert table["tags"].to_pylist() == [["a", "b"], ["c"]]


def test_a_log_in_parquet_converts_as_the_same_log_in_text(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(1)
    count = 400
    columns = {
        "context": rng.choice(["CH", "DE", "FR"], count),
        "amount": rng.integers(0, 50, count),
        "sku": rng.integers(0, 9, count),
        "clicked": rng.integers(0, 2, count),
        "at": np.arange(count),
    }
    tags = [["a", "b"][: int(n)] for n in rng.integers(0, 3, count)]
    parquet = write(tmp_path / "log.parquet", **columns, tags=pa.array(tags, pa.list_(pa.string())))
    lines = ["context,amount,sku,clicked,at,tags"]
    for row, row_tags in zip(zip(*columns.values(), strict=True), tags, strict=True):
        lines.append(",".join([*(str(value) for value in row), "|".join(row_tags)]))
    text = tmp_path / "log.csv"
    text.write_text("\n".join(lines) + "\n")
    for path in (parquet, text):
        convert.convert(convert.Source(path, SCHEMA, "tabular"), tmp_path / path.suffix[1:])
    one, other = reader.DataSet(tmp_path / "parquet"), reader.DataSet(tmp_path / "csv")
    assert one.description.fingerprint == other.description.fingerprint
    assert one.description.splits == other.description.splits
