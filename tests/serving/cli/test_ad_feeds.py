"""Tables of ads for a release: the same file that was given to the conversion."""

import dataclasses
import gzip
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving import releases
from serving.cli import ad_feeds

FEED = [
    {"sku": "007", "brand": "tea", "cost": 2.5, "tags": "a|b", "title": "Earl Grey", "other": 1},
    {"sku": "8", "brand": None, "cost": None, "tags": None, "title": None, "other": 2},
]
ADS = [
    {
        "ad_id": "007",
        "fields": {"advertiser": "tea", "category": None, "price": 2.5, "tags": ["a", "b"]},
        "show": {"title": "Earl Grey", "stock": None},
    },
    {
        "ad_id": "8",
        "fields": {"advertiser": None, "category": None, "price": None, "tags": None},
        "show": {"title": None, "stock": None},
    },
]


@pytest.fixture
def manifest(tiny_bundle: releases.Bundle):
    """A release whose schema names the columns of a log."""
    fields = [
        {"name": "advertiser", "kind": "categorical", "side": "ad", "column": "brand"},
        {"name": "price", "kind": "numeric", "side": "ad", "column": "cost"},
    ]
    known = tiny_bundle.manifest
    schema = {**known.schema, "fields": fields, "ad_key": ["sku"]}
    return dataclasses.replace(known, schema=schema)


def write(path: pathlib.Path) -> pathlib.Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(FEED), path)
    elif "json" in path.suffix:
        path.write_text("".join(json.dumps(row) + "\n" for row in FEED))
    else:
        delimiter = "," if ".csv" in path.suffixes else "\t"
        rows = [FEED[0].keys(), *(row.values() for row in FEED)]
        text = "".join(
            delimiter.join("" if v is None else str(v) for v in row) + "\n" for row in rows
        )
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.ndjson", "a.parquet"])
def test_one_feed_for_conversion_and_updates(tmp_path: pathlib.Path, manifest, name: str) -> None:
    path = write(tmp_path / name)
    found, notes = ad_feeds.read_ads(path, manifest)
    assert notes == [f"{path} has no columns ['category']; these fields are missing in its ads"]
    assert found == ADS


def test_ads_as_in_answers_and_tables_named_like_them(tmp_path: pathlib.Path, manifest) -> None:
    path = tmp_path / "ads.jsonl"
    path.write_text('{"ad_id": "a", "fields": {"price": 1}}\n{"ad_id": 7}\n')
    ads = [{"ad_id": "a", "fields": {"price": 1}}, {"ad_id": 7}]
    assert ad_feeds.read_ads(path, manifest) == (ads, [])
    path = tmp_path / "ads.csv"
    path.write_text("ad_id,price,title\na,1.5,Tea\n")
    (ad,), _ = ad_feeds.read_ads(path, manifest)
    assert (ad["ad_id"], ad["fields"]["price"], ad["show"]["title"]) == ("a", 1.5, "Tea")


def test_a_field_that_is_the_ad_key_is_not_named_as_missing(tmp_path, manifest) -> None:
    fields = [{"name": "advertiser", "kind": "categorical", "side": "ad"}]
    schema = {**manifest.schema, "fields": fields, "ad_key": ["advertiser"]}
    path = tmp_path / "ads.csv"
    path.write_text("ad_id,price,tags\n7,1,t\n")
    _, notes = ad_feeds.read_ads(path, dataclasses.replace(manifest, schema=schema))
    assert notes == [f"{path} has no columns ['category']; these fields are missing in its ads"]


def test_rows_that_are_left_out_are_named(tmp_path: pathlib.Path, manifest) -> None:
    path = tmp_path / "ads.csv"
    path.write_text("sku,brand,cost,category,tags\n,a,1,c,t\nNA,a,2,c,t\n7,a,3,c,t\n7,a,4,c,t\n")
    (ad,), notes = ad_feeds.read_ads(path, manifest)
    assert (ad["ad_id"], ad["fields"]["price"]) == ("7", 4.0)
    assert notes == [
        f"{path}: 2 rows have no ad id and are left out",
        f"{path}: 1 row has an ad that occurs again later; the last row counts",
    ]


def test_a_table_without_the_key_is_refused_with_each_column_once(
    tmp_path: pathlib.Path, manifest
) -> None:
    path = tmp_path / "ads.csv"
    path.write_text("SKU,brand\n7,a\n")
    expected = r"expected the columns \['sku', 'brand', 'category', 'cost', 'tags'\], or ad_id and"
    with pytest.raises(ValueError, match=expected):
        ad_feeds.read_ads(path, manifest)
