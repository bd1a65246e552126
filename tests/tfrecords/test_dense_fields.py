"""Dense and text fields from the files of a log to the batches of a data set."""

import dataclasses
import json
import typing

import logs
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import tfrecords
from tfrecords import card, encoding, schema, texts, vectors

pytestmark = pytest.mark.slow

QUERY = schema.Field("taste", "dense", "query", length=2)
COUNTRY = schema.Field("country", "categorical", "query", min_count=1)
SEARCH = schema.Field("search", "text", "query", length=8)
IMAGE = schema.Field("image", "dense", "ad", length=3)
SKU = schema.Field("sku", "categorical", "ad", min_count=1)
TITLE = schema.Field("title", "text", "ad", length=8)
SCHEMA = schema.Schema(
    "shop",
    (QUERY, COUNTRY, SEARCH, IMAGE, SKU, TITLE),
    ad_key=("sku",),
    click="clicked",
    time="time",
)
ADS = 5
IMAGES = [[1.0, 2.0, -4.0], [0.5, 0.0, 0.0], None, [2.0, 2.0, 1.0], [-1.0, 1.0, 0.0]]
TITLES = ["red shoes", "blue hat", "", None, "赤い靴"]
ROWS = 40


def rows():
    """The columns of a log; row r has ad r % 5."""
    rng = np.random.default_rng(0)
    ads = np.arange(ROWS) % ADS
    return {
        "taste": [None if r % 7 == 3 else rng.normal(size=2).tolist() for r in range(ROWS)],
        "country": [f"c{r % 3}" for r in range(ROWS)],
        "search": ["" if r % 6 == 1 else f"query {r % 4}" for r in range(ROWS)],
        "image": [IMAGES[ad] for ad in ads],
        "sku": [f"a{ad}" for ad in ads],
        "title": [TITLES[ad] for ad in ads],
        "clicked": [int(r % 2) for r in range(ROWS)],
        "time": list(range(ROWS)),
    }


def joined(values, form):
    if values is None:
        return ""
    return form(values)


FORMS = {
    "separator": lambda values: "|".join(map(str, values)),
    "pandas": str,
    "json": json.dumps,
    "numpy": lambda values: str(np.array(values)),
}


def as_csv(path, form):
    frame = pd.DataFrame(rows())
    for name in ("taste", "image"):
        frame[name] = [joined(value, form) for value in rows()[name]]
    frame.to_csv(path, index=False)
    return path


def as_parquet(path, kind):
    table = pa.table({**rows(), "taste": pa.array(rows()["taste"], kind)})
    pq.write_table(table, path)
    return path


def encoded(data_set):
    """The encoded rows of a data set in the order of the log."""
    parts = []
    for split in ("train", "validation", "test"):
        windows = list(data_set.windows(split))
        parts.append({side: np.concatenate([w[side] for w in windows]) for side in ("query", "ad")})
    return {side: np.concatenate([part[side] for part in parts]) for side in ("query", "ad")}


def by_row(matrix, fields, name):
    (columns,) = [span for field, span in encoding.columns(fields) if field.name == name]
    (field,) = [field for field in fields if field.name == name]
    return vectors.decode(np.ascontiguousarray(matrix[:, columns]), field.length).numpy()


def scaled(values, length):
    values = np.zeros(length) if values is None else np.array(values, np.float32)
    return (values / max(abs(values).max(), 1e-9)).astype(np.float16)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dense")
    path = as_parquet(directory / "log.parquet", pa.list_(pa.float64()))
    return logs.converted_table(path, directory / "data", SCHEMA, workers=1)


def test_vectors_are_the_last_columns_of_a_side():
    assert [f.name for f in SCHEMA.query_fields] == ["country", "taste", "search"]
    # 1 id, and half of 2 and of 8 columns; 1 id, half of 3 (rounded up) and of 8.
    assert encoding.width(SCHEMA.query_fields) == 1 + 1 + 4
    assert encoding.width(SCHEMA.ad_fields) == 1 + 2 + 4


def test_a_data_set_has_the_vectors_of_the_log(data_set):
    got = encoded(data_set)
    taste = by_row(got["query"], SCHEMA.query_fields, "taste")
    image = by_row(got["ad"], SCHEMA.ad_fields, "image")
    # Training requests are shuffled: rows are compared as a multiset.
    assert sorted(taste.tolist()) == sorted(scaled(v, 2).tolist() for v in rows()["taste"])
    assert sorted(image.tolist()) == sorted(scaled(v, 3).tolist() for v in rows()["image"])


def test_texts_are_encoded_as_by_the_exported_encoder(data_set):
    got = encoded(data_set)
    fitted = data_set.fitted
    for side, fields in (("query", SCHEMA.query_fields), ("ad", SCHEMA.ad_fields)):
        encoder = encoding.Encoder(fitted, fields)
        columns = {}
        for field in fields:
            values = rows()[field.name]
            if field.kind == "dense":
                columns[field.name] = np.float32([v or [0] * field.length for v in values])
            else:
                columns[field.name] = np.array([v or "" for v in values], object)
        online = encoder(columns).numpy()
        assert sorted(online.tolist()) == sorted(got[side].tolist())


def test_ads_have_their_vectors_in_the_catalog_and_records_do_not(data_set):
    catalog = data_set.catalog()
    order = np.argsort(catalog.ad_ids.to_pylist())
    image = by_row(np.asarray(catalog.features), SCHEMA.ad_fields, "image")[order]
    np.testing.assert_array_equal(image, [scaled(v, 3) for v in IMAGES])
    # The id of the sku alone.
    assert len(data_set.spec.ad_widths) == 1


@pytest.mark.parametrize("form", FORMS)
def test_texts_of_vectors_give_the_same_data_set(data_set, tmp_path, form):
    path = as_csv(tmp_path / "log.csv", FORMS[form])
    other = logs.converted_table(path, tmp_path / "data", SCHEMA, workers=2)
    assert (tmp_path / "data" / "rejected.tsv").read_bytes() == b""
    assert other.fingerprint == data_set.fingerprint
    np.testing.assert_array_equal(other.catalog().features, data_set.catalog().features)
    if form != "numpy":  # str() of an array rounds to eight digits.
        assert other.checksum == data_set.checksum


def test_large_lists_of_parquet_give_the_same_data_set(data_set, tmp_path):
    path = as_parquet(tmp_path / "log.parquet", pa.large_list(pa.float32()))
    other = logs.converted_table(path, tmp_path / "data", SCHEMA)
    assert other.checksum == data_set.checksum


def test_fixed_lists_with_nulls_in_parquet_are_refused_with_a_remedy(tmp_path):
    path = as_parquet(tmp_path / "log.parquet", pa.list_(pa.float64(), 2))
    with pytest.raises(
        ValueError, match=r"fixed-size lists, some of them null.*variable-size lists"
    ):
        logs.converted_table(path, tmp_path / "data", SCHEMA)


def test_from_arrow_takes_lists_of_one_length_with_nulls(data_set, tmp_path):
    table = pa.table({**rows(), "taste": pa.array(rows()["taste"], pa.list_(pa.float64(), 2))})
    other = tfrecords.from_arrow(table, SCHEMA, tmp_path / "data", progress=False)
    assert other.checksum == data_set.checksum


def test_vectors_can_come_from_a_table_of_ads_which_may_have_more_of_them(data_set, tmp_path):
    log = pd.DataFrame(rows()).drop(columns=["image", "title"])
    ads = pd.DataFrame(
        {
            "sku": [f"a{ad}" for ad in range(ADS)] + ["new"],
            "image": [*map(FORMS["separator"], (v or "" for v in IMAGES)), "0|0|-3"],
            "title": [*TITLES, "red shoes"],
        }
    )
    log["taste"] = [joined(v, FORMS["json"]) for v in log["taste"]]
    log.to_csv(tmp_path / "log.csv", index=False)
    ads.to_csv(tmp_path / "ads.csv", index=False)
    other = logs.converted_table(
        tmp_path / "log.csv", tmp_path / "data", SCHEMA, ads_path=tmp_path / "ads.csv"
    )
    for ours, theirs in zip(encoded(other).values(), encoded(data_set).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    catalog = other.catalog()
    assert catalog.ad_ids.to_pylist()[-1] == "new"
    features = np.asarray(catalog.features)
    assert by_row(features[-1:], SCHEMA.ad_fields, "image").tolist() == [[0, 0, -1]]
    first = catalog.ad_ids.to_pylist().index("a0")
    np.testing.assert_array_equal(features[-1, 3:], features[first, 3:])  # the same title


def test_from_pandas_takes_numpy_arrays(data_set, tmp_path):
    frame = pd.DataFrame(rows())
    for name, kind in (("taste", np.float16), ("image", np.float32)):
        frame[name] = [None if v is None else np.array(v, kind) for v in frame[name]]
    other = tfrecords.from_pandas(frame, SCHEMA, tmp_path / "data", progress=False)
    np.testing.assert_array_equal(other.catalog().features, data_set.catalog().features)


def test_bad_vectors_are_rejected_with_the_reason(tmp_path):
    frame = pd.DataFrame({**rows(), "taste": "1|2", "image": "1|2|3"})
    frame.loc[[3, 4, 5, 6], "taste"] = ["1|2|3", "1|x", "1|inf", "[]"]
    frame.to_csv(tmp_path / "log.csv", index=False)
    logs.converted_table(tmp_path / "log.csv", tmp_path / "data", SCHEMA, max_rejected_fraction=0.5)
    rejected = (tmp_path / "data" / "rejected.tsv").read_text().splitlines()
    assert [line.split("\t")[1:3] for line in rejected] == [
        ["5", "taste must have 2 numbers, the field's length, got 3"],
        ["6", "taste must be 2 numbers joined by '|', or empty, got '1|x'"],
        ["7", "taste must be 2 finite numbers, got inf in it"],
    ]


def test_bad_lists_of_parquet_are_rejected_with_the_reason(tmp_path):
    columns = rows()
    columns["taste"][3], columns["taste"][4] = [1.0], [1.0, None]
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    logs.converted_table(
        tmp_path / "log.parquet", tmp_path / "data", SCHEMA, max_rejected_fraction=0.5
    )
    rejected = (tmp_path / "data" / "rejected.tsv").read_text().splitlines()
    assert [line.split("\t")[2] for line in rejected] == [
        "taste must have 2 numbers, the field's length, got 1",
        "taste must be 2 finite numbers, got nan in it",
    ]


def test_a_bad_vector_in_a_table_of_ads_names_its_row(tmp_path):
    log = pd.DataFrame(rows()).drop(columns=["image"])
    log["taste"] = [joined(v, FORMS["json"]) for v in log["taste"]]
    log.to_csv(tmp_path / "log.csv", index=False)
    (tmp_path / "ads.csv").write_text("sku,image\na0,1|2|3\nnew,1|2\n")
    with pytest.raises(ValueError, match=r"ads\.csv, line 3: image must have 3 numbers"):
        logs.converted_table(
            tmp_path / "log.csv", tmp_path / "data", SCHEMA, ads_path=tmp_path / "ads.csv"
        )


def test_the_data_card_counts_missing_vectors(data_set):
    described = card.build_card(data_set)
    fields = {field.name: field for field in described.fields}
    train = data_set.num_rows("train")
    missing = sum(r % 7 == 3 for r in range(train))
    assert fields["taste"].missing["train"] == pytest.approx(missing / train)
    assert fields["image"].missing["train"] == pytest.approx(0.2, abs=0.05)
    assert not fields["search"].constant
    assert "taste" in card.render_html(described)


def test_sample_requests_have_the_vectors_and_texts(data_set):
    samples = data_set.sample_requests()
    assert set(samples[0]) == {"taste", "country", "search"}
    tastes = [sample["taste"] for sample in samples]
    assert {len(taste) for taste in tastes if taste is not None} == {2}


class Counting(texts.TextEncoder):
    """Encodes a text as its length and one, and notes the texts that it is given."""

    seen: typing.ClassVar[list[str]] = []

    def encode(self, texts):
        # A text alone is encoded again, to compare its vector with the one from its batch.
        if tf.executing_eagerly() and len(texts) > 1:
            self.seen.extend(texts.numpy().tolist())
        lengths = tf.cast(tf.strings.length(texts), tf.float32)
        return tf.stack([lengths, tf.ones_like(lengths)], axis=1)


def test_each_distinct_text_is_encoded_once(tmp_path):
    fields = [
        dataclasses.replace(f, length=2, encoder=f"{__name__}:Counting") if f.kind == "text" else f
        for f in SCHEMA.fields
    ]
    path = as_csv(tmp_path / "log.csv", FORMS["json"])
    logs.converted(
        path,
        tmp_path / "data",
        dataclasses.replace(SCHEMA, fields=tuple(fields)),
        rows_per_chunk=8,
        format="tabular",
    )
    # The texts are in all of five chunks; the missing one may be asked for by each caller.
    seen = sorted(text.decode() for text in Counting.seen if text)
    titles = {title for title in TITLES if title}
    assert seen == sorted([*titles, *(f"query {number}" for number in range(4))])


def test_the_result_does_not_depend_on_chunks_and_workers(tmp_path):
    path = as_csv(tmp_path / "log.csv", FORMS["json"])
    files = []
    for name, workers in (("one", 1), ("two", 2)):
        logs.converted(
            path, tmp_path / name, SCHEMA, rows_per_chunk=16, format="tabular", workers=workers
        )
        files.append({p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()})
    assert files[0] == files[1]
