"""The Criteo reader: good rows kept, bad ones named, in any file a user may bring."""

import dataclasses
import gzip

import logs
import pytest

from tfrecords import formats
from tfrecords import schema as schema_lib
from tfrecords.formats import criteo


def read(path, schema=None, rows_per_chunk=100_000):
    schema = schema or criteo.schema()
    return logs.read(criteo.open_log(formats.Files((path,)), schema, rows_per_chunk), schema)


def values(table):
    """Rows back as the strings of the log."""
    columns = []
    for name in criteo.COLUMNS:
        column = table[name].to_pylist()
        if name in criteo.NUMERIC_COLUMNS:
            column = ["" if v is None else str(int(v)) for v in column]
        columns.append([v or "" for v in column])
    return [list(row) for row in zip(*columns, strict=True)]


def bad_line(tmp_path, line, neighbors=2):
    """Reads a log with one bad line between good ones; returns table and the reject."""
    good = logs.rows(2 * neighbors)
    path = tmp_path / "log.tsv"
    path.write_bytes(logs.text(good[:neighbors]) + line + logs.text(good[neighbors:]))
    table, rejected = read(path)
    assert values(table) == good
    (only,) = rejected
    assert (only.path, only.line) == (str(path), neighbors + 1)
    assert only.raw == line.rstrip(b"\r\n")
    return table, only


def test_rows_come_back_as_written_with_their_line_numbers(tmp_path):
    rows = logs.rows(50)
    table, rejected = read(logs.write(tmp_path / "log.tsv", rows))
    assert values(table) == rows
    assert table[formats.LINE_NUMBER].to_pylist() == list(range(1, 51))
    assert not rejected
    assert any(value.startswith("-") for row in rows for value in row[1:14])


def test_empty_values_are_null_and_zero_is_not(tmp_path):
    row = logs.rows(1)[0]
    row[1], row[2], row[14], row[15] = "", "0", "", "05db9164"
    table, _ = read(logs.write(tmp_path / "log.tsv", [row]))
    assert table["I1"].to_pylist() == [None]
    assert table["I2"].to_pylist() == [0.0]
    assert table["C1"].to_pylist() == [""]
    assert table["C2"].to_pylist() == ["05db9164"]


@pytest.mark.parametrize("rows_per_chunk", [1, 7, 1_000])
def test_the_chunk_size_changes_nothing(tmp_path, rows_per_chunk):
    rows = logs.rows(40)
    text = logs.text(rows[:20]) + b"bad\n" + logs.text(rows[20:])
    path = tmp_path / "log.tsv"
    path.write_bytes(text)
    table, rejected = read(path, rows_per_chunk=rows_per_chunk)
    assert values(table) == rows
    assert table[formats.LINE_NUMBER].to_pylist() == [*range(1, 21), *range(22, 42)]
    assert [r.line for r in rejected] == [21]


def test_gzip_is_recognized_by_content_and_gives_the_same_rows(tmp_path):
    rows = logs.rows(20)
    path = tmp_path / "log.tsv"  # no .gz: the content decides
    path.write_bytes(gzip.compress(logs.text(rows)))
    table, rejected = read(path)
    assert values(table) == rows
    assert not rejected


def test_windows_line_ends_and_a_last_line_without_one_change_nothing(tmp_path):
    rows = logs.rows(9)
    path = tmp_path / "log.tsv"
    for text in (logs.text(rows, "\r\n"), logs.text(rows)[:-1], logs.text(rows, "\r\n")[:-2]):
        path.write_bytes(text)
        table, rejected = read(path)
        assert values(table) == rows
        assert not rejected


def test_windows_line_ends_around_a_bad_line_change_nothing(tmp_path):
    rows = logs.rows(4)
    path = tmp_path / "log.tsv"
    path.write_bytes(logs.text(rows[:2], "\r\n") + b"1\t2\r\n" + logs.text(rows[2:], "\r\n"))
    table, rejected = read(path)
    assert values(table) == rows
    assert [(r.line, r.raw) for r in rejected] == [(3, b"1\t2")]


GOOD = logs.rows(1, seed=9)[0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (logs.text([GOOD[:-1]]), r"expected 40 tab-separated columns .* got 39 columns"),
        (logs.text([[*GOOD, "extra"]]), r"expected 40 tab-separated columns .* got 41 columns"),
        (b"\n", r"the line is empty; remove it"),
        (logs.text([["2", *GOOD[1:]]]), r"label must be 0 or 1, got '2'"),
        (logs.text([["0.5", *GOOD[1:]]]), r"label must be 0 or 1, got '0.5'"),
        (logs.text([["-1", *GOOD[1:]]]), r"label must be 0 or 1, got '-1'"),
        (logs.text([[GOOD[0], "abc", *GOOD[2:]]]), r"I1 must be a finite number .* got 'abc'"),
        (logs.text([[GOOD[0], "inf", *GOOD[2:]]]), r"I1 must be a finite number .* got 'inf'"),
        (logs.text([[GOOD[0], "1e999", *GOOD[2:]]]), r"I1 must be a finite number"),
        (logs.text([[*GOOD[:20], "ab\rcd", *GOOD[21:]]]), r"line contains a carriage return"),
        (logs.text([criteo.COLUMNS]), r"looks like a header line .*remove it"),
        (
            logs.text([[*GOOD[:39], "XXXX"]]).replace(b"XXXX", b"\xff\xfe"),
            r"byte \d+ is not UTF-8; convert the file to UTF-8 .*iconv -f cp1252",
        ),
    ],
    ids=[
        "short", "extra column", "blank", "label 2", "label 0.5", "label -1", "no number", "inf",
        "overflow", "carriage return", "header inside", "not UTF-8",
    ],
)  # fmt: skip
def test_a_bad_line_is_rejected_with_its_reason_and_its_neighbors_kept(tmp_path, line, reason):
    _, rejected = bad_line(tmp_path, line)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(rejected.reason)


@pytest.mark.parametrize("value", ["5", "-5", "1.", ".5", "1e3", "1E-3", "007", " 5", "5 ", "+5"])
@pytest.mark.parametrize(
    "neighbor", [b"", b"bad\n"], ids=["among good lines", "next to a bad line"]
)
def test_a_number_is_read_in_the_same_way_with_and_without_a_bad_line_next_to_it(
    tmp_path, value, neighbor
):
    path = tmp_path / "log.tsv"
    path.write_bytes(logs.text([[GOOD[0], value, *GOOD[2:]]]) + neighbor)
    table, rejected = read(path)
    assert table["I1"].to_pylist() == [float(value)]
    assert len(rejected) == bool(neighbor)


@pytest.mark.parametrize("value", ["+-5", "0x10", "1,5", "1_000", "--5", "5-", "infinity", "5 5"])
@pytest.mark.parametrize(
    "neighbor", [b"", b"bad\n"], ids=["among good lines", "next to a bad line"]
)
def test_text_that_is_not_a_number_is_rejected_with_and_without_a_bad_line_next_to_it(
    tmp_path, value, neighbor
):
    path = tmp_path / "log.tsv"
    path.write_bytes(logs.text([[GOOD[0], value, *GOOD[2:]]]) + neighbor)
    assert read(path)[1][0].line == 1


def test_a_header_on_the_first_line_is_rejected_and_the_rest_kept(tmp_path):
    _, rejected = bad_line(tmp_path, logs.text([criteo.COLUMNS]), neighbors=0)
    assert "looks like a header line" in rejected.reason


def test_a_block_of_bad_lines_alone_gives_an_empty_table(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_bytes(b"bad\nworse\n\n")
    table, rejected = read(path)
    assert table.num_rows == 0
    assert [r.line for r in rejected] == [1, 2, 3]


def test_missing_paths_directories_and_empty_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No file at .*missing\.tsv; check the path"):
        read(tmp_path / "missing.tsv")
    with pytest.raises(ValueError, match=r"is a directory; expected a file"):
        read(tmp_path)
    table = tmp_path / "log.parquet"
    for content in (b"PAR1 and so on", gzip.compress(b"PAR1 and so on")):
        table.write_bytes(content)
        with pytest.raises(ValueError, match=r"is Parquet; expected text.*--format=tabular"):
            read(table)
    empty = tmp_path / "empty.tsv"
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.tsv is empty; expected a log"):
        read(empty)
    empty.write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match=r"empty\.tsv is empty; expected a log"):
        read(empty)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_gzip_is_refused_by_name(tmp_path, damage):
    packed = bytearray(gzip.compress(logs.text(logs.rows(200))))
    if damage == "truncated":
        del packed[len(packed) // 2 :]
    else:
        packed[len(packed) // 2] ^= 0xFF
    path = tmp_path / "log.tsv.gz"
    path.write_bytes(bytes(packed))
    with pytest.raises(ValueError, match=r"log\.tsv\.gz: the gzip stream is truncated or damaged"):
        read(path)


def test_a_schema_that_the_log_cannot_fill_is_refused():
    plain = criteo.schema()
    field = schema_lib.Field("C27", "categorical", "query")
    with pytest.raises(
        ValueError, match=r"The Criteo log has no column 'C27'\..* It has label, I1, "
    ):
        criteo.check_schema(dataclasses.replace(plain, fields=(*plain.fields, field)))
    number = dataclasses.replace(plain.fields[-1], kind="numeric")
    with pytest.raises(ValueError, match=r"'C26' is categorical in the Criteo log, .* numeric"):
        criteo.check_schema(dataclasses.replace(plain, fields=(*plain.fields[:-1], number)))
    with pytest.raises(ValueError, match=r"click must be 'label', got None"):
        criteo.check_schema(dataclasses.replace(plain, click=None))


def test_a_first_line_that_lacks_a_value_does_not_make_the_file_unlabeled(tmp_path):
    rows = logs.rows(6)
    table, rejected = read(logs.write(tmp_path / "log.tsv", [rows[0][:-1], *rows[1:]]))
    assert values(table) == rows[1:]
    assert [r.line for r in rejected] == [1]


def test_a_file_without_labels_gives_rows_without_labels(tmp_path):
    rows = logs.rows(6)
    path = logs.write(tmp_path / "test.txt", [row[1:] for row in rows])
    schema = criteo.schema()
    files = formats.Files((logs.write(tmp_path / "train.txt", rows),), test=(path,))
    table, rejected = logs.read(criteo.open_log(files, schema), schema)
    assert rejected == []
    assert table["label"].to_pylist() == [row[0] for row in rows] + [None] * 6
    assert table["C26"].to_pylist() == [row[-1] for row in rows] * 2
