"""Frames and Arrow tables become the data set of the same rows in Parquet, or are refused."""

import dataclasses
import datetime
import json
import pathlib

import disks
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import tfrecords
from tfrecords import convert, frames
from tfrecords import schema as schema_lib

SCHEMA = schema_lib.Schema(
    "shop",
    (
        schema_lib.Field("country", "categorical", "query"),
        schema_lib.Field("age", "numeric", "query"),
        schema_lib.Field("sku", "categorical", "ad"),
        schema_lib.Field("brand", "categorical", "ad"),
        schema_lib.Field("tags", "categorical_list", "ad"),
    ),
    ad_key=("sku",),
    click="clicked",
    time="at",
)
ROWS = 120


def log(**columns) -> pd.DataFrame:
    """Returns 120 impressions of 12 ads; the last two tenths are held out by time."""
    rows = np.arange(ROWS)
    return pd.DataFrame(
        {
            "country": np.array(["CH", "DE", "FR"])[rows % 3],
            "age": 20.0 + rows % 7,
            "sku": rows % 12,
            "brand": np.array(["a", "b"])[rows % 2],
            "tags": [["new", f"t{row % 12}"] for row in rows],
            "clicked": (rows % 4 == 0).astype(int),
            "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(rows, "h"),
            **columns,
        }
    )


def from_parquet(directory: pathlib.Path, schema=SCHEMA, ads=None, **tables):
    """Converts frames that pandas itself has written as Parquet; returns the directory."""
    directory.mkdir()
    paths = {}
    for name, frame in {"ads": ads, **tables}.items():
        if frame is not None:
            paths[name] = directory / f"{name}.parquet"
            frame.to_parquet(paths[name])
    source = convert.Source(paths["log"], schema, "tabular", paths.get("ads"), paths.get("users"))
    convert.convert(source, directory / "data")
    return directory / "data"


def files_of(directory):
    """Returns the bytes of each file; of dataset.json, the content without the paths of the log."""
    found = {str(p.relative_to(directory)): p for p in directory.rglob("*") if p.is_file()}
    described = json.loads(found.pop("dataset.json").read_text())
    del described["source"]["path"], described["source"]["paths"]
    return {name: path.read_bytes() for name, path in found.items()}, described


def converted(frame, directory, schema=SCHEMA, **arguments):
    return tfrecords.from_pandas(frame, schema, directory, progress=False, **arguments)


def test_a_frame_gives_the_data_set_of_the_same_rows_in_parquet(tmp_path):
    ads = log()[["sku", "brand", "tags"]].drop_duplicates("sku")
    users = pd.DataFrame({"country": ["CH", "DE"], "age": [30, 40]})
    schema = schema_lib.schema_from_json({**SCHEMA.to_json(), "user_key": "country"})
    frame = log().drop(columns=["brand", "tags", "age"])
    expected = from_parquet(tmp_path / "parquet", schema, ads=ads, users=users, log=frame)
    found = converted(frame, tmp_path / "frame", schema, ads=ads, users=users)
    assert files_of(found.directory) == files_of(expected)
    # The last two tenths of 120 hours are held out by time.
    assert [found.num_rows(split) for split in ("train", "validation", "test")] == [96, 12, 12]
    assert len(found.catalog()) == 12


EQUAL = {
    "an index without a name": lambda f: f.sample(frac=1, random_state=1).sort_values("at"),
    "a key as the index": lambda f: f.set_index("sku"),
    "keys as levels of the index": lambda f: f.set_index(["sku", "country"]),
    "a key as the index and a column": lambda f: f.set_index("sku", drop=False),
    "categories": lambda f: f.astype({"country": "category", "sku": "category"}),
    "nullable types": lambda f: f.astype({"sku": "Int64", "age": "Float64", "clicked": "boolean"}),
    "objects": lambda f: f.astype({"sku": object, "age": object, "country": object}),
    "whole numbers as floats": lambda f: f.astype({"sku": float, "clicked": float}),
    "a time zone": lambda f: f.assign(at=f["at"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")),
    "datetimes of Python": lambda f: f.assign(
        at=pd.Series(list(f["at"].dt.to_pydatetime()), dtype=object)
    ),
    "tuples and arrays": lambda f: f.assign(
        tags=[tuple(t) if i % 2 else np.array(t, object) for i, t in enumerate(f["tags"])]
    ),
    "columns of Arrow": lambda f: f.convert_dtypes(dtype_backend="pyarrow"),
    "columns that the schema does not read": lambda f: f.assign(
        mixed=[1, "b"] * (ROWS // 2), period=pd.period_range("2026", periods=ROWS, freq="D")
    ),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return from_parquet(tmp_path_factory.mktemp("parquet") / "p", log=log())


@pytest.mark.parametrize("change", EQUAL.values(), ids=EQUAL)
def test_awkward_frames_of_the_same_values_give_the_same_bytes(change, expected, tmp_path):
    assert files_of(converted(change(log()), tmp_path / "data").directory) == files_of(expected)


def test_missing_values_of_every_kind_are_missing(tmp_path):
    ages = pd.Series([None, np.nan, pd.NA, 21, 22.5] * (ROWS // 5), dtype=object)
    countries = pd.Series([None, np.nan, pd.NA, pd.NaT, "CH"] * (ROWS // 5), dtype=object)
    data_set = converted(log(age=ages, country=countries), tmp_path / "data")
    samples = data_set.sample_requests()
    # Requests are the single rows, and rows 96 and on are held out. One in five has a
    # country and two have an age.
    assert {sample["country"] for sample in samples} == {None, "CH"}
    assert {sample["age"] for sample in samples} == {None, 21.0, 22.5}


def test_keys_and_categories_have_the_texts_of_the_same_frame_in_csv(tmp_path):
    rows = np.arange(ROWS)
    days = [datetime.date(2026, 1, 1 + row % 5) for row in rows]
    frame = log(
        country=np.array([0.1, 1.1, 2.0], np.float32)[rows % 3],
        sku=pd.Timestamp("2026-01-01 05:00") + pd.to_timedelta(rows % 12, "h"),
        brand=days,
    ).drop(columns=["tags", "age"])
    fields = [field for field in SCHEMA.to_json()["fields"] if field["name"] not in ("tags", "age")]
    age = {"name": "age", "kind": "categorical", "side": "query", "min_count": 1}
    schema = {**SCHEMA.to_json(), "fields": [*fields, age], "user_key": "brand"}
    users = pd.DataFrame({"brand": days[:5], "age": np.array([1.1, 2.2, 3, 4, 5], np.float32)})
    found = converted(frame, tmp_path / "frame", schema, users=users)
    # Pandas writes a whole number of floats as 2.0, which is another text.
    frame.assign(country=frame["country"].map("{:g}".format)).to_csv(tmp_path / "log.csv")
    users.assign(age=users["age"].map("{:g}".format)).to_csv(tmp_path / "users.csv")
    source = convert.Source(
        tmp_path / "log.csv",
        schema_lib.schema_from_json(schema),
        "tabular",
        users_path=tmp_path / "users.csv",
    )
    convert.convert(source, tmp_path / "data")
    assert files_of(found.directory)[0] == files_of(tmp_path / "data")[0]
    sample = found.sample_requests()[0]
    assert sample["age"] in {"1.1", "2.2", "3", "4", "5"}
    assert found.catalog().ad_ids[0].as_py().startswith("2026-01-01 ")
    assert {len(ad) for ad in found.catalog().ad_ids.to_pylist()} == {len("2026-01-01 05:00:00")}


class Stream:
    """A table of a library that speaks Arrow, in batches of 50 rows."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.to_reader(50).__arrow_c_stream__(requested_schema)


def test_empty_arrays_are_empty_lists(tmp_path):
    data_sets = [
        converted(log(tags=[make(tags) for tags in [["new"], []] * (ROWS // 2)]), tmp_path / name)
        for name, make in (("lists", list), ("arrays", np.array))  # np.array([]) holds floats.
    ]
    assert files_of(data_sets[0].directory) == files_of(data_sets[1].directory)


@pytest.mark.parametrize("wrap", [lambda table: table, Stream, lambda table: table.to_reader(50)])
def test_arrow_tables_and_streams_give_the_same_bytes(wrap, expected, tmp_path):
    table = wrap(pa.Table.from_pandas(log()))
    found = tfrecords.from_arrow(table, SCHEMA, tmp_path / "data", progress=False)
    assert files_of(found.directory) == files_of(expected)


def test_batches_of_a_stream_are_written_once_in_runs_of_many_rows():
    table = pa.table({"row": np.arange(600_000)})
    runs = list(frames._in_runs(iter(table.to_batches(100_000))))
    # A run ends with the first batch at 262,144 rows or more.
    assert [run.num_rows for run in runs] == [300_000, 300_000]
    assert pa.concat_tables(runs).equals(table)


def test_views_of_strings_and_dictionaries_that_change_are_read(expected, tmp_path):
    table = pa.Table.from_pandas(log())
    names = table.schema.names
    views = table.set_column(
        names.index("country"), "country", table["country"].cast(pa.string_view())
    )
    halves = [
        half.set_column(names.index("brand"), "brand", half["brand"].dictionary_encode())
        for half in (views.slice(0, 1), views.slice(1))
    ]
    table = pa.concat_tables(halves)
    found = tfrecords.from_arrow(table, SCHEMA, tmp_path / "data", progress=False)
    assert files_of(found.directory) == files_of(expected)


def test_categories_of_polars_are_read(expected, tmp_path):
    table = pa.Table.from_pandas(log())
    views = pa.dictionary(pa.uint32(), pa.string_view())  # polars.Categorical, polars.Enum
    for name, type_ in (("country", views), ("tags", pa.large_list(views))):
        column = pa.chunked_array([table[name].combine_chunks().cast(type_)])
        table = table.set_column(table.schema.names.index(name), name, column)
    found = tfrecords.from_arrow(table, SCHEMA, tmp_path / "data", progress=False)
    assert files_of(found.directory) == files_of(expected)


def test_objects_of_polars_are_read(expected, tmp_path):
    table = pa.Table.from_pandas(log())
    text = table["country"].combine_chunks().cast(pa.string_view())  # Polars has no other texts.
    objects = pa.StructArray.from_arrays([text, text.cast(pa.binary_view())], ["country", "raw"])
    lists = pa.ListArray.from_arrays(range(ROWS + 1), objects)
    table = table.append_column("user", objects).append_column("spare", lists)
    found = tfrecords.from_arrow(table, SCHEMA, tmp_path / "spare", progress=False)
    assert files_of(found.directory) == files_of(expected)
    country = dataclasses.replace(SCHEMA.fields[0], column="user.country")
    schema = dataclasses.replace(SCHEMA, fields=(country, *SCHEMA.fields[1:]))
    nested = tfrecords.from_arrow(table, schema, tmp_path / "nested", progress=False)
    name = "train-00000.tfrecord"
    assert (nested.directory / name).read_bytes() == (found.directory / name).read_bytes()


def test_a_schema_is_proposed_and_its_decisions_are_printed(tmp_path, capsys):
    frame = log(odd=[1, "b"] * (ROWS // 2))
    frame["ordered"] = pd.Series(np.arange(ROWS) % 5 == 0).where(frame["clicked"] == 1)
    data_set = tfrecords.from_pandas(frame, None, tmp_path / "data")
    said = capsys.readouterr().out
    # Warnings come first, as in a proposal of the command line.
    assert said.splitlines()[1].startswith("  ! Only clicked rows have 'ordered'.")
    assert data_set.schema.ad_key == ("sku",)
    assert (data_set.schema.click, data_set.schema.time) == ("clicked", "at")
    assert said.startswith("No schema was given. Proposed from the rows of the log:\n")
    assert "'clicked' is the click (25.00% of the rows)." in said
    assert "Left out: log: the column 'odd' holds int (1 in iloc[0]) and str ('b' in iloc" in said
    schema_lib.save_schema(data_set.schema, tmp_path / "schema.json")
    again = converted(frame, tmp_path / "again", tmp_path / "schema.json")
    assert files_of(again.directory) == files_of(data_set.directory)
    assert capsys.readouterr().out == ""


def test_a_note_says_that_times_in_an_unnamed_index_are_left_out(tmp_path, capsys):
    frame = log().set_index("at")
    for name in ("at", None):
        found = tfrecords.from_pandas(frame.rename_axis(name), None, tmp_path / f"{name}")
        assert found.schema.time == name
        said = capsys.readouterr().out
        assert ("Left out: log: the index has times, but no name" in said) == (name is None)


@pytest.mark.parametrize("is_text", [True, False])
def test_a_note_says_that_texts_in_an_unnamed_index_are_left_out(is_text, tmp_path, capsys):
    frame = log()
    frame.index = [f"u{row % 7}" if is_text else row + 3 for row in range(len(frame))]
    tfrecords.from_pandas(frame, None, tmp_path / "data")
    said = capsys.readouterr().out
    assert (
        "the index has values, but no name. To use them, name it, for example" in said
    ) == is_text


def test_the_splits_can_be_frames_and_options_of_the_conversion_are_passed_on(tmp_path):
    parts = log().iloc[:80], log().iloc[80:100], log().iloc[100:]
    found = converted(parts[0], tmp_path / "a", validation=parts[1], test=parts[2])
    assert [found.num_rows(split) for split in ("train", "validation", "test")] == [80, 20, 20]
    found = converted(log(), tmp_path / "b", split="order", test_fraction=0.25)
    assert found.num_rows("test") == 30


def test_an_unknown_option_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(
        TypeError, match=r"'test_fracton'; expected .* Did you mean 'test_fraction'"
    ):
        converted(log(), tmp_path / "data", test_fracton=0.2)
    with pytest.raises(TypeError, match=r"no argument 'source'; expected one of ads, users, "):
        converted(log(), tmp_path / "data", source="log.csv")
    assert list(tmp_path.iterdir()) == []


def test_the_rows_that_were_converted_stay_next_to_the_data_set(tmp_path):
    converted(log(), tmp_path / "data")
    data_set = converted(log().iloc[:100], tmp_path / "data", ads=log())
    (path,) = data_set.description.source.paths[:1]
    assert path == str(tmp_path / "data.rows" / "log.parquet")
    assert len(pd.read_parquet(path)) == 100
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "data.rows"]


WRONG = {
    "several types": (
        lambda f: f.assign(country=["CH", 7] * (ROWS // 2)),
        r"log: the column 'country' holds str \('CH' in iloc\[0\]\) and int \(7 in iloc\[1\]\); "
        r"expected values of one type. Convert it, for example by .astype\(\"string\"\)",
    ),
    "arrays and texts": (
        lambda f: f.assign(tags=[np.array(["a", "b"]), "c"] * (ROWS // 2)),
        r"the column 'tags' holds ndarray \(.* in iloc\[0\]\) and str \('c' in iloc\[1\]\)",
    ),
    "objects": (
        lambda f: f.assign(country=[pathlib.PurePosixPath("a")] * ROWS),
        r"the column 'country' holds PurePosixPath \(.* in iloc\[0\]\); expected strings, numbers",
    ),
    "lists of several types": (
        lambda f: f.assign(tags=[["a", 1]] * ROWS),
        r"the column 'tags' holds list .*; expected .* lists of values of one type",
    ),
    "complex numbers": (
        lambda f: f.assign(age=1j),
        "the column 'age' holds values of the dtype complex128; expected strings, numbers",
    ),
    "lists of a field without lists": (
        lambda f: f.assign(country=f["tags"]),
        r"log.parquet: the column 'country' holds lists .*kind 'categorical_list'",
    ),
    "durations": (
        lambda f: f.assign(age=pd.to_timedelta(1, "h")),
        r"log.parquet: the column 'age' has the unsupported type duration",
    ),
    "categories of intervals": (
        lambda f: f.assign(country=pd.cut(f["age"], 3)),
        "the column 'country' has the Arrow type dictionary<.* Convert it to strings or numbers",
    ),
    "periods": (
        lambda f: f.assign(country=pd.period_range("2026", periods=ROWS, freq="D")),
        r"log: the column 'country' has the Arrow type extension<pandas\.period.*Convert it to str",
    ),
    "a column that is missing": (
        lambda f: f.rename(columns={"clicked": "click"}),
        r"reads the column 'clicked'.*log.parquet with .*Did you mean 'click'",
    ),
    "two columns of one name": (
        lambda f: pd.concat([f, f[["age"]]], axis=1),
        "log: several columns are named 'age'; rename all but one",
    ),
    "levels of names": (
        lambda f: f.set_axis(pd.MultiIndex.from_product([["log"], f.columns]), axis=1),
        r"log: expected strings .*columns = \['_'.join\(map\(str, label\)\) for label in frame\]",
    ),
    "numbers as names": (
        lambda f: f.rename(columns={"age": 3}),
        "log: expected strings as the names of columns, got 3. Rename it",
    ),
    "no rows": (lambda f: f.iloc[:0], "log: the table has no rows; expected at least one"),
    "a label that is no truth": (
        lambda f: f.assign(clicked=2),
        r"log.parquet: 120 of 120 lines are rejected; expected valid lines",
    ),
    "a column": (
        lambda f: f["country"],
        "log: expected a pandas.DataFrame or a table .*, got Series. Convert it to a frame",
    ),
    "the result of a method with inplace=True": (
        lambda f: f.drop(columns="age", inplace=True),
        "log: expected a pandas.DataFrame or a table .*, got NoneType",
    ),
    "a dictionary": (
        lambda f: f.to_dict("list"),
        r"log: expected a pandas.DataFrame or a table that exports an Arrow stream "
        r"\(__arrow_c_stream__\), got dict",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_frame_is_refused_with_column_expectation_and_value(change, message, tmp_path):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        converted(change(log()), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_refused_frame_leaves_the_rows_of_the_last_data_set(tmp_path):
    data_set = converted(log(), tmp_path / "data")
    with pytest.raises(ValueError, match="ads: the table has no rows"):
        converted(log(), tmp_path / "data", ads=log().iloc[:0])
    assert len(pd.read_parquet(data_set.description.source.path)) == ROWS


def test_a_full_disk_leaves_the_last_data_set_and_its_rows(tmp_path):
    data_set = converted(log(), tmp_path / "data")
    before = files_of(data_set.directory)
    rows = (tmp_path / "data.rows" / "log.parquet").read_bytes()
    message = r"The disk of .*/data\.rows is full .*Free some space"
    with disks.full(1_000), pytest.raises(OSError, match=message):
        converted(log(), tmp_path / "data")
    assert files_of(data_set.directory) == before
    assert (tmp_path / "data.rows" / "log.parquet").read_bytes() == rows
    assert {path.name for path in tmp_path.iterdir()} == {"data", "data.rows"}


def test_a_failed_conversion_leaves_the_rows_of_the_last_data_set(tmp_path):
    data_set = converted(log(), tmp_path / "data")
    with pytest.raises(ValueError, match="rejected"):
        converted(log(clicked="maybe"), tmp_path / "data")
    assert len(pd.read_parquet(data_set.description.source.path)) == ROWS
    assert set(pd.read_parquet(data_set.description.source.path)["clicked"]) == {0, 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "data.rows"]


def test_only_a_data_set_is_replaced(tmp_path):
    for foreign in (tmp_path / "work" / "bundle", tmp_path / "data.rows" / "mine.txt"):
        foreign.mkdir(parents=True)
    with pytest.raises(FileExistsError, match=r"work contains bundle; .* such as .*work/data\."):
        converted(log(), tmp_path / "work")
    with pytest.raises(FileExistsError, match=r"data\.rows contains mine\.txt"):
        converted(log(), tmp_path / "data")
    (tmp_path / "empty").mkdir()
    converted(log(), tmp_path / "empty")
    assert (tmp_path / "work" / "bundle").is_dir()
    assert (tmp_path / "data.rows" / "mine.txt").is_dir()


def test_null_categories_and_tensors_are_written(tmp_path):
    brands = pa.DictionaryArray.from_arrays(np.arange(ROWS) % 3, pa.array(["a", None, "b"]))
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((ROWS, 4), np.float32))
    table = pa.Table.from_pandas(log()).drop_columns("brand")
    table = table.append_column("brand", brands).append_column("image", tensors)
    found = arrow(table, tmp_path)
    assert set(found.catalog().fields["brand"].to_pylist()) == {"a", None, "b"}


def arrow(table, tmp_path):
    return tfrecords.from_arrow(table, SCHEMA, tmp_path / "data", progress=False)


def test_a_replaced_data_set_is_not_read_as_the_opened_one(tmp_path):
    opened = converted(log(), tmp_path / "data")
    train = opened.batches("train", 8)  # Its shards are verified.
    converted(log(), tmp_path / "data")  # the same content
    assert opened.batches("train", 8) is train
    converted(log(country="x"), tmp_path / "data")
    for read in (
        lambda: opened.batches("train", 8),
        lambda: opened.clicked("train", 8, seed=1),
        opened.sample_requests,
    ):
        with pytest.raises(ValueError, match=r"was converted again since it was opened\. Open"):
            read()


def test_a_data_set_shows_its_directory_and_size(tmp_path):
    rows = "96 train, 12 validation and 12 test rows, 12 ads"
    data_set = converted(log(), tmp_path / "data")
    assert repr(data_set) == f"DataSet('{tmp_path / 'data'}': {rows})"


def test_a_stream_that_was_read_before_is_named(tmp_path):
    reader = pa.Table.from_pandas(log()).to_reader()
    reader.read_all()
    with pytest.raises(ValueError, match=r"no rows; .* A stream can be read once; give a new one"):
        arrow(reader, tmp_path)
    with pytest.raises(ValueError, match=r"no rows; expected at least one\.$"):
        arrow(pa.Table.from_pandas(log().iloc[:0]), tmp_path)


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_stream_that_fails_is_named_with_the_rows_before(error, tmp_path):
    table = pa.Table.from_pandas(log())

    def batches():
        yield from table.to_batches()
        raise error("lost")

    stream = pa.RecordBatchReader.from_batches(table.schema, batches())
    with pytest.raises(ValueError, match=r"log: the stream failed after 120 rows \(.*lost'?\.?\)"):
        arrow(stream, tmp_path)
    assert not (tmp_path / "data.rows").exists()


def test_a_type_that_pyarrow_lacks_is_named(tmp_path):
    class Frame:
        def __arrow_c_stream__(self, requested_schema=None):
            # As PyArrow refuses the stream of a Polars frame with such a column.
            raise pa.ArrowInvalid("Invalid or unsupported format string: '_pli128'")

    with pytest.raises(ValueError, match=r"log: a column has a type .*'_pli128'\)\. Convert it"):
        arrow(Frame(), tmp_path)
    with pytest.raises(ValueError, match=r"log: expected a pandas\.DataFrame .*ChunkedArray"):
        arrow(pa.chunked_array([["CH"]]), tmp_path)


def test_a_lazy_frame_has_to_be_collected(tmp_path):
    class LazyFrame:
        def collect(self):
            return log()

    with pytest.raises(ValueError, match=r"got LazyFrame\. Call its \.collect\(\)\."):
        arrow(LazyFrame(), tmp_path)


def test_an_arrow_type_that_parquet_lacks_names_the_column(tmp_path):
    column = pa.array([(0, 1, 2)] * ROWS, pa.month_day_nano_interval())
    table = pa.Table.from_pandas(log()).append_column("spare", column)
    data_set = tfrecords.from_arrow(table, SCHEMA, tmp_path / "data", progress=False)
    assert data_set.description.source.lines == ROWS
    table = table.rename_columns({"spare": "country", "country": "spare"})
    with pytest.raises(ValueError, match="the column 'country' has the Arrow type month_day_nano"):
        tfrecords.from_arrow(table, SCHEMA, tmp_path / "data", progress=False)


def test_python_dates_are_times(tmp_path):
    day = [datetime.date(2026, 1, 1 + row // 12) for row in range(ROWS)]
    data_set = converted(log(at=pd.Series(day, dtype=object)), tmp_path / "data")
    assert data_set.description.split.kind == "time"


@pytest.mark.parametrize(
    ("schema", "error"), [({"name": "x"}, ValueError), ("no/schema.json", FileNotFoundError)]
)
def test_a_wrong_schema_is_refused_before_anything_is_written(schema, error, tmp_path):
    with pytest.raises(error):
        converted(log(), tmp_path / "data", schema)
    assert list(tmp_path.iterdir()) == []


def test_frames_have_nested_columns_formatted_numbers_and_titles(tmp_path):
    frame = pd.DataFrame(
        {
            "user": [f"u{n % 9}" for n in range(100)],
            "device": [{"os": ["ios", "web"][n % 2], "kind": {"name": "x"}} for n in range(100)],
            "sku": [f"s{n % 5}" for n in range(100)],
            "day": [f"{1 + n % 28:02d}.03.2024" for n in range(100)],
            "paid": [f"{n % 3},50 €" for n in range(100)],
            "click": [n % 3 > 0 for n in range(100)],
        }
    )
    ads = pd.DataFrame({"sku": [f"s{n}" for n in range(6)], "title": [f"T{n}" for n in range(6)]})
    schema = {
        "name": "shop",
        "fields": [
            {"name": "os", "kind": "categorical", "side": "query", "column": "device.os"},
            {"name": "sku", "kind": "categorical", "side": "ad"},
        ],
        "ad_key": ["sku"],
        "click": "click",
        "revenue": "paid",
        "time": "day",
        "time_format": "%d.%m.%Y",
        "decimal": ",",
        "show": ["title"],
    }
    data_set = tfrecords.from_pandas(frame, schema, tmp_path / "data", ads=ads, progress=False)
    splits = ("train", "validation", "test")
    # 0.5, 1.5 and 2.5 in turn: 33 rounds and 0.5.
    assert sum(data_set.label_sum(split, "revenue") for split in splits) == 33 * 4.5 + 0.5
    assert {shown["title"] for shown in data_set.catalog().shown(np.arange(6))} == set(ads["title"])
    assert {sample["os"] for sample in data_set.sample_requests()} <= {"ios", "web"}
