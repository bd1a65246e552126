"""JSON lines, numbers and times as people write them, calendars, and files without a header."""

import dataclasses
import gzip
import json
import pathlib
from typing import Any

import logs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecords import formats, reader
from tfrecords import schema as schema_lib
from tfrecords.columns import as_lists, calendar_values, read_number
from tfrecords.formats import tabular
from tfrecords.schema import Field

SCHEMA = schema_lib.Schema(
    "app",
    (
        Field("os", "categorical", "query", column="device.os", min_count=1),
        Field("age", "numeric", "query"),
        Field("seen", "categorical_list", "query", min_count=1),
        Field("sku", "categorical", "ad", min_count=1),
    ),
    ad_key=("sku",),
    click="click",
    show=("meta.title",),
)


def row(**changes: Any) -> dict[str, Any]:
    """Returns a row of the schema, with other keys too."""
    whole = {
        "device": {"os": "ios", "model": {"name": "x"}},
        "age": 31,
        "seen": ["a", 7, None],
        "sku": 17,
        "click": True,
        "meta": {"title": "Tea", "sizes": [1, 2]},
    }
    return {**whole, **changes}


def write(path: pathlib.Path, rows: list[Any]) -> pathlib.Path:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in rows)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: pathlib.Path, schema: schema_lib.Schema) -> tuple[dict[str, list], list]:
    opened = tabular.open_log(formats.Files((path,)), schema)
    table, rejected = logs.read(opened, schema)
    return table.to_pydict(), rejected


@pytest.mark.parametrize("name", ["log.jsonl", "log.ndjson.gz"])
def test_values_keep_their_types_and_bad_lines_are_rejected(tmp_path: pathlib.Path, name: str):
    path = write(
        tmp_path / name,
        [
            row(),
            row(age="12.5", sku="s1", click=0, seen=None, device={}, meta={"title": 5}),
            "{not json}\n",
            row(age="old"),
            row(sku=["x"]),
            row(age=None, sku=2.0, seen=[]),
            "[1]\n",
        ],
    )
    table, rejected = read(path, SCHEMA)
    assert table["device.os"] == ["ios", None, "ios"]
    assert table["age"] == [31.0, 12.5, None]
    assert table["seen"] == [["a", "7"], None, []]
    assert table["sku"] == ["17", "s1", "2"]
    assert table["click"] == ["true", "0", "true"]
    assert [(fault.line, fault.reason.split(",")[0]) for fault in rejected] == [
        (3, "it is not valid JSON (Expecting property name enclosed in double quotes: line 1 "
            "column 2 (char 1))"),
        (4, "age must be a finite number or empty"),
        (5, "sku: expected one value"),
        (7, "expected an object"),
    ]  # fmt: skip
    assert rejected[0].raw == b"{not json}"


def test_a_line_that_is_not_text_or_is_nested_too_deeply_is_rejected(tmp_path) -> None:
    half, deep = "\ud83d", "[" * 100_000 + "]" * 100_000
    path = write(
        tmp_path / "log.jsonl",
        [
            row(sku="a"),
            row(sku=half),
            row(seen=["b", half]),
            row(meta={"title": f"Tea {half}"}),
            row(meta={"title": [{"of": half}]}),
            row(other=half, meta={"title": "😀"}, sku="b"),
            f'{{"other": {deep}}}\n',
            f'{{"meta": {{"title": {deep}}}}}\n',
        ],
    )
    table, rejected = read(path, SCHEMA)
    assert (table["sku"], table["meta.title"]) == (["a", "b"], ["Tea", "😀"])
    assert [(fault.line, fault.reason) for fault in rejected] == [
        (2, r"sku: expected Unicode text, got '\ud83d' with '\ud83d', half of a pair"),
        (3, r"seen: expected Unicode text, got '\ud83d' with '\ud83d', half of a pair"),
        (4, r"meta.title: expected Unicode text, got 'Tea \ud83d' with '\ud83d', half of a pair"),
        (5, r"""meta.title: expected Unicode text, got '[{"of": "\ud83d"}]' with '\ud83d', """
            "half of a pair"),
        (7, "its lists or objects are nested too deeply"),
        (8, "its lists or objects are nested too deeply"),
    ]  # fmt: skip


def test_a_value_to_show_of_any_depth_is_read_or_rejected(tmp_path: pathlib.Path) -> None:
    depths = [9, 90, 110, 400, *range(900, 1000)]  # Python's limit is 1000.
    shown = [{"title": "DEEP"} for _ in depths]
    lines = [json.dumps(row(meta=value)) + "\n" for value in shown]
    for index, depth in enumerate(depths):
        lines[index] = lines[index].replace('"DEEP"', "[" * depth + "]" * depth)
    table, rejected = read(write(tmp_path / "log.jsonl", list(lines)), SCHEMA)
    assert len(table["sku"]) >= 4
    assert len(table["sku"]) + len(rejected) == len(depths)


def test_an_empty_object_is_a_missing_value(tmp_path: pathlib.Path) -> None:
    """Events of analytics tools have objects such as `integrations` that are mostly empty."""
    path = write(tmp_path / "log.jsonl", [row(device={"os": {}}, integrations={}), row()])
    assert "integrations" not in formats.column_names(path, ())
    table, rejected = read(path, SCHEMA)
    assert (table["device.os"], rejected) == ([None, "ios"], [])


@pytest.mark.parametrize("separator", ["|", ";"])
def test_a_text_is_split_whatever_the_other_rows_hold(tmp_path: pathlib.Path, separator) -> None:
    listed = Field("seen", "categorical_list", "query", min_count=1, separator=separator)
    schema = dataclasses.replace(SCHEMA, fields=(SCHEMA.fields[0], listed, SCHEMA.fields[3]))
    values = ["p;q|r", "", None, '["s", "t"]', ["a|b", 'c;"\\', "é\n", None, "[", 2.5, True], []]
    path = write(tmp_path / "log.jsonl", [row(seen=value) for value in values])
    opened = tabular.open_log(formats.Files((path,)), schema)
    (chunk,) = opened.chunks()
    lists = as_lists(listed, opened.parse(chunk).table["seen"]).to_pylist()
    split = {"|": ["p;q", "r"], ";": ["p", "q|r"]}[separator]
    # Values are trimmed.
    whole = ["a|b", 'c;"\\', "é", "[", "2.5", "true"]
    assert lists == [split, [], [], ["s", "t"], whole, []]


@pytest.mark.parametrize("texts", [[], ["7|8", "", "[7, 8]", "7|8|9"]])
def test_null_in_a_vector_is_a_fault_as_in_parquet(tmp_path: pathlib.Path, texts) -> None:
    taste = Field("taste", "dense", "query", length=2)
    schema = dataclasses.replace(SCHEMA, fields=(taste, SCHEMA.fields[3]))
    vectors = [[3, 4.0], [3, None, 4], [None, 4], [], None, ["3", "4"], [3, "x"], [None]]
    path = write(tmp_path / "log.jsonl", [row(taste=value) for value in [*vectors, *texts]])
    table, rejected = read(path, schema)
    assert len(table["taste"]) == 4 + 3 * bool(texts)
    length = "taste must have 2 numbers, the field's length, got"
    assert [(fault.line, fault.reason) for fault in rejected if fault.line <= 8] == [
        (2, f"{length} 3"),
        (3, "taste must be 2 finite numbers, got nan in it"),
        (7, "taste must be 2 finite numbers, got nan in it"),
        (8, f"{length} 1"),
    ]
    assert [fault.reason for fault in rejected if fault.line > 8] == [f"{length} 3"] * bool(texts)


def test_the_objects_of_a_list_are_rows(tmp_path: pathlib.Path) -> None:
    fields = (
        Field("country", "categorical", "query", column="geo.country", min_count=1),
        Field("item", "categorical", "ad", column="items.id", min_count=1),
    )
    schema = schema_lib.Schema(
        "ga", fields, ad_key=("items.id",), click="items.clicked", request_key="id",
        position="items#",
    )  # fmt: skip
    lines = [
        {
            "id": f"r{i}",
            "geo": {"country": "de"},
            "items": [
                {"id": f"a{i % 3}", "clicked": int(i % 4 == 0)},
                {"id": f"b{i % 2}", "clicked": 0},
            ],
        }
        for i in range(60)
    ]
    lines[7]["items"][1]["clicked"] = 3
    path = write(tmp_path / "log.jsonl", lines)
    data_set = logs.converted_table(path, tmp_path / "data", schema)
    assert data_set.description.source.lines == 120
    assert data_set.description.source.rejected == 1
    rejected = (tmp_path / "data" / "rejected.tsv").read_text()
    assert f"{path}\t8\titems.clicked must be 0 or 1, got '3'" in rejected
    assert sum(data_set.num_rows(split) for split in ("train", "validation", "test")) == 119
    assert sum(data_set.num_requests(split) for split in ("train", "validation", "test")) == 60


def test_a_line_with_an_empty_list_has_no_rows_and_other_values_are_rejected(tmp_path) -> None:
    fields = (
        Field("country", "categorical", "query", min_count=1),
        Field("sku", "categorical", "ad", column="shown.sku", min_count=1),
    )
    schema = schema_lib.Schema("sessions", fields, ad_key=("shown.sku",), click="shown.click")
    shown = [{"sku": "a", "click": 1}, {"sku": "b", "click": 0}]
    values = [shown, [], 3, [*shown, 5], {}, "é", None, "\ud83d"]
    path = write(tmp_path / "log.jsonl", [{"country": "de", "shown": value} for value in values])
    table, rejected = read(path, schema)
    assert table["shown.sku"] == ["a", "b"]
    assert [(fault.line, fault.reason) for fault in rejected] == [
        (3, "shown: expected a list of objects, got 3"),
        (4, 'shown: expected a list of objects, got [{"sku": "a", "click": 1}, {"sku": "b", '),
        (5, "shown.sku is empty"),
        (6, 'shown: expected a list of objects, got "é"'),
        (7, "shown.sku is empty"),
        (8, r'shown: expected a list of objects, got "\ud83d"'),
    ]
    write(path, [{"country": "de", "shown": value} for value in [shown, []] * 50])
    source = logs.converted_table(path, tmp_path / "data", schema).description.source
    assert (source.lines, source.rejected) == (100, 0)


def test_json_and_csv_of_one_log_give_the_same_data_set(tmp_path: pathlib.Path) -> None:
    rows = [
        {"os": f"o{i % 3}", "age": i % 40 + 0.5, "sku": f"s{i % 5}", "click": i % 3 // 2}
        for i in range(200)
    ]
    schema = schema_lib.Schema(
        "plain",
        (
            Field("os", "categorical", "query", min_count=1),
            Field("age", "numeric", "query"),
            Field("sku", "categorical", "ad", min_count=1),
        ),
        ad_key=("sku",),
        click="click",
    )
    text = "\n".join([",".join(rows[0]), *(",".join(map(str, record.values())) for record in rows)])
    (tmp_path / "log.csv").write_text(text + "\n")
    logs.converted_table(tmp_path / "log.csv", tmp_path / "csv", schema)
    logs.converted_table(write(tmp_path / "log.jsonl", rows), tmp_path / "json", schema)
    shards = sorted(path.name for path in (tmp_path / "csv").glob("*.tfrecord"))
    assert len(shards) == 3
    for name in shards:
        assert (tmp_path / "csv" / name).read_bytes() == (tmp_path / "json" / name).read_bytes()


def test_faults_of_json_files_are_named(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "log.jsonl", [row()])
    renamed = schema_lib.schema_from_json({**SCHEMA.to_json(), "click": "clik"})
    with pytest.raises(ValueError, match=r"column 'clik'.*Did you mean 'click'"):
        tabular.open_log(formats.Files((path,)), renamed)
    listed = write(tmp_path / "list.json", [[row()]])
    with pytest.raises(ValueError, match=r"is a JSON list; expected JSON lines.*jq -c"):
        tabular.open_log(formats.Files((listed,)), SCHEMA)
    text = tmp_path / "log.csv"
    text.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"log\.jsonl is JSON lines and .*log\.csv is text"):
        tabular.open_log(formats.Files((path, text)), SCHEMA)


@pytest.mark.parametrize(
    ("text", "decimal", "number"),
    [
        ("€18.41", ".", 18.41),
        ("$ 1,234.50", ".", 1234.5),
        ("1e3", ".", 1000),
        ("1.234,50 €", ",", 1234.5),
        ("1 234,5 kr", ",", 1234.5),
        ("R$ 5,00", ",", 5),
        ("-3,5", ",", -3.5),
        ("−€3", ".", -3),
        ("1.234", ",", 1234),
        ("+5", ",", 5),
        ("- 5", ".", -5),
        ("−5", ".", -5),
        ("-€5", ".", -5),
        ("€-5", ".", -5),
        ("$ - 5", ".", -5),
        ("5-", ".", -5),
        ("5 −", ".", -5),
        ("5- €", ",", -5),
        ("5,00 €-", ",", -5),
        ("(5)", ".", -5),
        ("(66.48)", ".", -66.48),
        ("($1,234.50)", ".", -1234.5),
        ("$(5)", ".", -5),
        ("(1.234,50 €)", ",", -1234.5),
        ("(5) EUR", ",", -5),
        ("US$ 5", ".", 5),
        ("12", None, 12),
    ],
)
def test_numbers_as_people_write_them(text: str, decimal: str | None, number: float) -> None:
    assert read_number("price", text, decimal) == number
    assert np.isnan(read_number("price", "NULL", decimal))


@pytest.mark.parametrize(
    ("text", "decimal"),
    [
        ("18.41", ","), ("12,34", "."), ("1.234,50 €", "."), ("1,234.50", ","), ("1e3", ","),
        ("5%", "."), ("5 %", "."), ("5 ‰", "."), ("5¢", "."), ("5 k€", "."), ("$5M", "."),
        ("~5", "."), ("<5", "."), ("±5", "."), ("#5", "."), ("5/7", "."), ("–5", "."),
        ("(-5)", "."), ("-(5)", "."), ("-5-", "."), ("--5", "."), ("+-5", "."), ("((5))", "."),
        ("(5", "."), ("5)", "."), (")5(", "."), ("5 DR", "."), ("a lot", ","), ("12x", ","),
    ],
)  # fmt: skip
def test_texts_of_another_decimal_sign_are_refused(text: str, decimal: str) -> None:
    with pytest.raises(ValueError, match=f"a number with the decimal sign '\\{decimal}'"):
        read_number("price", text, decimal)


def test_negative_amounts_are_rejected_however_they_are_written(tmp_path: pathlib.Path) -> None:
    amounts = ["(66.48)", "($66.48)", "-$66.48", "66.48-", "−66.48", "(66.48 €)", "1.00", "$2.00"]
    rows = [f"s{n % 3},1,{amounts[n % 8]},{amounts[n % 8]}" for n in range(80)]
    (tmp_path / "log.csv").write_text("\n".join(["sku,click,paid,change", *rows]) + "\n")
    fields = (Field("change", "numeric", "query"), Field("sku", "categorical", "ad"))
    schema = schema_lib.Schema("refunds", fields, ("sku",), "click", decimal=".")
    data_set = logs.converted_table(tmp_path / "log.csv", tmp_path / "data", schema)
    assert data_set.description.source.rejected == 0
    # The query field is read with its sign: no positive number above 2.
    changes = [float(sample["change"]) for sample in data_set.sample_requests()]
    assert set(changes) <= {-66.48, 1.0, 2.0}
    schema = dataclasses.replace(schema, revenue="paid")
    with pytest.raises(
        ValueError, match=r"(?s)60 of 80.*paid must be a number of at least 0, got -6"
    ):
        logs.converted_table(tmp_path / "log.csv", tmp_path / "paid", schema)


def test_a_plain_schema_says_how_to_read_such_numbers() -> None:
    with pytest.raises(ValueError, match='set "decimal" in the schema'):
        read_number("price", "1.234,50 €", None)


def test_hours_weekdays_and_months() -> None:
    # 2024-05-05 was a Sunday; 1714921200 is 15:00 of it in UTC.
    times = np.array([1_714_921_200.0, 1_714_921_200.0 + 10 * 3_600, np.nan])
    assert calendar_values(times, "hour").to_pylist() == ["15", "1", None]
    assert calendar_values(times * 1e3, "weekday").to_pylist() == ["Sunday", "Monday", None]
    assert calendar_values(times, "month").to_pylist() == ["5", "5", None]


def test_an_excel_table(tmp_path: pathlib.Path) -> None:
    schema = schema_lib.Schema(
        "excel",
        (
            Field("Stunde", "categorical", "query", column="Datum", calendar="hour", min_count=1),
            Field("Preis", "numeric", "ad"),
        ),
        ad_key=("Artikel",),
        click="Klick",
        revenue="Umsatz",
        time="Datum",
        time_format="%d.%m.%Y %H:%M",
        decimal=",",
    )
    rows = [
        f"{1 + i % 28:02d}.03.2024 {i % 24:02d}:30;A{i % 4};{i % 4},50 €;{i % 2};1.{i % 10}00,25"
        for i in range(100)
    ]
    rows[5] = rows[5].replace("03.2024", "13.2024")
    text = "\r\n".join(["sep=;", "Datum;Artikel;Preis;Klick;Umsatz", *rows]) + "\r\n"
    path = tmp_path / "log.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    data_set = logs.converted_table(path, tmp_path / "data", schema)
    assert data_set.description.source.rejected == 1
    # Two lines come before the rows.
    rejected = (tmp_path / "data" / "rejected.tsv").read_text()
    assert "\t8\tDatum must be a time of the format '%d.%m.%Y %H:%M', got '06.13.2024" in rejected
    catalog = data_set.catalog()
    prices = zip(catalog.ad_ids.to_pylist(), catalog.fields["Preis"].to_pylist(), strict=True)
    assert dict(prices) == {"A0": 0.5, "A1": 1.5, "A2": 2.5, "A3": 3.5}
    splits = ("train", "validation", "test")
    # 1,000.25 to 1,900.25, ten of each; row 5 (1.500,25) is rejected.
    assert sum(data_set.label_sum(s, "revenue") for s in splits) == 14_500 * 10 + 25 - 1_500.25
    sample = data_set.sample_requests()[0]
    assert set(sample) == {"Stunde"}
    assert sample["Stunde"] in {str(hour) for hour in range(24)}


def test_a_file_without_a_header(tmp_path: pathlib.Path) -> None:
    schema = schema_lib.Schema(
        "taobao",
        (
            Field("user", "categorical", "query", min_count=1),
            Field("category", "categorical", "ad", min_count=1),
        ),
        ad_key=("item",),
        click="click",
        header=("user", "item", "category", "click"),
    )
    path = tmp_path / "log.csv"
    path.write_text("".join(f"{i % 9},{i % 5},{i % 2},{i % 3 // 2}\n" for i in range(100)))
    data_set = logs.converted_table(path, tmp_path / "data", schema)
    assert data_set.description.source.lines == 100
    assert data_set.description.source.rejected == 0
    assert reader.DataSet(tmp_path / "data").schema.header == schema.header
    wrong = schema_lib.schema_from_json({**schema.to_json(), "header": ["user", "item", "click"]})
    with pytest.raises(ValueError, match=r"expected 3 columns, the schema's header"):
        tabular.open_log(formats.Files((path,)), wrong)


@pytest.mark.parametrize("name", ["log.jsonl", "log.parquet"])
def test_booleans_of_fields_are_true_and_false(tmp_path: pathlib.Path, name: str) -> None:
    rows = [
        {"member": n % 3 == 0, "answers": [n % 2 == 0], "old": n % 5 == 0, "sku": f"s{n % 7}",
         "click": n % 4 == 0}
        for n in range(200)
    ]  # fmt: skip
    schema = schema_lib.Schema(
        "members",
        (
            Field("member", "categorical", "query"),
            Field("answers", "categorical_list", "query"),
            Field("old", "numeric", "query"),
            Field("sku", "categorical", "ad"),
        ),
        ad_key=("sku",),
        click="click",
    )
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write(path, rows)
    data_set = logs.converted_table(path, tmp_path / "data", schema)
    for field in ("member", "answers"):
        assert set(data_set.fitted.statistics[field].vocabulary) == {"false", "true"}
    assert {sample["old"] for sample in data_set.sample_requests()} <= {0.0, 1.0}
    splits = ("train", "validation", "test")
    assert sum(data_set.label_sum(split, "click") for split in splits) == 50
