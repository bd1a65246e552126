"""Columns to show: stored once for each ad, and never read by a model."""

import dataclasses
import datetime
import json

import logs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecords import convert, reader
from tfrecords import schema as schema_lib
from tfrecords.schema import Field

PLAIN = schema_lib.Schema(
    "shop",
    (
        Field("country", "categorical", "query", min_count=1),
        Field("brand", "categorical", "ad", min_count=1),
        Field("price", "numeric", "ad"),
    ),
    ad_key=("sku",),
    click="click",
)
SHOP = dataclasses.replace(PLAIN, show=("title", "price", "image_url"))
HEADER = "country,sku,brand,price,title,image_url,click"


def write_log(path, num_rows=200):
    """Writes rows of the ads s0 to s4; the last rows of s0 have another title, s1 has none."""
    rows = []
    for i in range(num_rows):
        ad = i % 5
        title = {0: f"Shoe {'new' if i >= 100 else 'old'}", 1: ""}.get(ad, f"Thing {ad}")
        rows.append(f"c{i % 3},s{ad},b{ad % 2},{ad}.5,{title},http://x/{ad}.png,{int(i % 7 == 0)}")
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def shown(data_set):
    catalog = data_set.catalog()
    ids = catalog.ad_ids.to_pylist()
    return dict(zip(ids, catalog.shown(np.arange(len(catalog))), strict=True))


def test_the_catalog_has_the_latest_values_with_their_types(tmp_path):
    data_set = logs.converted_table(write_log(tmp_path / "log.csv"), tmp_path / "data", SHOP)
    found = shown(data_set)
    # The price is a number, because a numeric field reads the same column.
    assert found["s0"] == {"title": "Shoe new", "price": 0.5, "image_url": "http://x/0.png"}
    assert found["s1"]["title"] is None
    assert data_set.schema.show == SHOP.show
    assert data_set.catalog().fields.column_names == ["brand", "price"]


@pytest.mark.parametrize(("time", "title"), [("at", "T7"), (None, "T0")])
def test_the_latest_values_are_those_of_the_latest_time(tmp_path, time, title):
    # Newest first; the last two rows of the latest time differ.
    times = [7, 7, *range(6, -1, -1)]
    titles = ["first", *(f"T{at}" for at in times[1:])]
    rows = [
        f"c,s{ad},b,1.5,{t},,0,{at}" for t, at in zip(titles, times, strict=True) for ad in "ab"
    ]
    (tmp_path / "log.csv").write_text("\n".join([f"{HEADER},at", *rows]))
    schema = dataclasses.replace(PLAIN, click=None, show=("title",), time=time)
    for rows_per_chunk in (3, 100):
        directory = tmp_path / f"data-{rows_per_chunk}"
        source = convert.Source(
            tmp_path / "log.csv", schema, "tabular", rows_per_chunk=rows_per_chunk
        )
        convert.convert(source, directory)
        found = shown(reader.DataSet(directory))
        assert [found[ad]["title"] for ad in ("sa", "sb")] == [title, title]


def test_models_read_the_same_bytes_whatever_is_shown(tmp_path):
    log = write_log(tmp_path / "log.csv")
    logs.converted_table(log, tmp_path / "with", SHOP)
    logs.converted_table(log, tmp_path / "without", PLAIN)
    names = [path.name for path in (tmp_path / "with").glob("*.tfrecord")]
    assert len(names) == 3
    for name in [*names, "catalog/ad_features.npy"]:
        content = (tmp_path / "with" / name).read_bytes()
        assert content == (tmp_path / "without" / name).read_bytes()
    assert SHOP.fingerprint() == PLAIN.fingerprint()


def test_the_table_of_ads_says_what_its_ads_show(tmp_path):
    log = tmp_path / "log.csv"
    rows = [f"c{i % 3},s{i % 5},{int(i % 7 == 0)}" for i in range(200)]
    log.write_text("\n".join(["country,sku,click", *rows]) + "\n")
    day = datetime.date(2024, 5, 1)
    ads = pa.table(
        {
            "sku": ["s0", "s1", "s9", "s0"],
            "brand": ["b0", "b1", "b9", "b0"],
            "price": [1.5, float("nan"), 9.0, 2.5],
            "title": ["old", "One", "Nine", "Zero"],
            "image_url": [["a", "b"], None, [], ["c"]],
            "since": [day] * 4,
        }
    )
    pq.write_table(ads, tmp_path / "ads.parquet")
    schema = dataclasses.replace(SHOP, show=(*SHOP.show, "since"))
    data_set = logs.converted_table(log, tmp_path / "data", schema, tmp_path / "ads.parquet")
    since = {"since": "2024-05-01"}
    found = shown(data_set)
    assert found["s0"] == {"title": "Zero", "price": 2.5, "image_url": ["c"], **since}
    assert found["s1"] == {"title": "One", "price": None, "image_url": None, **since}
    # Never in the log.
    assert found["s9"] == {"title": "Nine", "price": 9.0, "image_url": [], **since}
    # Not in the table of ads.
    assert found["s2"] == dict.fromkeys(schema.show)


SHOWN = {
    "size": [0.5, 1.1],
    "mixed": [0.5, 2.0, None],
    "ids": [1, 2],
    "flags": [True, False],
    "words": ["a", "2"],
    "none": [],
    "weight": 1.1,
    "count": 3,
}
DAY = datetime.date(2024, 5, 1)


@pytest.mark.parametrize("source", ["log", "ads"])
def test_lists_of_parquet_are_shown_as_those_of_json(tmp_path, source):
    rows = [{"country": f"c{i % 3}", "sku": f"s{i % 5}", "click": i % 7 // 6} for i in range(200)]
    ads = [{"sku": f"s{i}", "brand": "b", "price": 1.5, **SHOWN, "days": [DAY]} for i in range(5)]
    schema = dataclasses.replace(PLAIN, show=(*SHOWN, "days"))
    if source == "log":
        rows, ads = [{**row, **ads[i % 5]} for i, row in enumerate(rows)], []
    found = []
    for ending in ("parquet", "jsonl"):
        paths = []
        for name, listed in (("log", rows), ("ads", ads)):
            path = tmp_path / f"{name}.{ending}"
            table = pa.Table.from_pylist(listed)
            if listed and ending == "parquet":
                kinds = {"size": pa.list_(pa.float32()), "weight": pa.float32()}
                types = [(f.name, kinds.get(f.name, f.type)) for f in table.schema]
                pq.write_table(table.cast(pa.schema(types)), path)
            elif listed:
                path.write_text("".join(json.dumps(row, default=str) + "\n" for row in listed))
            paths.append(path if listed else None)
        found.append(
            shown(logs.converted_table(paths[0], tmp_path / f"data-{ending}", schema, paths[1]))
        )
    assert found[0] == found[1]
    assert found[0]["s3"] == {**SHOWN, "days": ["2024-05-01"]}


def test_a_missing_column_to_show_is_named(tmp_path):
    schema = dataclasses.replace(SHOP, show=("titel",))
    with pytest.raises(ValueError, match=r"reads the column 'titel'.*Did you mean 'title'\?"):
        logs.converted_table(write_log(tmp_path / "log.csv"), tmp_path / "data", schema)


def test_a_schema_file_names_columns_to_show(tmp_path):
    schema_lib.save_schema(SHOP, tmp_path / "schema.json")
    assert schema_lib.load_schema(tmp_path / "schema.json") == SHOP
    value = SHOP.to_json()
    assert "show" not in PLAIN.to_json()
    with pytest.raises(ValueError, match=r'show is a list of columns: write \["title"\]'):
        schema_lib.schema_from_json({**value, "show": "title"})
    with pytest.raises(ValueError, match="show names a column twice"):
        schema_lib.schema_from_json({**value, "show": ["title", "title"]})
    with pytest.raises(ValueError, match="show must be a list of column names, got 1 in it"):
        schema_lib.schema_from_json(json.loads(json.dumps({**value, "show": [1]})))
