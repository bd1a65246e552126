"""Conversion of logs other than one ordered file: several files, splits, scattered requests."""

import dataclasses

import logs
import numpy as np
import pytest

from tfrecords import card, convert, encoding, formats, reader, records
from tfrecords import schema as schema_lib
from tfrecords.splits import SPLITS

pytestmark = pytest.mark.slow

SHOP = schema_lib.Schema(
    "shop",
    (
        schema_lib.Field("country", "categorical", "query", min_count=1),
        schema_lib.Field("seen", "categorical_list", "query", min_count=1, max_list_length=3),
        schema_lib.Field("price", "numeric", "ad", num_buckets=4),
        schema_lib.Field("sku", "categorical", "ad", min_count=1),
    ),
    ad_key=("sku",),
    click="clicked",
    request_key="request",
)
HEADER = "request,country,seen,sku,price,clicked,fold\n"


def shop(tmp_path, text, schema=SHOP, **options):
    path = tmp_path / "shop.csv"
    path.write_text(HEADER + text)
    return converted(path, tmp_path / "data", schema, **options)


def converted(path, directory, schema, rows_per_chunk=1_000, source=None, **options):
    source = dict(source or {}, rows_per_chunk=rows_per_chunk)
    convert.convert(convert.Source(path, schema, format="tabular", **source), directory, **options)
    return reader.DataSet(directory)


def lists(data_set, split):
    """The raw country, seen values, ads and clicks of each request of a split, sorted."""
    vocabularies = {
        name: ["", *statistics.vocabulary]
        for name, statistics in data_set.fitted.statistics.items()
    }
    ids = data_set.catalog().ad_ids.to_pylist()
    found = []
    for window in data_set.windows(split):
        start = 0
        for query, length in zip(window["query"].numpy(), window["list_lengths"], strict=True):
            rows = slice(start, start + int(length))
            found.append(
                (
                    vocabularies["country"][query[0]],
                    [vocabularies["seen"][i] for i in query[1:] if i],
                    [ids[row] for row in window["ad_row"][rows]],
                    window["click"].numpy()[rows].astype(int).tolist(),
                )
            )
            start += int(length)
    return sorted(found)


SCATTERED = (
    "r1,CH,a|b,x,1,0,train\n"
    "r2,DE,,y,2,1,train\n"
    "r1,CH,a|b,z,3,1,train\n"
    "r3,CH,a|b|c|d,x,1,0,test\n"
    "r2,DE,,x,1,0,train\n"
    "r3,CH,a|b|c|d,y,2,1,test\n"
    "r4,DE,b,z,3,0,validation\n"
)


@pytest.mark.parametrize("rows_per_chunk", [1, 2, 100])
def test_scattered_rows_become_whole_lists_of_a_given_split(tmp_path, rows_per_chunk):
    schema = dataclasses.replace(SHOP, split="fold")
    data_set = shop(tmp_path, SCATTERED, schema, rows_per_chunk=rows_per_chunk)
    assert data_set.description.split.kind == "column"
    assert lists(data_set, "train") == [
        ("CH", ["a", "b"], ["x", "z"], [0, 1]),
        ("DE", [], ["y", "x"], [1, 0]),
    ]
    assert lists(data_set, "validation") == [("DE", ["b"], ["z"], [0])]
    # c and d are never seen in training, so they are out of vocabulary; the last three are kept.
    unknown = next(iter(data_set.windows("test")))
    seen = data_set.schema.fields[1]
    encoder = encoding.Encoder(data_set.fitted, [seen])
    expected = encoder({"seen": np.array([["a", "b", "c", "d"]], object)}).numpy()
    np.testing.assert_array_equal(unknown["query"].numpy()[:, 1:], expected)
    assert unknown["ad_row"].numpy().tolist() == [0, 1]


def test_sample_requests_hold_lists_as_lists(tmp_path):
    data_set = shop(tmp_path, SCATTERED, dataclasses.replace(SHOP, split="fold"))
    assert data_set.sample_requests() == [{"country": "CH", "seen": ["a", "b", "c", "d"]}]


def test_impressions_of_ads_whose_fields_changed_are_counted(tmp_path):
    # The price of x is 1 in two rows and 9 in the last, which the catalog keeps.
    text = "".join(f"r{i},CH,,x,{price},{i % 2},\n" for i, price in enumerate([1, 1, 5, 9, 9, 9]))
    text += "".join(f"q{i},CH,,y{i},{i},{i % 2},\n" for i in range(10))
    data_set = shop(tmp_path, text)
    assert data_set.description.impressions_of_changed_ads == 3
    assert data_set.catalog().table["price"].to_pylist()[0] == 9


def test_query_fields_that_vary_within_a_request_are_counted(tmp_path):
    # Request i has countries CH, DE, DE: two rows of each differ from the first, which is kept.
    text = "".join(
        f"r{i},{'CH' if j == 0 else 'DE'},,x{j},1,{int(j == 0)},\n"
        for i in range(10)
        for j in range(3)
    )
    data_set = shop(tmp_path, text)
    assert data_set.description.rows_of_varying_query_fields == {"country": 20}
    assert {country for country, _, _, _ in lists(data_set, "train")} == {"CH"}


@pytest.mark.parametrize("rows_per_chunk", [7, 1000])
def test_requests_with_reused_keys_are_counted_however_the_log_is_cut(tmp_path, rows_per_chunk):
    # Ten keys, of one day in CH by u and of the next in DE by v; the second rows are merged in.
    text = "".join(
        f"r{i},{country},,x{i},1,{i % 2},{user}\n"
        for country, user in (("CH", "u"), ("DE", "v"))
        for i in range(10)
    )
    schema = dataclasses.replace(SHOP, user_key="fold")
    data_set = shop(tmp_path, text, schema, rows_per_chunk=rows_per_chunk)
    assert data_set.description.rows_of_varying_query_fields == {"country": 10}
    assert data_set.description.rows_of_other_users == 10
    assert not hasattr(data_set.description.splits["train"].shards[0], "varying")
    texts = [warning.text for warning in card.build_card(data_set).warnings]
    assert any(text.startswith("50.0 % of the rows have a different user") for text in texts)


def test_fields_may_have_the_names_of_labels_and_counts(tmp_path):
    fields = (
        schema_lib.Field("click", "numeric", "query", column="price", num_buckets=4),
        schema_lib.Field("position", "categorical", "query", column="country", min_count=1),
        schema_lib.Field("ad_id", "categorical", "ad", column="seen", min_count=1),
        schema_lib.Field("impressions", "categorical", "ad", column="sku", min_count=1),
    )
    schema = schema_lib.Schema("names", fields, ("sku",), "clicked")
    text = "".join(f"r{i},C{i % 3},s{i % 5},k{i % 10},{i},{i % 2},\n" for i in range(40))
    data_set = shop(tmp_path, text, schema)
    catalog = data_set.catalog()
    assert catalog.ad_ids.to_pylist() == [f"k{i}" for i in range(10)]
    assert catalog.fields["ad_id"].to_pylist() == [f"s{i % 5}" for i in range(10)]
    assert catalog.impressions.sum() == 32
    window = next(iter(data_set.windows("test")))
    assert window["click"].numpy().tolist() == [0, 1, 0, 1]
    assert data_set.sample_requests()[0] == {"click": 36, "position": "C0"}


def test_numbers_beyond_float32_are_rejected(tmp_path):
    text = "".join(f"r{i},CH,,x{i % 7},{i},{i % 2},\n" for i in range(40)) + "r,CH,,x,1e39,1,\n"
    data_set = shop(tmp_path, text)
    assert data_set.description.source.rejected == 1
    reason = (data_set.directory / "rejected.tsv").read_text().split("\t")[2]
    assert reason == "price must be empty or a number between ±3.4e+38, got 1e+39"


@pytest.mark.parametrize("rows_per_chunk", [5, 100])
def test_a_row_without_its_label_is_rejected_however_the_log_is_cut(tmp_path, rows_per_chunk):
    text = "".join(f"r{i},CH,,x{i % 7},{i},{i % 2},\n" for i in range(40))
    text += "".join(f"q{i},CH,,x,1,,\n" for i in range(10))
    data_set = shop(tmp_path, text, rows_per_chunk=rows_per_chunk, max_rejected_fraction=0.5)
    assert data_set.description.source.rejected == 10


def test_a_file_given_twice_and_files_with_another_split_are_refused(tmp_path):
    rows = "".join(f"r{i},CH,,x{i % 7},{i},{i % 2},\n" for i in range(20))
    (tmp_path / "shop.csv").write_text(HEADER + rows)
    source = {"test_path": (tmp_path / "shop.csv",)}
    with pytest.raises(ValueError, match=r"shop\.csv is given twice"):
        converted(tmp_path / "shop.csv", tmp_path / "data", SHOP, source=source)
    (tmp_path / "test.csv").write_text(HEADER + rows)
    with pytest.raises(ValueError, match="test files were given, and split is 'order'"):
        converted(tmp_path / "shop.csv", tmp_path / "data", SHOP, split="order",
                  source={"test_path": (tmp_path / "test.csv",)})  # fmt: skip


def test_an_unclosed_quote_is_refused_with_its_line(tmp_path):
    text = "".join(f"r{i},CH,,x{i % 7},{i},{i % 2},\n" for i in range(20))
    with pytest.raises(ValueError, match=r"shop\.csv, line 22: the row has an unclosed quote"):
        shop(tmp_path, text + 'r,"CH,,x,1,1,\n' + "q,CH,,x,1,1,\n" * 3)


def test_files_are_splits_and_a_missing_one_is_cut_from_training(tmp_path):
    rows = [f"r{i},CH,,x{i % 7},{i},{i % 2},\n" for i in range(20)]
    for name, part in (("train", rows[:15]), ("test", rows[15:])):
        (tmp_path / f"{name}.csv").write_text(HEADER + "".join(part))
    source = {"test_path": (tmp_path / "test.csv",)}
    data_set = converted(tmp_path / "train.csv", tmp_path / "data", SHOP, source=source,
                         validation_fraction=0.2)  # fmt: skip
    assert [data_set.num_rows(split) for split in SPLITS] == [12, 3, 5]
    assert data_set.description.split.kind == "file"


def test_a_test_file_without_labels_is_converted_without_them(tmp_path):
    rows = logs.rows(60)
    train = logs.write(tmp_path / "train.txt", rows)
    test = logs.write(tmp_path / "test.txt", [row[1:] for row in rows[:9]])
    source = convert.Source(train, logs.FEW_FIELDS, test_path=(test,))
    convert.convert(source, tmp_path / "data")
    data_set = reader.DataSet(tmp_path / "data")
    assert data_set.num_rows("test") == 9
    assert data_set.label_count("test", "click") == 0
    assert np.isnan(next(iter(data_set.windows("test")))["click"].numpy()).all()
    assert list(data_set.clicked("test", 8)) == []


def test_a_training_file_without_labels_is_refused(tmp_path):
    path = logs.write(tmp_path / "train.txt", [row[1:] for row in logs.rows(60)])
    with pytest.raises(ValueError, match=r"no training row has a click label. .*\(--test_path\)"):
        convert.convert(convert.Source(path, logs.FEW_FIELDS), tmp_path / "data")


def test_several_files_are_one_log_in_order(tmp_path):
    rows = logs.rows(40)
    for day in range(4):
        logs.write(tmp_path / f"day_{day}", rows[10 * day : 10 * day + 10])
    days = formats.expand_paths(str(tmp_path))
    assert [path.name for path in days] == ["day_0", "day_1", "day_2", "day_3"]
    whole = logs.converted(logs.write(tmp_path / "whole.txt", rows), tmp_path / "whole")
    convert.convert(convert.Source(days, logs.FEW_FIELDS), tmp_path / "data")
    data_set = reader.DataSet(tmp_path / "data")
    assert data_set.fingerprint == whole.fingerprint
    for split in ("validation", "test"):
        # All held-out rows are in the last file.
        (ours,), (theirs,) = (d.description.splits[split].shards for d in (data_set, whole))
        assert ours.sha256 == theirs.sha256


def test_paths_are_listed_matched_and_sorted_by_number(tmp_path):
    for name in ("day_10", "day_2", "log.csv"):
        (tmp_path / name).write_text("x")
    named = formats.expand_paths(f"{tmp_path}/day_*, {tmp_path}/log.csv")
    assert [path.name for path in named] == ["day_2", "day_10", "log.csv"]
    assert formats.expand_paths(None) == ()
    with pytest.raises(FileNotFoundError, match=r"No file matches .*nothing_\*"):
        formats.expand_paths(f"{tmp_path}/nothing_*")
    with pytest.raises(
        ValueError, match="expected one or more paths, separated by commas, got ' ,'"
    ):
        formats.expand_paths(" ,")


def test_empty_files_of_a_pattern_are_left_out(tmp_path):
    for name, text in (("part-0", "x"), ("part-1", ""), ("part-2", "x")):
        (tmp_path / name).write_text(text)
    named = formats.expand_paths(f"{tmp_path}/part-*")
    assert [path.name for path in named] == ["part-0", "part-2"]
    # An empty file that is named itself is kept; reading it is an error.
    assert formats.expand_paths(f"{tmp_path}/part-1") == (tmp_path / "part-1",)
    assert formats.expand_paths(f"{tmp_path}/*-1") == (tmp_path / "part-1",)


def test_a_request_longer_than_a_chunk_is_one_list(tmp_path):
    text = "".join(f"r{i // 20},CH,,x{i % 9},{i},{int(i % 10 == 0)},\n" for i in range(200))
    data_set = shop(tmp_path, text, rows_per_chunk=7)
    assert sum(data_set.num_requests(split) for split in SPLITS) == 10
    assert {len(ads) for split in SPLITS for _, _, ads, _ in lists(data_set, split)} == {20}


def test_a_small_first_file_of_rejected_rows_does_not_refuse_a_log(tmp_path):
    header = "q,ad,clicked\n"
    (tmp_path / "1.csv").write_text(header + "x,a,\n" * 3)
    (tmp_path / "2.csv").write_text(header + "x,a,1\nx,b,0\n" * 300)
    fields = (
        schema_lib.Field("q", "categorical", "query"),
        schema_lib.Field("ad", "categorical", "ad"),
    )
    schema = schema_lib.Schema("files", fields, ("ad",), "clicked")
    source = convert.Source((tmp_path / "1.csv", tmp_path / "2.csv"), schema, format="tabular")
    convert.convert(source, tmp_path / "data", split="order")
    assert reader.DataSet(tmp_path / "data").description.source.rejected == 3


def test_values_of_a_list_count_once_in_a_row(tmp_path):
    lines = ["q|q|q|q|q|q,a,1", *["n,a,0"] * 59]
    (tmp_path / "log.csv").write_text("tags,ad,clicked\n" + "\n".join(lines))
    fields = (
        schema_lib.Field("tags", "categorical_list", "query", min_count=5),
        schema_lib.Field("ad", "categorical", "ad"),
    )
    schema = schema_lib.Schema("lists", fields, ("ad",), "clicked")
    data_set = logs.converted_table(tmp_path / "log.csv", tmp_path / "data", schema)
    assert data_set.fitted.statistics["tags"].vocabulary == ("n",)


def test_anonymous_rows_are_not_joined_to_a_table_of_users(tmp_path):
    users = ["NA", "u", "v"] * 20
    rows = "".join(f"{user},a,{row % 2}\n" for row, user in enumerate(users))
    (tmp_path / "log.csv").write_text("user,ad,clicked\n" + rows)
    (tmp_path / "users.csv").write_text("user,city\nu,x\nv,x\nNA,wrong\n")
    fields = (
        schema_lib.Field("city", "categorical", "query", min_count=1),
        schema_lib.Field("ad", "categorical", "ad"),
    )
    schema = schema_lib.Schema("users", fields, ("ad",), "clicked", user_key="user")
    data_set = logs.converted(
        tmp_path / "log.csv",
        tmp_path / "data",
        schema,
        users_path=tmp_path / "users.csv",
        format="tabular",
        split="order",
    )
    assert data_set.fitted.statistics["city"].vocabulary == ("x",)


def test_anonymous_rows_on_the_same_line_of_two_files_are_two_users(tmp_path):
    rows = "".join(f",a,{row % 2}\n" for row in range(30))
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("user,ad,clicked\n" + rows)
    fields = (
        schema_lib.Field("user", "categorical", "query"),
        schema_lib.Field("ad", "categorical", "ad"),
    )
    schema = schema_lib.Schema("users", fields, ("ad",), "clicked", user_key="user")
    source = convert.Source((tmp_path / "a.csv", tmp_path / "b.csv"), schema, "tabular")
    convert.convert(source, tmp_path / "data")
    assert reader.DataSet(tmp_path / "data").description.num_users == 60


def test_a_split_by_time_uses_the_earliest_row_of_a_request(tmp_path):
    # The first rows of half of the requests in the log are late.
    rows = [
        f"r{request},{ad},{request + 1_000 * (ad == 'a' and request < 50)},{request % 2}\n"
        for request in range(100)
        for ad in ("a", "b")
    ]
    (tmp_path / "log.csv").write_text("request,ad,time,clicked\n" + "".join(rows))
    fields = (
        schema_lib.Field("request", "categorical", "query"),
        schema_lib.Field("ad", "categorical", "ad"),
    )
    schema = schema_lib.Schema(
        "late", fields, ("ad",), "clicked", request_key="request", time="time"
    )
    data_set = logs.converted_table(tmp_path / "log.csv", tmp_path / "data", schema, split="time")
    order = [data_set.column(split, records.ORDER) for split in ("train", "validation", "test")]
    assert order[0].max() < order[1].min() < order[1].max() < order[2].min()
