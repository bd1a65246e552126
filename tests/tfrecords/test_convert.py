"""Conversion: nothing lost, nothing leaked, whole requests, the same bytes again."""

import dataclasses
import gzip
import itertools
import json

import beam_logs
import history_logs
import logs
import numpy as np
import pytest

from tfrecords import convert, encoding, reader, records
from tfrecords import files as files_lib
from tfrecords import schema as schema_lib
from tfrecords.formats import criteo

pytestmark = pytest.mark.slow

SPLITS = ("train", "validation", "test")


def low_count_schema(**changes):
    """Criteo's convention, but a value seen once is in the vocabulary."""
    plain = criteo.schema()
    fields = tuple(dataclasses.replace(f, min_count=1) for f in plain.fields)
    return dataclasses.replace(plain, fields=fields, **changes)


def source_of(data_set):
    return data_set.description.source


def num_rows(data_set):
    return [data_set.num_rows(split) for split in SPLITS]


def row_matrix(data_set, split):
    """The ids and clicks of a split of requests of one ad, a row each."""
    windows = list(data_set.windows(split))
    parts = [np.concatenate([w[name].numpy() for w in windows]) for name in ("query", "ad")]
    clicks = np.concatenate([w["click"].numpy() for w in windows])
    return np.concatenate([*parts, clicks[:, None]], axis=1)


def sorted_rows(matrix):
    return matrix[np.lexsort(matrix.T)]


def test_a_plain_log_is_split_by_line_order(tmp_path):
    data_set = logs.converted(logs.write(tmp_path / "log.tsv", logs.rows(200)), tmp_path / "data")
    assert num_rows(data_set) == [160, 20, 20]
    assert [data_set.num_requests(split) for split in SPLITS] == [160, 20, 20]
    assert source_of(data_set).lines == 200
    assert source_of(data_set).rejected == 0


def test_written_ids_and_labels_are_those_of_the_log(tmp_path):
    rows = logs.rows(200)
    data_set = logs.converted(logs.write(tmp_path / "log.tsv", rows), tmp_path / "data")
    encoder = encoding.Encoder(data_set.fitted, data_set.schema.fields)
    names = [field.name for field in data_set.schema.fields]
    raw = dict(zip(criteo.COLUMNS, zip(*rows, strict=True), strict=True))
    expected = encoder(
        {
            name: np.array([float(v or "nan") for v in raw[name]], np.float32)
            if name in criteo.NUMERIC_COLUMNS
            else np.array(raw[name], object)
            for name in names
        }
    ).numpy()
    is_query = np.array([field.side == "query" for field in data_set.schema.fields])
    clicks = np.array(raw["label"], float)[:, None]
    wanted = np.concatenate([expected[:, is_query], expected[:, ~is_query], clicks], axis=1)
    written = {split: row_matrix(data_set, split) for split in SPLITS}
    held_out = np.concatenate([written["validation"], written["test"]])
    np.testing.assert_array_equal(held_out, wanted[160:])
    # Training requests are shuffled: the same rows in another order.
    np.testing.assert_array_equal(sorted_rows(written["train"]), sorted_rows(wanted[:160]))
    assert (written["train"] != wanted[:160]).any()


def test_gzip_and_windows_line_ends_give_the_same_data_set(tmp_path):
    text = logs.text(logs.rows(150))
    variants = {"plain": text, "gzip": gzip.compress(text), "crlf": text.replace(b"\n", b"\r\n")}
    written = {}
    for name, content in variants.items():
        path = tmp_path / f"{name}.tsv"
        path.write_bytes(content)
        logs.converted(path, tmp_path / name)
        written[name] = logs.files(tmp_path / name)
        del written[name]["dataset.json"]  # names its source
    assert written["plain"] == written["gzip"] == written["crlf"]


def test_the_same_input_gives_the_same_bytes_and_replaces_what_was_there(tmp_path, synthetic_log):
    def run():
        logs.converted(
            synthetic_log.log,
            tmp_path / "data",
            schema_lib.load_schema(synthetic_log.schema),
            ads_path=synthetic_log.ads,
            format=synthetic_log.format,
        )
        return logs.files(tmp_path / "data")

    first = run()
    (tmp_path / "data" / "stale.tfrecord").write_bytes(b"old")
    assert run() == first
    assert {"dataset.json", "encoder/encoder.json", "catalog/ads.arrow"} <= first.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_bad_lines_are_counted_and_quarantined_and_the_good_kept(tmp_path):
    rows = logs.rows(300)
    bad = [b"bad", b"1\t2\t3", b"\xff\xfe\t1", b"", logs.text([["2", *rows[0][1:]]])[:-1]]
    text = logs.text(rows[:100]) + b"\n".join(bad) + b"\n" + logs.text(rows[100:])
    path = tmp_path / "log.tsv"
    path.write_bytes(text)
    data_set = logs.converted(path, tmp_path / "data")
    assert sum(num_rows(data_set)) == 300
    assert source_of(data_set).rejected == 5
    assert source_of(data_set).lines == 305
    quarantine = (data_set.directory / "rejected.tsv").read_bytes().split(b"\n")[:-1]
    split = [line.split(b"\t", 3) for line in quarantine]
    assert {file for file, _, _, _ in split} == {str(path).encode()}
    assert [int(line) for _, line, _, _ in split] == [101, 102, 103, 104, 105]
    assert [raw for _, _, _, raw in split] == bad
    assert split[4][2] == (
        b"label must be 0 or 1, got '2' (true, false, yes, no, t, f, y and n are read, too); "
        b"other numbers need click_threshold in the schema"
    )


def test_a_mostly_bad_log_is_refused_with_examples_and_leaves_no_data_set(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_bytes(logs.text(logs.rows(20)) + b"bad\n" * 80)
    message = r"(?s)log\.tsv: 80 of 100 lines are rejected.*line 21: expected 40 tab-separated"
    with pytest.raises(ValueError, match=message):
        logs.converted(path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_log_with_a_few_percent_bad_is_refused_and_accepted_when_allowed(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_bytes(logs.text(logs.rows(400)) + b"bad\n" * 20)
    with pytest.raises(
        ValueError, match=r"20 of 420 lines .* share of at most 0\.01 \(--max_rejected"
    ):
        logs.converted(path, tmp_path / "data")
    data_set = logs.converted(path, tmp_path / "data", max_rejected_fraction=0.1)
    assert source_of(data_set).rejected == 20


def test_a_few_bad_lines_in_a_small_log_are_tolerated(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_bytes(b"\t".join(c.encode() for c in criteo.COLUMNS) + b"\n")
    path.write_bytes(path.read_bytes() + logs.text(logs.rows(30)))
    assert source_of(logs.converted(path, tmp_path / "data")).rejected == 1


@pytest.mark.parametrize("content", [b"bad\nbad\n", b"\n", b"1\t2"])
def test_a_log_without_a_good_line_is_refused(tmp_path, content):
    path = tmp_path / "log.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"lines are rejected"):
        logs.converted(path, tmp_path / "data", max_rejected_fraction=1.0)


def test_missing_paths_empty_files_directories_and_truncated_gzip_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No file at .*none\.tsv"):
        logs.converted(tmp_path / "none.tsv", tmp_path / "data")
    with pytest.raises(ValueError, match="is a directory"):
        logs.converted(tmp_path, tmp_path.parent / "data")
    path = tmp_path / "log.tsv.gz"
    for content, message in (
        (b"", "is empty"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(logs.text(logs.rows(100)))[:-20], "truncated or damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"log\.tsv\.gz.* {message}"):
            logs.converted(path, tmp_path / "data")


@pytest.mark.parametrize(("validation", "test"), [(0, 0.1), (0.1, 0), (0.5, 0.5), (-0.1, 0.2)])
def test_fractions_that_leave_a_split_empty_are_refused(tmp_path, validation, test):
    path = logs.write(tmp_path / "log.tsv", logs.rows(10))
    with pytest.raises(ValueError, match=rf"a sum below 1, got {validation} and {test}"):
        logs.converted(path, tmp_path / "data", validation_fraction=validation, test_fraction=test)


def test_a_log_too_short_for_a_training_split_is_refused(tmp_path):
    path = logs.write(tmp_path / "log.tsv", logs.rows(1))
    with pytest.raises(ValueError, match=r"log\.tsv: 1 line leaves no training rows.* larger log"):
        logs.converted(path, tmp_path / "data")


def test_a_log_of_twelve_lines_converts(tmp_path):
    data_set = logs.converted(logs.write(tmp_path / "log.tsv", logs.rows(12)), tmp_path / "data")
    # int(12 * 0.8) = 9 and int(12 * 0.9) = 10.
    assert num_rows(data_set) == [9, 1, 2]
    assert len(data_set.sample_requests()) == 2
    for split in SPLITS:
        assert sum(int(b["mask"].numpy().sum()) for b in data_set.batches(split, 4)) > 0


def test_a_test_part_without_clicks_converts(tmp_path):
    rows = [["0", *row[1:]] if i >= 80 else row for i, row in enumerate(logs.rows(100))]
    data_set = logs.converted(logs.write(tmp_path / "log.tsv", rows), tmp_path / "data")
    assert data_set.label_sum("test", "click") == 0
    assert data_set.label_sum("train", "click") == sum(row[0] == "1" for row in rows)
    assert list(data_set.clicked("test", 8)) == []


def test_only_training_rows_enter_vocabularies_counts_and_numeric_statistics(tmp_path):
    rows = logs.rows(100)
    for row in rows[80:]:  # held out: other values everywhere, and every row a click
        row[:] = ["1", *["99999"] * 13, *["feedbeef"] * 26]
    log = logs.write(tmp_path / "log.tsv", rows)
    data_set = logs.converted(log, tmp_path / "data", low_count_schema())
    for field in data_set.schema.fields:
        statistics = data_set.fitted.statistics[field.name]
        assert "feedbeef" not in statistics.vocabulary
        assert max(statistics.boundaries, default=0) < 99999
    catalog = data_set.catalog()
    assert catalog.impressions.sum() == 80
    assert catalog.clicks.sum() == sum(row[0] == "1" for row in rows[:80])
    # The encoder is the same as from a log that repeats training rows in its held-out rows.
    other = logs.write(tmp_path / "other.tsv", [*rows[:80], *rows[:20]])
    assert logs.converted(other, tmp_path / "other", low_count_schema()).fingerprint == (
        data_set.fingerprint
    )


def test_the_catalog_holds_each_ad_once_with_its_training_counts(tmp_path):
    rows = logs.rows(100)
    data_set = logs.converted(logs.write(tmp_path / "log.tsv", rows), tmp_path / "data")
    key_columns = [criteo.COLUMNS.index(name) for name in ("C7", "C11", "C13", "C17")]
    keys = ["|".join(row[i] for i in key_columns) for row in rows]
    catalog = data_set.catalog()
    ids = catalog.ad_ids.to_pylist()
    assert ids == list(dict.fromkeys(keys))
    train = list(zip(keys, rows, strict=True))[:80]
    assert catalog.impressions.tolist() == [sum(k == i for k, _ in train) for i in ids]
    assert catalog.clicks.tolist() == [sum(k == i and r[0] == "1" for k, r in train) for i in ids]
    ad_rows = np.concatenate([w["ad_row"] for s in SPLITS[1:] for w in data_set.windows(s)])
    assert [ids[row] for row in ad_rows] == keys[80:]


def test_the_catalog_holds_ads_never_shown_encoded_like_the_others(data_set, synthetic_log):
    catalog = data_set.catalog()
    lines = synthetic_log.ads.read_text().splitlines()[1:]
    assert len(catalog) == len(lines) == 300
    shown = np.unique(
        np.concatenate([w["ad_row"] for split in SPLITS for w in data_set.windows(split)])
    )
    never = np.setdiff1d(np.arange(300), shown)
    assert len(never)
    assert catalog.impressions[never].sum() == 0
    encoder = encoding.Encoder(data_set.fitted, data_set.schema.ad_fields)
    np.testing.assert_array_equal(catalog.features, encoder.encode_table(catalog.table))


def test_an_ad_table_that_is_missing_or_lacks_a_column_is_refused(tmp_path):
    log, ads = logs.write(tmp_path / "log.tsv", logs.rows(30)), tmp_path / "ads.tsv"
    for text, error, message in (
        (None, FileNotFoundError, r"No file at .*ads\.tsv"),
        ("C7\tC11\tC13\nfeedbeef\t1\t2\n", ValueError, r"the header lacks the columns \['C17'\]"),
        ("C7\tC11\tC13\tC17\nfeedbeef\n", ValueError, r"line 2: expected 4 columns, got 1"),
    ):
        if text is not None:
            ads.write_text(text)
        with pytest.raises(error, match=message):
            logs.converted(log, tmp_path / "d", ads_path=ads)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (schema_lib.Field("price", "numeric", "ad"), "1.5"),
        (schema_lib.Field("image", "dense", "ad", length=2), "1|2|3"),
    ],
)
def test_a_bad_value_of_an_ad_is_a_fault_of_the_table_of_ads(tmp_path, field, value):
    ads, log = tmp_path / "ads.csv", tmp_path / "log.csv"
    history_logs.log().to_csv(log, index=False)
    ads.write_text(f"sku;{field.name}\n1;\n2;{value}\n")
    plain = history_logs.schema_of()
    schema = dataclasses.replace(plain, fields=(*plain.fields, field), decimal=",")
    with pytest.raises(ValueError, match=rf"ads\.csv, line 3: {field.name} must .*{value[-1]}"):
        logs.converted_table(log, tmp_path / "data", schema, ads_path=ads)


@pytest.mark.parametrize(("listed", "lacking"), [((1, 2, 3, 4, 9), 0), ((1, 3, 9), 2)])
def test_shown_ads_that_the_table_of_ads_lacks_are_counted(listed, lacking, tmp_path):
    history_logs.log().assign(sku=lambda log: log.index % 4 + 1).drop(columns="brand").to_csv(
        tmp_path / "log.csv", index=False
    )
    ads = "".join(f"{ad},acme\n" for ad in listed)
    (tmp_path / "ads.csv").write_text(f"sku,brand\n{ads}")
    data_set = logs.converted_table(
        tmp_path / "log.csv",
        tmp_path / "data",
        history_logs.schema_of(),
        ads_path=tmp_path / "ads.csv",
    )
    assert data_set.description.ads_not_in_table == lacking
    assert data_set.description.num_ads == 5


def test_held_out_requests_are_in_the_order_of_the_log_and_training_ones_are_not(tmp_path):
    # Ads are numbered by their first rows.
    (tmp_path / "log.csv").write_text("q,ad\n" + "".join(f"x,a{n}\n" for n in range(100)))
    fields = (
        schema_lib.Field("q", "categorical", "query"),
        schema_lib.Field("ad", "categorical", "ad"),
    )
    schema = schema_lib.Schema("order", fields, ("ad",), None)
    data_set = logs.converted_table(tmp_path / "log.csv", tmp_path / "data", schema)
    rows = {split: data_set.column(split, "ad_row").tolist() for split in SPLITS}
    assert rows[SPLITS[1]] == list(range(80, 90))
    assert rows[SPLITS[2]] == list(range(90, 100))
    assert rows["train"] != sorted(rows["train"]) == list(range(80))


@pytest.mark.parametrize("has_times", [True, False])
def test_the_order_of_requests_is_that_of_their_times_or_of_the_log(tmp_path, has_times):
    times = np.random.default_rng(1).permutation(60)
    lines = [f"x,a{row},r{row // 2},{time}\n" for row, time in enumerate(times)]
    (tmp_path / "log.csv").write_text("q,ad,request,time\n" + "".join(lines))
    fields = (
        schema_lib.Field("q", "categorical", "query"),
        schema_lib.Field("ad", "categorical", "ad"),
    )
    schema = schema_lib.Schema(
        "order", fields, ("ad",), None, request_key="request", time="time" if has_times else None
    )
    data_set = logs.converted(
        tmp_path / "log.csv",
        tmp_path / "data",
        schema,
        rows_per_chunk=25,
        format="tabular",
        split="fraction",
    )
    order, request = [], []
    for split in SPLITS:
        order.extend(data_set.column(split, records.ORDER))
        # Ads are numbered by their first rows, and a request has two.
        request.extend(data_set.column(split, "ad_row")[::2] // 2)
    earliest = times.reshape(30, 2).min(axis=1) if has_times else np.arange(30)
    assert np.array(request)[np.argsort(order)].tolist() == np.argsort(earliest).tolist()


def test_a_request_never_spans_two_splits_and_is_never_cut(data_set, synthetic_log):
    lines = [line.split("\t") for line in synthetic_log.log.read_text().splitlines()]
    request_ids = [row[lines[0].index("request_id")] for row in lines[1:]]
    held_out = [
        int(n) for s in SPLITS[1:] for w in data_set.windows(s) for n in w["list_lengths"].numpy()
    ]
    train = [int(n) for w in data_set.windows("train") for n in w["list_lengths"].numpy()]
    runs = [len(list(group)) for _, group in itertools.groupby(request_ids)]
    assert len(set(request_ids)) == len(runs)
    assert sum(train) + sum(held_out) == len(request_ids) == 4_000
    assert held_out == runs[len(train) :]
    assert sorted(train) == sorted(runs[: len(train)])
    # Near 70 / 15 / 15 % of the lines; each border moves by less than one request.
    np.testing.assert_allclose(num_rows(data_set), [2_800, 600, 600], atol=max(runs))


def labeled_log(tmp_path, labels):
    """Writes clicked rows of Criteo's columns and two labels; returns the log and its schema."""
    header = [*criteo.COLUMNS, "bought", "paid"]
    rows = [
        ["1", *row[1:], *values] for row, values in zip(logs.rows(len(labels)), labels, strict=True)
    ]
    schema = dataclasses.replace(criteo.schema(), engagement="bought", revenue="paid")
    return logs.write(tmp_path / "log.tsv", [header, *rows]), schema


def test_a_bad_label_rejects_its_row_and_a_missing_one_is_kept(tmp_path):
    labels = [("0", "0"), ("0", "0"), ("2", "0"), ("", "5"), ("1", "7")]
    log, schema = labeled_log(tmp_path, labels)
    data_set = logs.converted(log, tmp_path / "data", schema, max_rejected_fraction=0.5,
                              format="tabular", validation_fraction=0.25,
                              test_fraction=0.25)  # fmt: skip
    assert source_of(data_set).rejected == 1
    # Rows 1 and 2 train; row 4, without engagement, validates; row 5 tests.
    assert num_rows(data_set) == [2, 1, 1]
    assert np.isnan(next(iter(data_set.windows("validation")))["engagement"].numpy()).all()
    assert data_set.label_count("validation", "engagement") == 0
    assert data_set.label_sum("test", "revenue") == 7
    reason = (data_set.directory / "rejected.tsv").read_text().split("\t")[2]
    assert reason == (
        "bought must be 0 or 1, got '2' (true, false, yes, no, t, f, y and n are read, too)"
    )


def test_a_revenue_that_no_model_can_learn_is_rejected(tmp_path):
    labels = [("0", "0")] * 8 + [("1", "1e12"), ("1", "3e38")]
    log, schema = labeled_log(tmp_path, labels)
    data_set = logs.converted(
        log, tmp_path / "data", schema, max_rejected_fraction=0.5, format="tabular"
    )
    assert source_of(data_set).rejected == 1
    reason = (data_set.directory / "rejected.tsv").read_text().split("\t")[2]
    assert reason == "paid must be at most 1e+12 (use a larger unit), got 3e+38"


def test_sample_requests_are_raw_query_fields_of_the_test_split(tmp_path):
    rows = logs.rows(40)
    data_set = logs.converted(logs.write(tmp_path / "log.tsv", rows), tmp_path / "data")
    samples = data_set.sample_requests()
    assert len(samples) == 4
    query_names = {field.name for field in data_set.schema.query_fields}
    for sample, row in zip(samples, rows[36:], strict=True):
        raw = dict(zip(criteo.COLUMNS, row, strict=True))
        assert sample.keys() == query_names
        assert {k: "" if v is None else str(v) for k, v in sample.items()} == {
            name: raw[name] for name in query_names
        }


def test_a_foreign_encoder_is_refused(tmp_path):
    first = logs.converted(logs.write(tmp_path / "a.tsv", logs.rows(100)), tmp_path / "a")
    other_rows = logs.rows(100, seed=1)
    other = logs.converted(
        logs.write(tmp_path / "b.tsv", other_rows), tmp_path / "b", low_count_schema()
    )
    other.fitted.save(first.directory / "encoder")
    with pytest.raises(ValueError, match=rf"expected {first.fingerprint}, the fingerprint of"):
        reader.DataSet(first.directory)


def test_a_missing_or_unfinished_data_set_and_a_missing_shard_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No data set at .*; run tfrec convert first"):
        reader.DataSet(tmp_path / "none")
    data_set = logs.converted(logs.write(tmp_path / "log.tsv", logs.rows(50)), tmp_path / "data")
    shards = json.loads((data_set.directory / "dataset.json").read_text())["splits"]["train"]
    (data_set.directory / shards["shards"][0]["file"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00000\.tfrecord is missing; convert"):
        data_set.windows("train")
    (data_set.directory / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match="No data set"):
        reader.DataSet(data_set.directory)


def test_one_thread_at_a_time_reads_arrays(tmp_path, monkeypatch):
    """CPython 3.11 can fail if threads parse the headers of NumPy's files at once."""
    load, read = np.load, []

    def watched(path, *args, **kwargs):
        assert files_lib._READING_ARRAYS.locked()
        read.append(path)
        return load(path, *args, **kwargs)

    monkeypatch.setattr(np, "load", watched)
    convert.convert(beam_logs.plain_log(tmp_path), tmp_path / "data", workers=2)
    assert {path.suffix for path in read} == {".npy", ".npz"}
