"""The Criteo reader: good rows kept, bad ones named, in any file a user may bring."""

import dataclasses
import gzip

import logs
import pyarrow as pa
import pytest

from tfrecords import schema as schema_lib
from tfrecords.formats import criteo, lines


def read(path, schema=None, block_bytes=1 << 20):
    blocks = list(criteo.read(path, schema or criteo.schema(), block_bytes))
    rejected = [r for block in blocks for r in block.rejected]
    return pa.concat_tables([block.table for block in blocks]), rejected


def values(table):
    """Rows back as the strings of the log."""
    columns = []
    for name in criteo.COLUMNS:
        column = table[name].to_pylist()
        if name not in criteo.CATEGORICAL_COLUMNS:
            column = ["" if v is None else str(int(v)) for v in column]
        columns.append([v or "" for v in column])
    return [list(row) for row in zip(*columns, strict=True)]


def bad_line(tmp_path, line, neighbours=2):
    """Reads a log with one bad line between good ones; returns table and the reject."""
    good = logs.rows(2 * neighbours)
    path = tmp_path / "log.tsv"
    path.write_bytes(logs.text(good[:neighbours]) + line + logs.text(good[neighbours:]))
    table, rejected = read(path)
    assert values(table) == good
    (only,) = rejected
    assert (only.path, only.line) == (str(path), neighbours + 1)
    assert only.raw == line.rstrip(b"\r\n")
    assert str(only).startswith(f"{path}, line {neighbours + 1}: ")
    return table, only


def test_rows_come_back_as_written_with_their_line_numbers(tmp_path):
    rows = logs.rows(50)
    table, rejected = read(logs.write(tmp_path / "log.tsv", rows))
    assert values(table) == rows
    assert table[lines.LINE_NUMBER].to_pylist() == list(range(1, 51))
    assert not rejected
    assert any(value.startswith("-") for row in rows for value in row[1:14])


def test_empty_values_are_null_and_zero_is_not(tmp_path):
    row = logs.rows(1)[0]
    row[1], row[2], row[14], row[15] = "", "0", "", "05db9164"
    table, _ = read(logs.write(tmp_path / "log.tsv", [row]))
    assert table["I1"].to_pylist() == [None]
    assert table["I2"].to_pylist() == [0.0]
    assert table["C1"].to_pylist() == [None]
    assert table["C2"].to_pylist() == ["05db9164"]


@pytest.mark.parametrize("block_bytes", [64, 1_000, 1 << 20])
def test_the_block_size_changes_nothing(tmp_path, block_bytes):
    rows = logs.rows(40)
    text = logs.text(rows[:20]) + b"bad\n" + logs.text(rows[20:])
    path = tmp_path / "log.tsv"
    path.write_bytes(text)
    table, rejected = read(path, block_bytes=block_bytes)
    assert values(table) == rows
    assert table[lines.LINE_NUMBER].to_pylist() == [*range(1, 21), *range(22, 42)]
    assert [r.line for r in rejected] == [21]


def test_gzip_is_recognised_by_content_and_gives_the_same_rows(tmp_path):
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
        (b"\n", r"expected 40 tab-separated columns .* got 1 columns"),
        (logs.text([["2", *GOOD[1:]]]), r"the label must be 0 or 1, got '2'"),
        (logs.text([["0.5", *GOOD[1:]]]), r"the label must be 0 or 1, got '0.5'"),
        (logs.text([["-1", *GOOD[1:]]]), r"the label must be 0 or 1, got '-1'"),
        (logs.text([[GOOD[0], "abc", *GOOD[2:]]]), r"I1 must be a finite number .* got 'abc'"),
        (logs.text([[GOOD[0], "nan", *GOOD[2:]]]), r"I1 must be a finite number .* got 'nan'"),
        (logs.text([[GOOD[0], "inf", *GOOD[2:]]]), r"I1 must be a finite number .* got 'inf'"),
        (logs.text([[GOOD[0], "1e999", *GOOD[2:]]]), r"I1 must be a finite number"),
        (logs.text([[GOOD[0], "  ", *GOOD[2:]]]), r"I1 must be a finite number .* got '  '"),
        (logs.text([[*GOOD[:20], "ab\rcd", *GOOD[21:]]]), r"carriage return stands inside"),
        (logs.text([criteo.COLUMNS]), r"looks like a header line .*remove it"),
        (
            logs.text([[*GOOD[:39], "XXXX"]]).replace(b"XXXX", b"\xff\xfe"),
            r"byte \d+ is not UTF-8; convert the file to UTF-8",
        ),
    ],
    ids=[
        "short", "extra column", "blank", "label 2", "label 0.5", "label -1", "no number", "nan",
        "inf", "overflow", "spaces", "carriage return", "header inside", "not UTF-8",
    ],
)  # fmt: skip
def test_a_bad_line_is_rejected_with_its_reason_and_its_neighbours_kept(tmp_path, line, reason):
    _, rejected = bad_line(tmp_path, line)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(rejected.reason)


@pytest.mark.parametrize("value", ["5", "-5", "1.", ".5", "1e3", "1E-3", "007", " 5", "5 ", "+5"])
@pytest.mark.parametrize("beside", [b"", b"bad\n"], ids=["among good lines", "beside a bad line"])
def test_a_number_is_read_alike_with_and_without_a_bad_line_beside_it(tmp_path, value, beside):
    path = tmp_path / "log.tsv"
    path.write_bytes(logs.text([[GOOD[0], value, *GOOD[2:]]]) + beside)
    table, rejected = read(path)
    assert table["I1"].to_pylist() == [float(value)]
    assert len(rejected) == bool(beside)


@pytest.mark.parametrize("value", ["+-5", "0x10", "1,5", "1_000", "--5", "5-", "infinity", "5 5"])
@pytest.mark.parametrize("beside", [b"", b"bad\n"], ids=["among good lines", "beside a bad line"])
def test_no_number_is_rejected_with_and_without_a_bad_line_beside_it(tmp_path, value, beside):
    path = tmp_path / "log.tsv"
    path.write_bytes(logs.text([[GOOD[0], value, *GOOD[2:]]]) + beside)
    assert read(path)[1][0].line == 1


def test_a_header_on_the_first_line_is_rejected_and_the_rest_kept(tmp_path):
    _, rejected = bad_line(tmp_path, logs.text([criteo.COLUMNS]), neighbours=0)
    assert "looks like a header line" in rejected.reason


def test_a_block_of_bad_lines_alone_gives_an_empty_table(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_bytes(b"bad\nworse\n\n")
    table, rejected = read(path)
    assert table.num_rows == 0
    assert [r.line for r in rejected] == [1, 2, 3]


def test_missing_paths_directories_and_empty_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No log at .*missing\.tsv; check the path"):
        read(tmp_path / "missing.tsv")
    with pytest.raises(ValueError, match=r"is a directory; give the path of one log file"):
        read(tmp_path)
    empty = tmp_path / "empty.tsv"
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.tsv is empty; expected a log"):
        read(empty)
    empty.write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match=r"empty\.tsv holds nothing; expected a log"):
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
    with pytest.raises(ValueError, match=r"no column 'C27'; it has I1–I13 and C1–C26"):
        criteo.check_schema(dataclasses.replace(plain, fields=(*plain.fields, field)))
    number = dataclasses.replace(plain.fields[-1], kind="numeric")
    with pytest.raises(ValueError, match=r"'C26' is categorical in the Criteo log, .* numeric"):
        criteo.check_schema(dataclasses.replace(plain, fields=(*plain.fields[:-1], number)))
    with pytest.raises(ValueError, match=r"click must be 'label', got 'clicked'"):
        criteo.check_schema(dataclasses.replace(plain, click="clicked"))


WITH_EXTRAS = dataclasses.replace(
    criteo.schema(), request_key="request", engagement="bought", revenue="paid", position="slot"
)
EXTRA_HEADER = "request\tslot\tbought\tpaid\n"


def with_companion(tmp_path, log, extra, block_bytes=1 << 20):
    path = tmp_path / "log.tsv"
    path.write_bytes(log)
    (tmp_path / "log.extra.tsv").write_bytes(extra.encode())
    return read(path, WITH_EXTRAS, block_bytes)


def test_a_companion_keeps_step_with_the_log_over_rejected_lines(tmp_path):
    rows = logs.rows(6)
    log = logs.text(rows[:2]) + b"bad\n" + logs.text(rows[2:])
    extra = EXTRA_HEADER + "".join(f"r{i}\t{i}\t0\t{i / 2}\n" for i in range(7))
    for block_bytes in (64, 1 << 20):
        table, rejected = with_companion(tmp_path, log, extra, block_bytes)
        assert [r.line for r in rejected] == [3]
        assert table["request"].to_pylist() == ["r0", "r1", "r3", "r4", "r5", "r6"]
        assert table["paid"].to_pylist() == [0.0, 0.5, 1.5, 2.0, 2.5, 3.0]


def test_companion_columns_keep_their_type_from_block_to_block(tmp_path):
    # Taken alone, the first blocks look like integers and the last like a string and a float.
    extra = EXTRA_HEADER + "".join(f"{i}\t0\t0\t0\n" for i in range(9)) + "x\t1\t1\t2.5\n"
    table, _ = with_companion(tmp_path, logs.text(logs.rows(10)), extra, block_bytes=200)
    assert table["request"].to_pylist() == [*map(str, range(9)), "x"]
    assert table["paid"].to_pylist() == [0.0] * 9 + [2.5]


def test_a_companion_of_one_column_may_hold_empty_values(tmp_path):
    path = logs.write(tmp_path / "log.tsv", logs.rows(3))
    (tmp_path / "log.extra.tsv").write_bytes(b"request\na\n\nb\n")
    schema = dataclasses.replace(criteo.schema(), request_key="request")
    assert read(path, schema)[0]["request"].to_pylist() == ["a", None, "b"]


@pytest.mark.parametrize(("count", "what"), [(4, "fewer"), (6, "more")])
def test_a_companion_with_another_number_of_lines_is_refused(tmp_path, count, what):
    extra = EXTRA_HEADER + "r\t0\t0\t0\n" * count
    with pytest.raises(ValueError, match=rf"log\.extra\.tsv has {what} lines than its log"):
        with_companion(tmp_path, logs.text(logs.rows(5)), extra)


@pytest.mark.parametrize(
    "line", ["r\t0\t0\n", "r\t0\tyes\t0\n", "r\t0\t0\t0\t0\n", "a\rb\t0\t0\t0\n"]
)
def test_a_companion_line_that_cannot_be_parsed_is_named(tmp_path, line):
    good = "r\t0\t0\t0\n"
    extra = EXTRA_HEADER + good * 2 + line + good * 2
    with pytest.raises(ValueError, match=r"log\.extra\.tsv, line 4: .*expected the tab-separated"):
        with_companion(tmp_path, logs.text(logs.rows(5)), extra)


def test_a_missing_companion_and_a_missing_column_are_named(tmp_path):
    path = logs.write(tmp_path / "log.tsv", logs.rows(2))
    with pytest.raises(FileNotFoundError, match=r"'request'.*log\.extra\.tsv, which does not"):
        read(path, WITH_EXTRAS)
    with pytest.raises(ValueError, match=r"log\.extra\.tsv lacks the columns \['paid'\]"):
        with_companion(tmp_path, logs.text(logs.rows(1)), "request\tslot\tbought\nr\t0\t0\n")
    (tmp_path / "log.extra.tsv").write_bytes(b"\xff\xfe\n1\n1\n")
    with pytest.raises(ValueError, match=r"log\.extra\.tsv lacks the columns"):
        read(path, WITH_EXTRAS)
