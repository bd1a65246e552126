"""A custom log format, the one in docs/howto/own_format.md."""

import dataclasses
import json

import howto
import logs
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from tfrecords import convert, formats
from tfrecords.schema import Field, Schema

SCHEMA = Schema(
    "json",
    (
        Field("country", "categorical", "query", min_count=1),
        Field("history", "categorical_list", "query", min_count=1, max_list_length=3),
        Field("ad", "categorical", "ad", min_count=1),
        Field("price", "numeric", "ad"),
    ),
    ad_key=("ad",),
    click="clicked",
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current directory, with the module of the page."""
    howto.write("own_format", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(path, rows):
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


def rows(count):
    rng = np.random.default_rng(0)
    for ad in rng.integers(9, size=count).tolist():
        yield {
            "country": ["CH", None, "DE"][ad % 3],
            "history": [f"h{ad}", "h1"][: ad % 3],
            "ad": ad,
            "price": None if ad == 4 else ad / 2,
            "clicked": bool(ad % 2),
            "ignored": {"of": "any kind"},
        }


def test_a_custom_format_gives_the_data_set_of_the_same_table(here):
    own = logs.converted(
        write(here / "log.jsonl", rows(200)), here / "own", SCHEMA, format="json_lines:JsonLines"
    )
    lines = ["country,history,ad,price,clicked"]
    for row in rows(200):
        price = "" if row["price"] is None else row["price"]
        history = "|".join(row["history"])
        clicked = int(row["clicked"])
        lines.append(f"{row['country'] or ''},{history},{row['ad']},{price},{clicked}")
    table = logs.converted_table(write(here / "log.csv", lines), here / "table", SCHEMA)
    assert own.checksum == table.checksum


def test_bad_lines_are_rejected_with_the_reason(here):
    bad = ["[1]", "{", {"country": ["CH"]}, {"price": "cheap"}]
    path = write(here / "log.jsonl", [*rows(20), *bad])
    form = formats.FORMATS.get("json_lines:JsonLines")
    table, rejected = logs.read(form.open_log(formats.Files((path,)), SCHEMA), SCHEMA)
    assert table.num_rows == 20
    said = {line.line: line.reason for line in rejected}
    assert list(said) == [21, 22, 23, 24]
    assert said[21] == "expected a JSON object"
    assert "Expecting property name" in said[22]
    assert said[23] == 'country: expected one value, got ["CH"]'
    assert said[24] == "price must be a finite number or empty, got 'cheap'"
    assert rejected[1].raw == b"{"


class Arrays(formats.LineFormat):
    """Lines of numbers, as NumPy has them."""

    def parse_line(self, line):
        numbers = np.array(line.split(), np.int64)
        return {"ad": numbers[0], "price": np.float32(0.5), "history": numbers, "clicked": True}


def test_numpy_values_are_read_as_python_values(here):
    path = write(here / "log.txt", ["7 1 2", "8 3"])
    schema = Schema("arrays", SCHEMA.fields[1:], ad_key=("ad",), click="clicked")
    log = Arrays().open_log(formats.Files((path,)), schema)
    (chunk,) = log.chunks()
    table = log.parse(chunk).table.to_pydict()
    assert table["ad"] == ["7", "8"]
    assert table["price"] == [0.5, 0.5]
    assert table["history"] == [["7", "1", "2"], ["8", "3"]]
    assert table["clicked"] == ["true", "true"]


def test_a_column_that_no_line_has_is_an_error(here):
    path = write(here / "log.jsonl", [{**row, "clicked": None} for row in rows(9)])
    form = formats.FORMATS.get("json_lines:JsonLines")
    path.write_text(path.read_text().replace("clicked", "clickt"))
    log = form.open_log(formats.Files((path,)), SCHEMA)
    with pytest.raises(ValueError, match=r"no line has the column 'clicked' .*mean 'clickt'\?"):
        log.parse(next(log.chunks()))


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match=r"Unknown log format 'critoe'; .* mean 'criteo'\?"):
        formats.FORMATS.get("critoe")
    assert formats.FORMATS.get("avazu").schema().name == "avazu"


class Failing(formats.LineFormat):
    """Fails on some lines in a way that is not foreseen."""

    def parse_line(self, line):
        row = json.loads(line)
        if row == "none":
            return None
        price = {1, 2} if row.get("price") == "set" else row["price"]
        return {**row, "price": price}


def test_a_line_on_which_a_format_fails_is_rejected_with_the_error(here):
    good = next(rows(1))
    bad = [{"ad": 1}, '"none"', {**good, "price": "set"}, {**good, "price": 10**400}]
    path = write(here / "log.jsonl", [good, *bad])
    table, rejected = logs.read(Failing().open_log(formats.Files((path,)), SCHEMA), SCHEMA)
    assert table.num_rows == 1
    assert {line.line: line.reason for line in rejected} == {
        2: "parse_line: KeyError: 'price'",
        3: "parse_line: expected a mapping of values by column, or a list of such mappings, got "
        "None",
        4: "price: expected a string, a number or None, got {1, 2}",
        5: "int too large to convert to float",
    }


SESSIONS = Schema(
    "sessions",
    (
        Field("country", "categorical", "query", min_count=1),
        Field("ad", "categorical", "ad", min_count=1),
    ),
    ad_key=("ad",),
    click="clicked",
    request_key="session",
    position="position",
)


def session(number, **changes):
    shown = [f"a{number % 3}", f"b{number % 2}"]
    own = {"id": f"s{number}", "country": "CH", "shown": shown, "clicked": shown[: number % 2]}
    return {**own, **changes}


def test_the_rows_of_a_line_are_those_of_its_list(here):
    lines = [session(0, shown=[]), *map(session, range(60)), session(60, shown=["a0", ["b"], "c"])]
    path = write(here / "log.jsonl", lines)
    options = {"format": "sessions:Sessions", "rows_per_chunk": 1}
    data = logs.converted(path, here / "data", SESSIONS, **options)
    assert data.description.source.lines == 2 * 60 + 3
    assert sum(data.num_requests(split) for split in ("train", "validation", "test")) == 61
    assert sum(data.label_sum(split, "click") for split in ("train", "validation", "test")) == 30
    (rejected,) = (here / "data" / "rejected.tsv").read_text().splitlines()
    assert rejected.startswith(f'{path}\t62\tad: expected one value, got ["b"]\t{{"id": "s60"')


def test_a_list_of_other_values_rejects_its_line_once(here):
    good = {"ad": 1, "country": "CH", "clicked": 0}
    path = write(here / "log.jsonl", [[good, 3], good, [good, {**good, "ad": 2}]])
    schema = Schema("plain", SESSIONS.fields, ad_key=("ad",), click="clicked")
    log = SeveralLines().open_log(formats.Files((path,)), schema)
    table, rejected = logs.read(log, schema)
    assert table["ad"].to_pylist() == ["1", "1", "2"]
    assert [line.line for line in rejected] == [1]
    assert "a mapping of values by column, or a list of such mappings, got [" in rejected[0].reason


def test_a_log_without_a_row_is_refused(here):
    path = write(here / "log.jsonl", [session(0, shown=[])] * 9)
    with pytest.raises(ValueError, match="no line has rows; expected at least one row"):
        logs.converted(path, here / "data", SESSIONS, format="sessions:Sessions")


def test_arrow_files_give_the_data_set_of_the_same_table(here):
    table = pa.Table.from_pylist([{**row, "ignored": 0} for row in rows(200)])
    table = table.set_column(2, "ad", table["ad"].cast(pa.string()))
    feather.write_feather(table, here / "log.feather")
    own = logs.converted(
        here / "log.feather", here / "own", SCHEMA, format="arrow_files:ArrowFiles"
    )
    same = logs.converted(
        write(here / "log.jsonl", rows(200)), here / "lines", SCHEMA, format="json_lines:JsonLines"
    )
    assert own.checksum == same.checksum


def test_rejected_rows_of_arrow_files_are_shown(here):
    table = pa.table({**dict.fromkeys(["country", "ad"], ["x"] * 3), "clicked": [0, 7, 1]})
    table = table.append_column("history", pa.nulls(3, pa.list_(pa.string())))
    table = table.append_column("price", pa.nulls(3, pa.float64()))
    feather.write_feather(table, here / "log.feather")
    form = formats.FORMATS.get("arrow_files:ArrowFiles")
    log = form.open_log(formats.Files((here / "log.feather",)), SCHEMA, rows_per_chunk=1)
    _, (rejected,) = logs.read(log, SCHEMA)
    assert rejected.line == 2
    assert rejected.reason.startswith("clicked must be 0 or 1, got 7")
    assert json.loads(rejected.raw)["clicked"] == 7


def test_a_line_format_without_its_method_is_named(here):
    path = write(here / "log.jsonl", rows(3))
    log = convert.Source(path, SCHEMA, "tfrecords.formats:LineFormat").open()
    with pytest.raises(ValueError, match=r"NotImplementedError: LineFormat has no `parse_line`"):
        log.parse(next(iter(log.chunks())))


class SeveralLines(formats.LineFormat):
    def parse_line(self, line):
        if line == "bad":
            raise ValueError("two\nlines\tof text")
        return json.loads(line)


def test_a_reason_of_several_lines_is_one_line_of_the_rejected_file(here):
    path = write(here / "log.jsonl", [*rows(40), "bad"])
    logs.converted(path, here / "data", SCHEMA, format=f"{__name__}:SeveralLines")
    (line,) = (here / "data" / "rejected.tsv").read_text().splitlines()
    assert line == f"{path}\t41\ttwo lines of text\tbad"


@pytest.mark.parametrize("decimal", [None, ","])
def test_fields_that_the_lines_lack_are_read_from_the_tables_of_ads_and_users(here, decimal):
    schema = dataclasses.replace(SCHEMA, user_key="user", decimal=decimal)
    lacking = ("country", "price")
    log = [
        {name: value for name, value in row.items() if name not in lacking}
        | {"user": f"u{row['ad'] % 2}", "history": None}
        for row in rows(200)
    ]
    prices = [[str(ad), f"{ad / 2}".replace(".", decimal or ".")] for ad in range(12)]
    logs.write(here / "ads.tsv", [["ad", "price"], *prices])
    logs.write(here / "users.tsv", [["user", "country"], ["u0", "CH"], ["u1", "DE"]])
    data = logs.converted(
        write(here / "log.jsonl", log),
        here / "data",
        schema,
        format="json_lines:JsonLines",
        ads_path=here / "ads.tsv",
        users_path=here / "users.tsv",
    )
    ads = data.catalog()
    # Ads 9 to 11 were never shown.
    assert dict(zip(ads.ad_ids.to_pylist(), ads.fields["price"].to_pylist(), strict=True)) == {
        str(ad): ad / 2 for ad in range(12)
    }
    assert set(data.fitted.statistics["country"].vocabulary) == {"CH", "DE"}
    assert data.description.source.users_table is not None


def test_the_decimal_sign_of_the_schema_applies_to_texts_of_a_custom_format(here):
    schema = dataclasses.replace(SCHEMA, revenue="paid", decimal=",")
    log = [
        {**row, "price": f"{1000 + row['ad']:,} €".replace(",", "."), "paid": paid}
        for row in rows(200)
        # A number stays as it is.
        for paid in (["1,50 €", 0.25][row["ad"] > 4] if row["clicked"] else None,)
    ]
    data = logs.converted(
        write(here / "log.jsonl", log), here / "data", schema, format="json_lines:JsonLines"
    )
    prices = data.catalog().fields["price"].to_pylist()
    assert sorted(prices) == [1000.0 + ad for ad in range(9)]
    revenue = data.column("train", "revenue")
    assert set(revenue[data.column("train", "click") == 1].tolist()) == {0.25, 1.5}


def test_a_table_of_other_ads_is_refused(here):
    log = [{name: value for name, value in row.items() if name != "price"} for row in rows(200)]
    logs.write(here / "ads.tsv", [["ad", "price"], ["other", "1"]])
    # Nine ads; an error needs ten keys.
    log += [{**log[0], "ad": 100 + number} for number in range(5)]
    with pytest.raises(ValueError, match=r"contains none of the log's values of \['ad'\]"):
        logs.converted(
            write(here / "log.jsonl", log),
            here / "data",
            SCHEMA,
            format="json_lines:JsonLines",
            ads_path=here / "ads.tsv",
        )


def test_a_format_that_reads_no_table_of_ads_says_so_before_it_reads_the_log(here):
    source = convert.Source(
        here / "log.arrow", SCHEMA, "arrow_files:ArrowFiles", ads_path=here / "ads.tsv"
    )
    logs.write(here / "ads.tsv", [["ad", "price"], ["1", "1"]])
    with pytest.raises(ValueError, match=r"ArrowFiles reads no table of ads, but .*ads\.tsv"):
        source.open()  # log.arrow does not exist.
