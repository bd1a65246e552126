"""Errors of formats that do not return a log and its rows."""

import dataclasses
import re

import pyarrow as pa
import pytest

from tfrecords import convert, formats
from tfrecords.schema import Field, Schema

SCHEMA = Schema(
    "own",
    (
        Field("country", "categorical", "query"),
        Field("tags", "categorical_list", "ad"),
        Field("ad", "categorical", "ad"),
    ),
    ad_key=("ad",),
    click="clicked",
)
ROWS = {
    "country": ["CH", "DE", None],
    "tags": [["a"], [], None],
    "ad": [1, 2, 3],
    "clicked": [True, False, True],
    formats.LINE_NUMBER: [1, 2, 4],
}
FAULTS = {3: "it is bad"}


class Log:
    """Four rows; the third is bad."""

    def __init__(self, files, schema, rows_per_chunk):
        self.files = tuple(files)

    def chunks(self):
        yield formats.Chunk(self.files[0], None, 1, 4, SCHEMA.columns, b"")

    def parse(self, chunk):
        return formats.Parsed(pa.table(ROWS), FAULTS)

    def raw(self, chunk, lines):
        return [b"raw"] * len(lines)


class Own(formats.LogFormat):
    def open_log(self, files, schema, rows_per_chunk=1):
        return Log(files, schema, rows_per_chunk)


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Returns a function that opens a log whose methods are replaced."""

    def open_it(**methods):
        for name, value in methods.items():
            monkeypatch.setattr(Log, name, value)
        return convert.Source(tmp_path / "log.own", SCHEMA, f"{__name__}:Own").open()

    return open_it


def parsed(changed=None, without=(), **options):
    rows = {
        name: values for name, values in {**ROWS, **(changed or {})}.items() if name not in without
    }
    return lambda *_: formats.Parsed(pa.table(rows), **{"faults": FAULTS, **options})


def fails(*_):
    raise KeyError("no such key")


TAGS = pa.array(ROWS["tags"], pa.list_(pa.string()))


@pytest.mark.parametrize(
    "tags",
    [
        TAGS,
        TAGS.cast(pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        pa.DictionaryArray.from_arrays([0, 1, 1], TAGS[:2]),
        pa.array(["a", None, "b|c"]).dictionary_encode(),
    ],
)
def test_a_valid_log_is_read(opened, tags):
    log = opened(parse=parsed({"tags": tags, "ad": [b"x", b"y", b"z"]}))
    (chunk,) = log.chunks()
    assert log.parse(chunk).table.num_rows == 3
    assert log.raw(chunk, [3]) == [b"raw"]


@pytest.mark.parametrize(
    ("parse", "said"),
    [
        (fails, "KeyError: 'no such key'"),
        (lambda *_: pa.table(ROWS), "expected a formats.Parsed, got Table"),
        (parsed(without=["country"]), "the table lacks the column 'country'; it has tags, ad, "),
        (parsed(without=[formats.LINE_NUMBER]), "the table lacks the column '__line__'"),
        (
            parsed({formats.LINE_NUMBER: [1, 1, 2]}),
            "'__line__' is 1 in several rows; .* Number the ",
        ),
        (parsed({formats.LINE_NUMBER: [1, 3, 2]}), "line 3 is both in the table and in the faults"),
        (parsed({formats.LINE_NUMBER: ["1", "2", "4"]}), "a whole number in '__line__' for each"),
        (
            parsed(num_rows=9),
            r"expected 9 rows \(num_rows\) .*, got 3 in the table and 1 in the fa",
        ),
        (parsed(faults={}), r"expected 4 rows \(num_rows\) .*, got 3 in the table and 0 in the fa"),
        (parsed(faults=["bad"]), "expected faults by line number, got list"),
        (parsed({"country": [{"a": 1}] * 3}), "'country' has the Arrow type struct<a: int64>; exp"),
        (parsed({"country": [["CH"]] * 3}), "the column 'country' has the Arrow type list<"),
        (parsed({"tags": [[["a"]]] * 3}), "'tags' has the Arrow type .*, or lists of them"),
        (parsed({"country": [b"\xff"] * 3}), "the column 'country' has bytes that are not UTF-8"),
    ],
)
def test_what_is_not_the_rows_of_a_chunk_is_named_with_format_file_and_line(opened, parse, said):
    log = opened(parse=parse)
    (chunk,) = log.chunks()
    where = rf"format .*:Own, .*log\.own, rows from line 1: parse: .*{said}.*Correct the format\."
    with pytest.raises(ValueError, match=where):
        log.parse(chunk)


def test_the_rows_of_a_line_are_numbered(opened):
    numbers = [formats.numbered(1, 0), formats.numbered(1, 1), formats.numbered(2, 0)]
    log = opened(parse=parsed({formats.LINE_NUMBER: numbers}))
    (chunk,) = log.chunks()
    assert [formats.line_of(number) for number in numbers] == [1, 1, 2]
    assert log.parse(chunk).table[formats.LINE_NUMBER].to_pylist() == numbers


def test_deliberate_errors_of_a_format_are_unchanged(opened):
    def refused(*_):
        raise ValueError("the file is from 1999")

    def interrupted(*_):
        raise OSError("the disk is gone")

    (chunk,) = opened().chunks()
    with pytest.raises(ValueError, match=r"^the file is from 1999$"):
        opened(parse=refused).parse(chunk)
    with pytest.raises(OSError, match=r"^the disk is gone$"):
        opened(parse=interrupted).parse(chunk)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (fails, "KeyError: 'no such key'"),
        (lambda *_: [b"x"] * 2, "expected the rows of 1 lines, got 2"),
        (lambda *_: ["x"], "expected a list of bytes, got list"),
    ],
)
def test_raw_rows_are_checked(opened, raw, said):
    log = opened(raw=raw)
    (chunk,) = log.chunks()
    with pytest.raises(ValueError, match=rf"log\.own, rows from line 1: raw: {said}"):
        log.raw(chunk, [3])


def test_chunks_are_checked(opened):
    with pytest.raises(ValueError, match=r":Own: chunks: TypeError: expected it to .*got str 'x'"):
        list(opened(chunks=lambda _: iter("x")).chunks())


class ReturnsNone(formats.LogFormat):
    def open_log(self, files, schema, rows_per_chunk=1):
        return None


class TwoArguments(formats.LogFormat):
    def open_log(self, files, schema):
        return None


class NoOpenLog(formats.LogFormat):
    def schema(self):
        return dataclasses.asdict(SCHEMA)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (ReturnsNone, "a log with files, chunks, parse, raw; got None, without files, chunks"),
        (
            TwoArguments,
            r"expected open_log\(files, schema, rows_per_chunk\), got open_log\(files, ",
        ),
        (NoOpenLog, "open_log: NotImplementedError: NoOpenLog has no `open_log`"),
    ],
)
def test_a_format_that_opens_no_log_is_refused(tmp_path, form, said):
    name = f"{__name__}:{form.__name__}"
    with pytest.raises(ValueError, match=f"format {re.escape(name)}: .*{said}"):
        convert.Source(tmp_path / "log.own", SCHEMA, name).open()


def test_a_log_without_raw_is_refused_before_a_row_is_rejected(opened):
    with pytest.raises(ValueError, match=r"got Log .*, without raw\."):
        opened(raw=None)


def test_a_value_that_is_not_a_schema_is_refused():
    assert formats.schema_of("avazu").name == "avazu"
    assert formats.schema_of("tabular") is None
    with pytest.raises(ValueError, match=r"schema\(\) to return .*, got dict .*schema_from_json"):
        formats.schema_of(f"{__name__}:NoOpenLog")
