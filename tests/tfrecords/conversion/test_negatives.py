"""Sampled negatives: the user's own only if users return, and nothing said of what is held out."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tfrec import ranking, retrieval
from tfrecords import convert, encoding, reader
from tfrecords import schema as schema_lib
from tfrecords.conversion import negatives

NUM_ADS = 12


def sampler(count, users, ad_rows, split, num_ads=NUM_ADS, shown=None):
    catalog = {"ad_uint8": np.arange(num_ads, dtype=np.uint8)[:, None]}
    log = negatives.LoggedRows(
        np.array(users),
        np.array(ad_rows, np.int32),
        np.ones(len(users), bool),
        np.array(split, np.uint8),
        np.arange(len(users)),
        shown,
    )
    return negatives.NegativeSampler(count, catalog, log)


def requests_of(ad_rows):
    rows = np.array(ad_rows, np.int32)
    return {
        "list_lengths": np.ones(len(rows), np.int32),
        "query_uint8": np.arange(len(rows), dtype=np.uint8)[:, None],
        "ad_uint8": rows.astype(np.uint8)[:, None],
        "ad_row": rows,
        "click": np.ones(len(rows), np.uint8),
    }


USERS = np.repeat([100, 200], 6)
ADS = [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9]
# Of user 100 ad 4 is in validation and ad 5 in test, of user 200 ads 8 and 9; nobody clicked ads 10
# and 11.
SPLIT = [0] * 4 + [1, 2] + [0] * 4 + [1, 2]


def drawn(split, rows, count=50):
    made, added = sampler(count, USERS, ADS, SPLIT).extend(
        requests_of(np.array(ADS)[rows]), rows, split, (1, split, 0)
    )
    lengths = made["list_lengths"]
    assert added == lengths.sum() - len(rows)
    np.testing.assert_array_equal(made["ad_uint8"][:, 0], made["ad_row"])
    np.testing.assert_array_equal(made["query_uint8"][:, 0], np.arange(len(rows)))
    lists = np.split(made["ad_row"], np.cumsum(lengths)[:-1])
    clicks = np.split(made["click"], np.cumsum(lengths)[:-1])
    assert [ads[0] for ads in lists] == np.array(ADS)[rows].tolist()
    assert all(c[0] == 1 and not c[1:].any() for c in clicks)
    assert all(len(set(ads.tolist())) == len(ads) for ads in lists)
    return [set(ads[1:].tolist()) for ads in lists]


def test_training_draws_what_others_clicked_in_training_and_may_draw_what_is_held_out():
    first, second = drawn(0, np.array([0, 6]))
    # Clicked in training: 0–3 by user 100, 4–7 by user 200. Held-out ads 4 and 5 of user 100
    # are drawn like any other: leaving them out would tell of them.
    assert first == {4, 5, 6, 7}
    assert second == {0, 1, 2, 3}


def test_held_out_clicks_draw_what_others_clicked_so_far():
    first, second = drawn(1, np.array([4, 10]))
    assert first == {5, 6, 7, 8}  # The test click on ad 5 is not known yet.
    assert second == {0, 1, 2, 3}
    first, second = drawn(2, np.array([5, 11]))
    assert first == {6, 7, 8, 9}
    assert second == {0, 1, 2, 3}


@pytest.mark.parametrize(("repeats", "users_return"), [(1, False), (2, True)])
def test_ads_of_other_requests_are_drawn_if_users_return_to_ads(repeats, users_return):
    # User 1 clicks 10 ads in training; then ad 0 once or twice more. User 2 clicks ad 10.
    ads = [*range(10), *[0] * repeats, 10]
    users = [1] * (10 + repeats) + [2]
    drawing = sampler(50, users, ads, np.zeros(len(ads)))
    made, _ = drawing.extend(requests_of([3]), np.array([3]), 0, (1,))
    assert drawing.users_return is users_return
    expected = set(range(11)) - {3} if users_return else {10}
    assert set(made["ad_row"][1:].tolist()) == expected
    held_out, _ = drawing.extend(requests_of([3]), np.array([3]), 2, (1,))
    assert set(held_out["ad_row"][1:].tolist()) == expected


def test_a_user_of_every_ad_gets_no_negatives():
    users, ads = [1, 1, 2], [0, 1, 0]
    made, added = sampler(5, users, ads, np.zeros(3), num_ads=2).extend(
        requests_of(ads), np.arange(3), 0, (1,)
    )
    assert made["list_lengths"].tolist() == [1, 1, 2]
    assert added == 1
    assert made["ad_row"].tolist() == [0, 1, 0, 1]


def test_drawn_ads_have_the_fields_of_the_time():
    # Ad 0 was shown with 10, 11 and 12 in rows 0, 2 and 4, ad 1 with 20 and 21 in rows 1 and 3;
    # row 4 is held out.
    users, ads = [1, 2, 1, 2, 1], [0, 1, 0, 1, 0]
    shown = {"ad_uint8": np.array([[10], [20], [11], [21], [12]], np.uint8)}
    made = sampler(1, users, ads, [0, 0, 0, 0, 2], num_ads=3, shown=shown)
    train, _ = made.extend(requests_of([0, 1, 0, 1]), np.arange(4), 0, (1,))
    # Row 0 draws ad 1, not shown yet: as it first was. The others: as they last were.
    assert train["ad_row"].tolist() == [0, 1, 1, 0, 0, 1, 1, 0]
    assert train["ad_uint8"][1::2, 0].tolist() == [20, 10, 20, 11]
    held_out, _ = made.extend(requests_of([0]), np.array([4]), 2, (1,))
    assert held_out["ad_uint8"][:, 0].tolist() == [0, 21]


SCHEMA = schema_lib.Schema(
    "plays",
    (
        schema_lib.Field("user", "categorical", "query", min_count=1),
        schema_lib.Field("song", "categorical", "ad", min_count=1),
    ),
    ad_key=("song",),
    click=None,
    time="at",
    user_key="user",
)


@pytest.fixture(scope="module")
def plays(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("plays") / "plays.parquet"
    users, songs = rng.integers(0, 40, 600), rng.integers(0, 60, 600)
    pq.write_table(pa.table({"user": users, "song": songs, "at": np.arange(600)}), path)
    return path


def test_a_log_of_clicks_alone_gets_lists_with_negatives(plays, tmp_path):
    source = convert.Source(plays, SCHEMA, format="tabular")
    convert.convert(source, tmp_path / "data", sampled_negatives=3)
    data_set = reader.DataSet(tmp_path / "data")
    assert data_set.num_requests("train") == 480
    assert data_set.label_sum("train", "click") == 480
    assert data_set.num_rows("train") == 480 * 4
    assert data_set.description.splits["train"].sampled == 480 * 3
    assert data_set.negatives_are_new_to_users
    # Negatives are no impressions: counts are of the log alone.
    assert data_set.catalog().impressions.sum() == 480
    ranking.check_trainable(data_set)


def test_a_log_of_clicks_alone_cannot_train_a_ranker_without_negatives(plays, tmp_path):
    convert.convert(convert.Source(plays, SCHEMA, format="tabular"), tmp_path / "data")
    with pytest.raises(ValueError, match=r"every training row is a click.* --sampled_negatives=N"):
        ranking.check_trainable(reader.DataSet(tmp_path / "data"))


def test_negatives_need_a_user_and_a_count(plays, tmp_path):
    nobody = dataclasses.replace(SCHEMA, user_key=None)
    for schema, count, message in (
        (nobody, 2, "name a user_key in the schema"),
        (SCHEMA, -1, "0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.convert(
                convert.Source(plays, schema, format="tabular"),
                tmp_path / "data",
                sampled_negatives=count,
            )
    assert json.dumps(sorted(p.name for p in tmp_path.iterdir())) in ("[]", '[".data.partial"]')


def test_requests_carry_the_fingerprint_of_their_user(plays, tmp_path):
    source = convert.Source(plays, SCHEMA, format="tabular")
    convert.convert(source, tmp_path / "data", sampled_negatives=2)
    data_set = reader.DataSet(tmp_path / "data")
    clicks = retrieval.read_clicks(data_set, "test")
    # The user is also the query field here: one fingerprint to one encoded value.
    pairs = set(zip(clicks.query[:, 0].tolist(), clicks.user.tolist(), strict=True))
    assert len(pairs) == len(np.unique(clicks.user)) == len(np.unique(clicks.query)) > 20
    names = pq.read_table(plays)["user"].to_pylist()
    known = set(encoding.fingerprint(tf.constant([str(name) for name in names])).numpy().tolist())
    assert set(clicks.user.tolist()) <= known
    # A few are spread over the log, not the first ones.
    few = retrieval.read_clicks(data_set, "test", 7)
    assert few.number.tolist() == [place * len(clicks.user) // 7 for place in range(7)]
    assert few.user.tolist() == clicks.user[few.number].tolist()
    np.testing.assert_array_equal(few.query, clicks.query[few.number])


def test_without_a_user_key_clicks_have_no_user(plays, tmp_path):
    nobody = dataclasses.replace(SCHEMA, user_key=None)
    convert.convert(convert.Source(plays, nobody, format="tabular"), tmp_path / "data")
    data_set = reader.DataSet(tmp_path / "data")
    assert retrieval.read_clicks(data_set, "test").user is None
