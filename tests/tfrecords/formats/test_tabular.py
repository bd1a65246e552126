"""Tables as logs: formats of text, columns from side tables, and messages about faults."""

import bz2
import dataclasses
import gzip
import json
import lzma
import pathlib
import re
import subprocess

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from repository import EXAMPLES

from tfrecords import convert, formats, reader
from tfrecords import schema as schema_lib
from tfrecords.conversion import catalog, parsed_rows
from tfrecords.formats import tabular
from tfrecords.schema import MISSING_LABEL

SCHEMA = schema_lib.Schema(
    "shop",
    (
        schema_lib.Field("country", "categorical", "query"),
        schema_lib.Field("age", "numeric", "query"),
        schema_lib.Field("sku", "categorical", "ad"),
        schema_lib.Field("name", "categorical", "ad"),
    ),
    ad_key=("sku",),
    click="clicked",
)
LINES = ("country,age,sku,name,clicked", "CH,30,a,tea,1", "DE,,b,pot,0")


def write(path: pathlib.Path, text: str | bytes) -> pathlib.Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def parsed(
    path: pathlib.Path, schema: schema_lib.Schema = SCHEMA, **files: object
) -> tuple[parsed_rows.Rows, dict[int, str]]:
    """Returns the good rows of a log of one chunk, and the faults of the others."""
    opened = tabular.open_log(formats.Files((path,), **files), schema)  # type: ignore[arg-type]
    (chunk,) = opened.chunks()
    good, faults = parsed_rows.normalize(
        schema, opened.parse(chunk), 0, parsed_rows.is_labeled(schema, chunk)
    )
    assert chunk.num_rows == len(good) + len(faults)
    return good, dict(faults)


def texts(good: parsed_rows.Rows, name: str) -> list[str | None]:
    field = next(f for f in (*SCHEMA.fields, *FILMS.fields) if f.name == name)
    return good.raw(field, np.arange(len(good))).to_pylist()


FILMS = schema_lib.Schema(
    "films",
    (
        schema_lib.Field("age", "numeric", "query"),
        schema_lib.Field("city", "categorical", "query"),
        schema_lib.Field("year", "numeric", "ad"),
        schema_lib.Field("genres", "categorical_list", "ad"),
    ),
    ad_key=("film",),
    click="rating",
    click_threshold=4.0,
    user_key="user",
)
RATINGS = "user,film,rating\n1,x,5\n2,y,3.5\n3,x,4\n1,z,1\n"
USERS = "user\tage\tcity\n1\t30\tBern\n2\tNA\tBonn\n"
ADS = "film,genres,year\nx,Drama|War,1995\ny,,-\nw,War,2001\n"


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", "\x01"])
def test_the_delimiter_is_found_in_the_header(tmp_path: pathlib.Path, delimiter: str) -> None:
    text = "\n".join(line.replace(",", delimiter) for line in LINES)
    good, faults = parsed(write(tmp_path / "log", text))
    assert not faults
    assert texts(good, "country") == ["CH", "DE"]
    assert texts(good, "age") == [30.0, None]
    assert good.array(parsed_rows.LABEL_COLUMNS["click"]).tolist() == [1, 0]


@pytest.mark.parametrize("delimiter", ["^", " ", "::"])
def test_an_unknown_delimiter_is_named(tmp_path: pathlib.Path, delimiter: str) -> None:
    text = "\n".join(line.replace(",", delimiter) for line in LINES)
    expected = f"is separated by {delimiter!r}; expected columns separated by a tab"
    with pytest.raises(ValueError, match=re.escape(expected)) as refused:
        parsed(write(tmp_path / "log", text))
    command = str(refused.value).partition("such as: ")[2]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "log.tsv").read_text() == text.replace(delimiter, "\t")


def test_a_long_delimiter_is_found_though_values_have_another(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "movies.dat", "1::Heat: A Film::Action|War\n2::Alien::Action|Horror\n")
    with pytest.raises(ValueError, match="is separated by '::'"):
        formats.column_names(path, ())


def test_python_dictionaries_are_converted_by_the_command_in_the_error(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "reviews.json.gz"
    row = {"asin": "A'1", "price": 2.5, "tags": None}
    path.write_bytes(gzip.compress(f"{row}\n{row}\n".encode()))
    with pytest.raises(ValueError, match="Python dictionaries") as refused:
        formats.column_names(path, ())
    command = str(refused.value).partition("for example with: ")[2]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert formats.column_names(tmp_path / "reviews.jsonl", ()) == tuple(row)


def test_a_column_may_have_punctuation_in_its_name_and_values(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "one.csv", "the only column\nof a small log\nin two long rows\n")
    assert formats.column_names(path, ["the only column"]) == ("the only column",)
    # A row without the character shows that it separates nothing.
    path = write(tmp_path / "other.csv", "the only column\nwords\n")
    assert formats.column_names(path, ()) == ("the only column",)


def test_a_delimiter_inside_the_values_of_another_is_not_taken(tmp_path: pathlib.Path) -> None:
    text = "country\tage\tsku\tname\tclicked\tnote,a,b,c,d,e,f,g,h\nCH\t30\ta\ttea, green\t1\tx\n"
    good, _ = parsed(write(tmp_path / "log", text))
    assert texts(good, "name") == ["tea, green"]


def test_byte_order_mark_crlf_and_gzip(tmp_path: pathlib.Path) -> None:
    text = ("\ufeff" + "\r\n".join(LINES) + "\r\n").encode()
    good, faults = parsed(write(tmp_path / "log.csv.gz", gzip.compress(text)))
    assert not faults
    assert texts(good, "country") == ["CH", "DE"]
    assert good.array(parsed_rows.LABEL_COLUMNS["click"]).tolist() == [1, 0]


def test_quotes_of_csv(tmp_path: pathlib.Path) -> None:
    text = (
        'country,age,sku,"name",clicked\n'
        'CH,30,a,"two\nlines, and ""quotes""",1\n'
        'CH,31,b,5" screen,0\n'
        "CH,32,c,plain,1\n"
        "CH,old,d,plain,1\n"
    )
    path = write(tmp_path / "log.csv", text)
    good, faults = parsed(path)
    assert texts(good, "name") == ['two\nlines, and "quotes"', '5" screen', "plain"]
    # The header is line 1, the first row lines 2 and 3.
    assert faults == {6: "age must be a finite number or empty, got 'old'"}
    opened = tabular.open_log(formats.Files((path,)), SCHEMA)
    (chunk,) = opened.chunks()
    assert opened.raw(chunk, [6]) == [b"CH,old,d,plain,1"]


def test_a_carriage_return_outside_quotes_is_the_reason(tmp_path: pathlib.Path) -> None:
    # The writer of Python 3.11, and so pandas, does not quote it.
    body = 'CH,1,a,"tea\rpot",1\nCH,2,b,tea\rpot,0\n'
    good, faults = parsed(write(tmp_path / "log.csv", f"{LINES[0]}\n{body}"))
    assert texts(good, "name") == ["tea\rpot"]
    assert faults == {3: "the line contains a carriage return; remove it"}


def test_a_bad_row_of_several_lines_says_how_many(tmp_path: pathlib.Path) -> None:
    # The quote of the first row is closed by that of the third, which begins with a comma.
    body = 'CH,1,a,"tea,1\nCH,2,b,pot,0\nCH,3,c,",cup",1\nCH,4,d,jug,0\n'
    good, faults = parsed(write(tmp_path / "log.csv", f"{LINES[0]}\n{body}"))
    assert texts(good, "name") == ["jug"]
    # The value, cup" and 1 after CH, 1 and a.
    assert faults == {
        2: "expected 5 columns, got 6 columns in a row of 3 lines: is a quote left open?"
    }


@pytest.mark.parametrize(
    "body",
    [
        # As Spark and MySQL escape a quote: the value goes on to the next row's first quote.
        'CH,1,a,"Monitor 24\\"",1\nCH,2,b,tea,0\nCH,3,c,"Monitor 24\\"",1\n',
        'CH,1,a,"15\\"",1\n' + "CH,2,b,tea,0\n" * 100 + 'CH,3,c,"Foo, bar",1\n',
    ],
)
def test_rows_inside_a_value_that_an_escaped_quote_left_open_are_not_lost(
    tmp_path: pathlib.Path, body: str
) -> None:
    path = write(tmp_path / "log.csv", f"{LINES[0]}\nCH,0,z,pot,0\n{body}CH,4,d,cup,0\n")
    with pytest.raises(
        ValueError, match=r"log\.csv, line 3: text follows a closing quote.*Double quotes"
    ):
        parsed(path)


def test_a_quote_in_a_tab_separated_log_is_text_unless_it_quotes(tmp_path: pathlib.Path) -> None:
    header = "country\tage\tsku\tname\tclicked\n"
    good, _ = parsed(write(tmp_path / "a.tsv", header + 'CH\t30\ta\t"M" is for\t1\n'))
    assert texts(good, "name") == ['"M" is for']
    good, _ = parsed(write(tmp_path / "b.tsv", header + 'CH\t30\ta\t"a\tb ""c"""\t1\n'))
    assert texts(good, "name") == ['a\tb "c"']


def test_column_names_of_any_kind(tmp_path: pathlib.Path) -> None:
    named = schema_lib.schema_from_json(
        {
            "name": "x",
            "fields": [
                {"name": "land", "kind": "categorical", "side": "query", "column": "Länder: alle"},
                {"name": "item", "kind": "categorical", "side": "ad", "column": "item id:token"},
            ],
            "ad_key": ["item id:token"],
            "click": "clicked?",
        }
    )
    text = "item id:token,Länder: alle,clicked?\n1,Österreich,true\n2,,FALSE\n"
    good, faults = parsed(write(tmp_path / "log.csv", text), named)
    assert not faults
    assert good.raw(named.fields[0], np.arange(2)).to_pylist() == ["Österreich", None]
    assert good.array(parsed_rows.LABEL_COLUMNS["click"]).tolist() == [1, 0]


def test_how_numbers_are_written(tmp_path: pathlib.Path) -> None:
    values = ["1e5", "NA", "-", " 7 ", "NaN", "", "-2.5", "+3", "1,5", "inf", "12x"]
    body = "".join(f'CH,"{value}",a,n,1\n' for value in values)
    good, faults = parsed(write(tmp_path / "log.csv", LINES[0] + "\n" + body))
    assert texts(good, "age") == [100000.0, None, None, 7.0, None, None, -2.5, 3.0]
    assert sorted(faults) == [10, 11, 12]
    assert "got '1,5'" in faults[10]


@pytest.mark.parametrize("bad", ["", "CH,zz,a,n,1,z\n", "CH\n"])
def test_whether_a_row_is_taken_does_not_depend_on_its_neighbors(
    tmp_path: pathlib.Path, bad: str
) -> None:
    # `note` is not read: neither its bytes nor its length matter.
    values = ["NAN", "-nan", " ", "   ", "5"]
    body = "".join(f"CH,{value},a,n,1,z\n" for value in values).encode()
    body += b"CH,6,a,n,1,\xe9t\xe9\n" + b'CH,7,a,n,1,"' + b"x" * 140_000 + b'"\n'
    text = f"{LINES[0]},note\n{bad}".encode() + body
    good, faults = parsed(write(tmp_path / "log.csv", text))
    assert texts(good, "age") == [None] * 4 + [5.0, 6.0, 7.0]
    assert len(faults) == (1 if bad else 0)


def test_a_numeric_column_of_nothing_but_nan(tmp_path: pathlib.Path) -> None:
    body = "CH,NaN,a,n,1\n" * 3
    good, faults = parsed(write(tmp_path / "log.csv", LINES[0] + "\n" + body))
    assert not faults
    assert texts(good, "age") == [None] * 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1700000000", "1700000001.5"], [1700000000.0, 1700000001.5]),
        (["1700000000123"], [1700000000123.0]),
        (["1970-01-02 00:00:00", "1970-01-02T00:00:01.5"], [86400.0, 86401.5]),
        # One o'clock in Berne is midnight in Greenwich.
        (["1970-01-02T01:00:00+01:00", "1970-01-02T00:00:00Z"], [86400.0, 86400.0]),
        (["1970-01-02", "86401", "1970-01-02 00:00:02"], [86400.0, 86401.0, 86402.0]),
    ],
)
def test_how_times_are_written(
    tmp_path: pathlib.Path, values: list[str], expected: list[float]
) -> None:
    timed = schema_lib.schema_from_json({**SCHEMA.to_json(), "time": "at"})
    body = "".join(f"CH,1,a,n,1,{value}\n" for value in values)
    good, faults = parsed(write(tmp_path / "log.csv", f"{LINES[0]},at\n{body}"), timed)
    assert not faults
    assert good.array(parsed_rows.TIME).tolist() == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "r,0,perhaps,0",
            "bought must be 0 or 1, got 'perhaps' "
            "(true, false, yes, no, t, f, y and n are read, too)",
        ),
        ("r,0,0,-1", "paid must be a number of at least 0, got -1"),
        ("r,0,0,inf", "paid must be a finite number or empty, got 'inf'"),
        ("r,0.5,0,0", "slot must be a whole number of at least 0, got 0.5"),
        ("r,,0,0", "slot must be a whole number of at least 0, got nan"),
        (",0,0,0", "request is empty"),
        ("NULL,0,0,0", "request must be known, got 'NULL'"),
    ],
)
def test_a_bad_label_position_or_request_rejects_its_row(
    tmp_path: pathlib.Path, line: str, reason: str
) -> None:
    schema = dataclasses.replace(
        SCHEMA, request_key="request", position="slot", engagement="bought", revenue="paid"
    )
    header = f"{LINES[0]},request,slot,bought,paid\n"
    rows = [f"CH,1,a,n,1,{rest}\n" for rest in ("r,0,0,0", line, "r,1,0,0")]
    good, faults = parsed(write(tmp_path / "log.csv", header + "".join(rows)), schema)
    assert (len(good), faults) == (2, {3: reason})


def test_a_column_that_is_a_number_and_a_category(tmp_path: pathlib.Path) -> None:
    fields = (
        schema_lib.Field("age", "numeric", "query"),
        schema_lib.Field("age_kind", "categorical", "query", column="age"),
        schema_lib.Field("sku", "numeric", "ad"),
    )
    both = schema_lib.Schema("both", fields, ("sku",), "clicked")
    assert set(tabular.column_types(both).values()) == {formats.STRINGS}
    good, _ = parsed(write(tmp_path / "log.csv", "age,sku,clicked\n07,12,1\n,13,0\n"), both)
    assert good.raw(fields[0], np.arange(2)).to_pylist() == [7.0, None]
    assert good.raw(fields[1], np.arange(2)).to_pylist() == ["07", None]
    assert good.raw(fields[2], np.arange(2)).to_pylist() == [12.0, 13.0]


def test_a_category_of_a_million_values(tmp_path: pathlib.Path) -> None:
    body = "".join(f"c{i},1,a,n,{i % 2}\n" for i in range(1_000_000))
    path = write(tmp_path / "log.csv", LINES[0] + "\n" + body)
    opened = tabular.open_log(formats.Files((path,)), SCHEMA)
    seen = 0
    for chunk in opened.chunks():
        good, faults = parsed_rows.normalize(SCHEMA, opened.parse(chunk), 0, True)
        assert not faults
        assert len(np.unique(good.strings["country"].fingerprints)) == len(good)
        assert good.raw(SCHEMA.fields[0], np.array([0])).to_pylist() == [f"c{seen}"]
        seen += len(good)
    assert seen == 1_000_000


def test_columns_from_tables_of_users_and_ads(tmp_path: pathlib.Path) -> None:
    good, faults = parsed(
        write(tmp_path / "log.csv", RATINGS),
        FILMS,
        users=write(tmp_path / "users.tsv", USERS),
        ads=write(tmp_path / "ads.csv", ADS),
    )
    assert not faults
    # User 3 and film z are in no table.
    assert texts(good, "age") == [30.0, None, None, 30.0]
    assert texts(good, "city") == ["Bern", "Bonn", None, "Bern"]
    assert texts(good, "year") == [1995.0, None, 1995.0, None]
    assert texts(good, "genres") == [["Drama", "War"], [], ["Drama", "War"], []]
    assert good.array(parsed_rows.LABEL_COLUMNS["click"]).tolist() == [1, 0, 1, 0]


def test_the_last_row_of_a_repeated_key_counts(tmp_path: pathlib.Path) -> None:
    good, _ = parsed(
        write(tmp_path / "log.csv", RATINGS),
        FILMS,
        users=write(tmp_path / "users.tsv", USERS + "1\t31\tBasel\n"),
        ads=write(tmp_path / "ads.csv", ADS),
    )
    assert texts(good, "city") == ["Basel", "Bonn", None, "Basel"]


def test_a_key_of_two_columns_is_joined_as_a_whole(tmp_path: pathlib.Path) -> None:
    fields = (
        schema_lib.Field("c", "categorical", "query"),
        schema_lib.Field("color", "categorical", "ad"),
    )
    pair = schema_lib.Schema("pair", fields, ("shop", "sku"), "click")
    text = "c,shop,sku,click\nCH,1,23,1\nCH,12,3,0\nCH,1,,1\n"
    ads = "sku,color,shop\n3,red,12\n23,blue,1\n,green,1\n"
    good, _ = parsed(write(tmp_path / "log.csv", text), pair, ads=write(tmp_path / "ads.csv", ads))
    assert good.raw(fields[1], np.arange(3)).to_pylist() == ["blue", "red", "green"]


def test_the_table_of_ads_is_read_with_what_the_log_alone_has_missing(
    tmp_path: pathlib.Path,
) -> None:
    path = write(tmp_path / "log.csv", "user,film,rating,age,city,genres\n1,x,5,1,B,War\n")
    ads = write(tmp_path / "ads.csv", "film,year\nx,1995\ny,\n")
    table = tabular.read_ads(formats.Files((path,), ads=ads), FILMS)
    assert table is not None
    assert table["film"].to_pylist() == ["x", "y"]
    assert table["year"].to_pylist() == [1995.0, None]
    assert table["genres"].null_count == 2
    assert tabular.read_ads(formats.Files((path,)), FILMS) is None


def test_files_may_order_their_columns_as_they_like(tmp_path: pathlib.Path) -> None:
    first = write(tmp_path / "a.csv", "\n".join(LINES) + "\n")
    second = write(tmp_path / "b.tsv", "clicked\tname\tsku\tage\tcountry\n1\tcup\tc\t5\tFR\n")
    opened = tabular.open_log(formats.Files((first, second)), SCHEMA)
    values = [opened.parse(c).table["country"].to_pylist() for c in opened.chunks()]
    assert values == [["CH", "DE"], ["FR"]]


def test_only_a_test_file_may_lack_labels(tmp_path: pathlib.Path) -> None:
    train = write(tmp_path / "a.csv", "\n".join(LINES) + "\n")
    other = write(tmp_path / "b.csv", "country,age,sku,name\nFR,1,a,tea\n")
    opened = tabular.open_log(formats.Files((train,), test=(other,)), SCHEMA)
    chunks = list(opened.chunks())
    assert [chunk.part for chunk in chunks] == ["train", "test"]
    good, _ = parsed_rows.normalize(SCHEMA, opened.parse(chunks[1]), 1, False)
    assert good.array(parsed_rows.LABEL_COLUMNS["click"]).tolist() == [MISSING_LABEL]
    said = r"b\.csv lacks the columns \['clicked'\], which .*a\.csv has\. Add them, or .*--ads_path"
    with pytest.raises(ValueError, match=said):
        tabular.open_log(formats.Files((train, other)), SCHEMA)
    with pytest.raises(ValueError, match=said):
        tabular.open_log(formats.Files((other, train)), SCHEMA)


def test_a_missing_column_is_named_with_a_suggestion(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "log.csv", RATINGS)
    users = write(tmp_path / "users.csv", "user,age,City \n1,30,Bern\n")
    ads = write(tmp_path / "ads.csv", "film,years,genres\nx,1995,War\n")
    with pytest.raises(ValueError, match=r"'year'; it is not in .*log.*Did you mean 'years'\?"):
        parsed(
            path, schema_lib.schema_from_json(_with_column("city", "City")), users=users, ads=ads
        )
    rated = schema_lib.schema_from_json(_with_column("city", "City"))
    unrated = write(tmp_path / "unrated.csv", "user,film,ratings\n1,x,5\n")
    with pytest.raises(ValueError, match=r"'rating', which must be in the log .*'ratings'\?"):
        parsed(unrated, rated, users=users, ads=write(tmp_path / "b.csv", ADS))


def test_columns_in_the_names_of_folders_are_read(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "dt=2024-05-01" / "country=C%2FH" / "age=30" / "clicked=1" / "name=no"
    folder.mkdir(parents=True)
    rows = pa.table({"sku": ["a", "b"], "name": ["tea", "pot"]})
    parquet.write_table(rows, folder / "part-0.parquet")
    write(folder / "part-0.csv", "sku,name\na,tea\nb,pot\n")
    write(folder / "part-0.json", '{"sku": "a", "name": "tea"}\n{"sku": "b", "name": "pot"}\n')
    daily = dataclasses.replace(SCHEMA, time="dt")
    for name in ("part-0.parquet", "part-0.csv", "part-0.json"):
        good, faults = parsed(folder / name, daily)
        assert not faults
        assert texts(good, "country") == ["C/H", "C/H"]
        assert texts(good, "age") == [30.0, 30.0]
        # A column of the file comes first.
        assert texts(good, "name") == ["tea", "pot"]
        assert good.array(parsed_rows.LABEL_COLUMNS["click"]).tolist() == [1, 1]
        assert good.array(parsed_rows.TIME).tolist() == [1_714_521_600.0] * 2


def test_files_of_several_folders_are_one_log(tmp_path: pathlib.Path) -> None:
    for value in ("CH", "__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / f"country={value}").mkdir()
        write(tmp_path / f"country={value}" / "log.csv", "age,sku,name,clicked\n30,a,tea,1\n")
    files = formats.Files(formats.expand_paths(f"{tmp_path}/*/*.csv"))
    opened = tabular.open_log(files, SCHEMA)
    countries = [opened.parse(chunk).table["country"].to_pylist() for chunk in opened.chunks()]
    assert countries == [["CH"], [None]]
    write(tmp_path / "log.csv", "age,sku,name,clicked\n30,a,tea,1\n")
    files = formats.Files((*files.log, tmp_path / "log.csv"))
    with pytest.raises(ValueError, match=r"log.csv lacks the columns \['country'\]"):
        tabular.open_log(files, SCHEMA)


def test_files_of_a_pattern_may_have_digits_that_are_not_numbers(tmp_path: pathlib.Path) -> None:
    names = ["m1²2.csv", "m1²10.csv", "m١٠.csv"]  # The last number is an Arabic 10.
    for name in names:
        write(tmp_path / name, "age\n1\n")
    found = formats.expand_paths(f"{tmp_path}/*.csv")
    assert [path.name for path in found] == names


def test_a_directory_is_refused_with_a_pattern_of_its_files(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "log" / "dt=2024-05-01"
    folder.mkdir(parents=True)
    (tmp_path / "log" / "_SUCCESS").touch()
    path = write(folder / "part-0.csv.gz", gzip.compress("\n".join(LINES).encode()))
    pattern = f"{tmp_path}/log/*/*.csv.gz"
    expected = f"is a directory; expected a file. Name the files of a log as '{pattern}'."
    with pytest.raises(ValueError, match=re.escape(expected)):
        parsed(tmp_path / "log")
    assert formats.expand_paths(pattern) == (path,)


def _with_column(name: str, column: str) -> dict[str, object]:
    value = FILMS.to_json()
    fields = [dict(f, column=column) if f["name"] == name else f for f in value["fields"]]
    return {**value, "fields": fields}


def test_a_table_without_the_key_is_refused(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "log.csv", RATINGS)
    table = write(tmp_path / "t.csv", "id,age,city,year,genres\n1,2,3,4,5\n")
    with pytest.raises(ValueError, match=r"joined by the schema's user_key \['user'\], but lacks"):
        parsed(path, FILMS, users=table)
    with pytest.raises(ValueError, match=r"joined by the schema's ad_key \['film'\], but lacks"):
        parsed(path, FILMS, ads=table)
    without = schema_lib.schema_from_json({**FILMS.to_json(), "user_key": None})
    with pytest.raises(ValueError, match="joined by the user_key; name one in the schema"):
        parsed(path, without, users=table)


def test_a_table_that_shares_no_key_with_the_log_is_refused(tmp_path: pathlib.Path) -> None:
    text = "user,film,rating\n" + "".join(f"{i},x,5\n" for i in range(10))
    users = "user,age,city\n" + "".join(f"{i}.0,5,B\n" for i in range(10))
    with pytest.raises(ValueError, match=r"none of the log's values of \['user'\].*'0'"):
        parsed(
            write(tmp_path / "log.csv", text),
            FILMS,
            users=write(tmp_path / "users.csv", users),
            ads=write(tmp_path / "ads.csv", ADS),
        )


def test_a_bad_row_of_a_table_is_named(tmp_path: pathlib.Path) -> None:
    ads = write(tmp_path / "ads.csv", ADS + "v,War,MCM\n")
    users = write(tmp_path / "users.csv", USERS)
    with pytest.raises(ValueError, match=r"ads\.csv, line 5: year must be a finite number"):
        parsed(write(tmp_path / "log.csv", RATINGS), FILMS, users=users, ads=ads)


def test_rows_of_one_and_none(tmp_path: pathlib.Path) -> None:
    good, _ = parsed(write(tmp_path / "log.csv", LINES[0] + "\n" + LINES[1]))
    assert texts(good, "sku") == ["a"]
    empty = write(tmp_path / "none.csv", LINES[0])
    assert list(tabular.open_log(formats.Files((empty,)), SCHEMA).chunks()) == []
    with pytest.raises(ValueError, match="has no rows; expected at least one"):
        convert.convert(convert.Source(empty, SCHEMA, "tabular"), tmp_path / "out")


def test_a_header_over_two_lines(tmp_path: pathlib.Path) -> None:
    text = 'country,age,sku,name,clicked,"a,\nb"\nCH,1,a,tea,1,x\nCH,old,a,tea,1,x\n'
    good, faults = parsed(write(tmp_path / "log.csv", text))
    assert texts(good, "name") == ["tea"]
    assert list(faults) == [4]


def test_the_last_row_needs_no_line_end_and_does_not_form_a_chunk(tmp_path: pathlib.Path) -> None:
    text = LINES[0] + "\n" + "CH,1,a,tea,1\n" * 300_000 + "DE,2,b,pot,0"
    opened = tabular.open_log(formats.Files((write(tmp_path / "log.csv", text),)), SCHEMA)
    chunks = list(opened.chunks())
    assert sum(chunk.num_rows for chunk in chunks) == 300_001
    assert chunks[-1].num_rows > 1000
    assert opened.parse(chunks[-1]).table["country"][-1].as_py() == "DE"


def test_an_unclosed_quote_is_named_with_its_line(tmp_path: pathlib.Path) -> None:
    text = LINES[0] + "\nCH,1,a,tea,1\n" + 'CH,1,a,"tea,1\n' + "CH,1,a,tea,1\n" * 30
    with pytest.raises(ValueError, match=r"log\.csv, line 3: the row has an unclosed quote"):
        parsed(write(tmp_path / "log.csv", text))


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        (b"PK\x03\x04", "is a zip or Excel file; unzip it"),
        (b"\x28\xb5\x2f\xfd", "is compressed by zstd; decompress it, or use gzip"),
        (bz2.compress(b"a"), "is compressed by bzip2"),
        (lzma.compress(b"a"), "is compressed by xz"),
        (b"SQLite format 3\0", "is an SQLite database; export the table as Parquet or CSV"),
        (b"ARROW1\0\0", "is an Arrow or Feather file; export"),
        (b"ORC\n\x07\x12", "is an ORC file; export"),
        (b"Obj\x01", "is an Avro file; export"),
        ("user,ad".encode("utf-16"), "is UTF-16; convert it to UTF-8, with iconv -f utf-16"),
    ],
)
def test_a_binary_file_is_refused(tmp_path: pathlib.Path, begin: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parsed(write(tmp_path / "log.x", begin + b" and so on"))


def test_a_header_that_begins_like_an_orc_file_is_read(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "log.txt", "ORCID\x01ad\x01click\nx\x011\x010\n")
    assert formats.column_names(path, ()) == ("ORCID", "ad", "click")


@pytest.mark.parametrize("count", [3, 15_000])
def test_a_header_with_an_unclosed_quote_is_refused(tmp_path: pathlib.Path, count: int) -> None:
    path = write(tmp_path / "log.csv", '"' + LINES[0] + "\n" + "CH,30,a,tea,1\n" * count)
    with pytest.raises(ValueError, match=r"log\.csv: the header has an unclosed quote"):
        parsed(path)


def test_a_table_has_no_convention() -> None:
    assert tabular.schema() is None


def test_odd_values_convert(tmp_path: pathlib.Path) -> None:
    ages = ["1e5", "NA", "-", " 7 ", "", "12x"]
    timed = schema_lib.schema_from_json({**SCHEMA.to_json(), "time": "at"})
    body = "".join(
        f'C{i},"{ages[i % 6]}",s{i % 4},"5"" pot\n{i}",{["true", "false"][i % 2]},'
        f"2024-01-02T{i % 24:02d}:00:00+01:00\n"
        for i in range(60)
    )
    path = write(tmp_path / "log.csv", f"{LINES[0]},at\n{body}")
    source = convert.Source(path, timed, "tabular")
    convert.convert(source, tmp_path / "out", max_rejected_fraction=0.2)
    description = reader.DataSet(tmp_path / "out").description
    # One of six ages is not a number: 10 of 60 rows.
    assert description.source.lines == 60
    assert description.source.rejected == 10
    rejected = (tmp_path / "out" / "rejected.tsv").read_text().splitlines()
    assert len(rejected) == 10
    # Row 5, after the header and five rows of two lines each.
    assert "\t12\tage must be a finite number or empty, got '12x'\tC5,\"12x\"," in rejected[0]
    clicks = sum(split.label_sums["click"] for split in description.splits.values())
    # The 30 even rows are clicked, and none of them is rejected.
    assert clicks == 30


def test_the_example_of_movielens_converts(tmp_path: pathlib.Path) -> None:
    schema = schema_lib.load_schema(EXAMPLES / "movielens" / "schema.json")
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(
        f"{i % 7}\t{i % 5}\t{i % 5 + 1}\t{881250949 + i}\n" for i in range(100)
    )
    item = (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "0\tToy Story\t1995\tAnimation Children's Comedy\n"
        "9\tGoldenEye\tunkonwn\tAction\n"
    )
    user = (
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n0\t24\tM\tx\t1\n"
    )
    source = convert.Source(
        write(tmp_path / "a.inter", inter),
        schema,
        "tabular",
        ads_path=write(tmp_path / "a.item", item),
        users_path=write(tmp_path / "a.user", user),
    )
    convert.convert(source, tmp_path / "out")
    splits = reader.DataSet(tmp_path / "out").description.splits
    assert {name: split.rows for name, split in splits.items()} == {
        "train": 80,
        "validation": 10,
        "test": 10,
    }
    # Ratings rise from 1 to 5 and again: two of five are at least 4.
    assert splits["train"].label_sums == {"click": 32.0}
    with pa.memory_map(str(tmp_path / "out" / "catalog" / "ads.arrow")) as file:
        ads = pa.ipc.open_file(file).read_all().to_pylist()
    # Five films in the log, and one that is in the table alone.
    assert [ad["__ad_id__"] for ad in ads] == ["0", "1", "2", "3", "4", "9"]
    assert ads[0]["genres"] == ["Animation", "Children's", "Comedy"]
    assert ads[5]["release_year"] == "unkonwn"
    assert ads[5]["__impressions__"] == 0
    requests = json.loads((tmp_path / "out" / "sample_requests.json").read_text())
    # The last requests, from row 90 on, are held out: user 90 % 7 = 6, who is in no table.
    assert {"0", "6"} <= {request["user_id"] for request in requests}
    assert {r["age"] for r in requests if r["user_id"] == "0"} == {24}
    assert {r["age"] for r in requests if r["user_id"] == "6"} == {None}


@pytest.mark.parametrize("bad", ["x", "1e300"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_numbers_of_the_table_of_ads_are_checked(
    tmp_path: pathlib.Path, suffix: str, bad: str
) -> None:
    path = tmp_path / f"ads.{suffix}"

    def read(values: list[str]) -> list[float | None]:
        table = pa.table({"film": ["x", "y", "z"], "genres": ["War"] * 3, "year": values})
        if suffix == "csv":
            csv.write_csv(table, path)
        else:
            parquet.write_table(table, path)
        more = tabular.read_ads(formats.Files((), ads=path), FILMS)
        assert more is not None
        return parsed_rows.raw_column(FILMS.fields[2], more["year"]).to_pylist()

    assert read(["1995", "", " "]) == [1995.0, None, None]
    where = "line 3" if suffix == "csv" else "row 2"
    with pytest.raises(ValueError, match=rf"ads\.{suffix}, {where}: year must be"):
        read(["1995", bad, "7"])


@pytest.mark.parametrize("null", ["NULL", "None", "nan", "\\N", " "])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_key_of_null_is_a_missing_one(tmp_path: pathlib.Path, suffix: str, null: str) -> None:
    columns = {"user": ["u", null, null], "film": ["x", "x", null], "rating": ["5", "1", "5"]}
    table = pa.table({**columns, "age": ["7"] * 3, "year": ["7"] * 3})
    path = tmp_path / f"log.{suffix}"
    if suffix == "csv":
        csv.write_csv(table, path)
    else:
        parquet.write_table(table, path)
    ids = tuple(
        schema_lib.Field(n, "categorical", s) for n, s in (("user", "query"), ("film", "ad"))
    )
    schema = dataclasses.replace(FILMS, fields=ids)
    good, faults = parsed(path, schema)
    reason = f"film must be known, got {null!r}" if null.strip() else "film is empty"
    assert list(faults.values()) == [reason]
    assert good.raw(ids[0], np.arange(2)).to_pylist() == ["u", None]
    # Nobody known, as if the key were empty.
    none = write(tmp_path / "none.csv", "user,film,rating\nu,x,5\n,x,1\n")
    ordered, _ = parsed(none, schema)
    if suffix == "csv":
        assert good.array(parsed_rows.USER).tolist() == ordered.array(parsed_rows.USER).tolist()
    more = catalog.collect(
        schema,
        catalog.merge([catalog.count_chunk(good, np.ones(2, bool), 0)]),
        np.array([2]),
        lambda chunk: good,
        pa.table({"film": ["new", null]}),
    )
    assert more.table[reader.AD_ID].to_pylist() == ["x", "new"]


def test_a_request_without_a_user_has_a_user_of_its_own(tmp_path: pathlib.Path) -> None:
    rated = schema_lib.schema_from_json(
        {
            "name": "visits",
            "fields": [
                {"name": "page", "kind": "categorical", "side": "query"},
                {"name": "ad", "kind": "categorical", "side": "ad"},
            ],
            "ad_key": ["ad"],
            "click": "clicked",
            "user_key": "user",
            "request_key": "visit",
        }
    )
    lines = ("1,a,x,1", ",b,x,0", ",b,y,1", ",c,y,0", "1,d,x,0")
    text = "user,visit,ad,clicked,page\n" + "".join(f"{line},p\n" for line in lines)
    good, faults = parsed(write(tmp_path / "log.csv", text), rated)
    assert not faults
    users = good.array(parsed_rows.USER).tolist()
    # Rows 2 and 3 are one visit; visit c is another; 1 is known.
    assert users[1] == users[2]
    assert users[0] == users[4]
    assert len(set(users)) == 3

    by_row = schema_lib.schema_from_json({**rated.to_json(), "request_key": None})
    good, _ = parsed(write(tmp_path / "log.csv", text), by_row)
    assert len(set(good.array(parsed_rows.USER).tolist())) == 4
