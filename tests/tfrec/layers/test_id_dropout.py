"""Id dropout: which ids are hidden, and what replaces them."""

import dataclasses

import logs
import numpy as np
import pytest
import tensorflow as tf

from tfrec import layers, retrieval
from tfrec.layers import dropout
from tfrec.ranking import ranker_training
from tfrecords import encoding
from tfrecords import schema as schema_lib

pytestmark = pytest.mark.slow

# Query columns: seen ×2, user; ad columns: film, year.
FIELDS = (
    schema_lib.Field("seen", "categorical_list", "query", max_list_length=2),
    schema_lib.Field("user", "categorical", "query", column="uid", num_oov_buckets=3),
    schema_lib.Field("film", "categorical", "ad", num_oov_buckets=1),
    schema_lib.Field("year", "numeric", "ad"),
)
STATISTICS = {
    "seen": encoding.FieldStatistics(vocabulary=("a",)),
    "user": encoding.FieldStatistics(vocabulary=("u", "v")),  # ids 1, 2; out-of-vocabulary 3, 4, 5
    "film": encoding.FieldStatistics(vocabulary=("a", "b")),  # ids 1, 2; out-of-vocabulary 3
    "year": encoding.FieldStatistics(boundaries=(1990.0,)),
}


def fitted(fields=FIELDS, ad_key=("film",), user_key="uid"):
    schema = schema_lib.Schema("films", fields, ad_key=ad_key, click="c", user_key=user_key)
    return encoding.FittedSchema(schema, STATISTICS)


def hidden(rate, data=None, **oov_rates):
    dropout = layers.IdDropout(data or fitted(), rate)
    dropout.raise_rates(oov_rates)
    return dropout


def test_a_share_of_users_become_any_out_of_vocabulary_id_and_nothing_else_changes():
    tf.keras.utils.set_random_seed(1)
    ids = np.tile(np.array([[1, 0, 2]], np.int32), (8_000, 1))
    replaced = hidden(0.25).query(tf.constant(ids)).numpy()
    assert (replaced[:, :2] == [1, 0]).all()
    values, counts = np.unique(replaced[:, 2], return_counts=True)
    assert values.tolist() == [2, 3, 4, 5]
    # Three quarters stay, a twelfth becomes each OOV id; five standard errors of 0.005.
    np.testing.assert_allclose(counts / 8_000, [0.75, 1 / 12, 1 / 12, 1 / 12], atol=0.025)


def test_a_missing_value_stays_missing():
    assert hidden(1.0).query(tf.constant([[1, 0, 0]])).numpy().tolist() == [[1, 0, 0]]


def test_missing_values_count_in_no_share():
    # Two of three values are unknown, whatever is missing.
    assert dropout._oov_share(np.array([0, 5, 0, 7, 1]), 5) == pytest.approx(2 / 3)
    assert dropout._oov_share(np.zeros(4, np.int32), 5) == 0.0


def test_ads_with_other_fields_are_hidden():
    assert hidden(1.0).ad(tf.constant([[1, 2], [2, 1]])).numpy().tolist() == [[3, 2], [3, 1]]


def test_ids_of_ads_with_vectors_are_hidden_at_their_own_rate():
    image = schema_lib.Field("image", "dense", "ad", length=2)
    statistics = {**STATISTICS, "image": encoding.FieldStatistics()}
    with_image = encoding.FittedSchema(
        dataclasses.replace(fitted().schema, fields=(*FIELDS, image)), statistics
    )
    rates = layers.IdDropout(with_image, 0.05).rates
    assert rates == {"user": 0.05, "film": 0.5}
    assert layers.IdDropout(with_image, 0.7).rates["film"] == 0.7
    assert layers.IdDropout(with_image, 0.0).rates["film"] == 0.0
    assert layers.IdDropout(fitted(), 0.05).rates["film"] == 0.05
    # The bits of the vector stay as they are.
    ids = layers.IdDropout(with_image, 1.0).ad(tf.constant([[1, 2, 0x3C003800]]))
    assert ids.numpy().tolist() == [[3, 2, 0x3C003800]]


def test_no_ad_id_is_hidden_without_other_fields_or_if_the_key_has_several_fields():
    ids = tf.constant([[1, 2], [2, 1]])
    for data in (fitted(FIELDS[:3]), fitted(ad_key=("film", "year"))):
        width = encoding.width(data.schema.ad_fields)
        replaced = hidden(1.0, data).ad(ids[:, :width])
        assert replaced.numpy().tolist() == ids[:, :width].numpy().tolist()
    query = tf.constant([[1, 0, 2]])
    assert hidden(1.0, fitted(user_key=None)).query(query).numpy().tolist() == [[1, 0, 2]]


def test_fields_are_hidden_at_their_oov_rates_unless_id_dropout_is_off():
    ids, ads = tf.constant([[1, 0, 2]] * 4_000), tf.constant([[1, 2]] * 4_000)
    tf.keras.utils.set_random_seed(2)
    strange = hidden(0.05, user=0.6, film=0.01)
    assert strange.rates == {"user": 0.6, "film": 0.05}
    assert np.mean(strange.query(ids).numpy()[:, 2] != 2) == pytest.approx(0.6, abs=0.04)
    assert np.mean(strange.ad(ads).numpy()[:, 0] == 3) == pytest.approx(0.05, abs=0.02)
    off = hidden(0.0, user=0.6, film=0.01)
    assert off.query(ids).numpy().tolist() == ids.numpy().tolist()
    assert off.ad(ads).numpy().tolist() == ads.numpy().tolist()


def test_fields_of_one_row_become_out_of_vocabulary_together():
    fields = (*FIELDS[:2], dataclasses.replace(FIELDS[1], name="city", column="town"), *FIELDS[2:])
    data = encoding.FittedSchema(
        schema_lib.Schema("films", fields, ad_key=("film",), click="c", user_key="uid"),
        {**STATISTICS, "city": STATISTICS["user"]},
    )
    replaced = hidden(0.05, data, user=0.6, city=0.3).query(tf.constant([[1, 0, 2, 2]] * 4_000))
    user, city = (replaced.numpy()[:, column] > 2 for column in (2, 3))
    assert np.mean(city) == pytest.approx(0.3, abs=0.04)
    assert not (city & ~user).any()


@pytest.fixture(scope="module")
def genres(tmp_path_factory):
    """Users with three tastes, each for a genre of 50 ads; training never shows ten of these."""
    directory = tmp_path_factory.mktemp("genres")
    rng = np.random.default_rng(4)

    def click(user, ad, split):
        return f"u{user},a{50 * (user % 3) + ad},{split}"

    shown = [
        click(user, ad, "train") for user in range(120) for ad in rng.choice(40, 10, replace=False)
    ]
    rng.shuffle(shown)
    held_out = [click(user, rng.integers(40), "validation") for user in range(120)]
    never_shown = [click(user, 40 + rng.integers(10), "test") for user in range(120)]
    log = directory / "log.csv"
    log.write_text("\n".join(["user,ad,split", *shown, *held_out, *never_shown]) + "\n")
    ads = directory / "ads.csv"
    lines = [f"a{ad},g{ad // 50},c{rng.integers(20)}" for ad in range(150)]
    ads.write_text("\n".join(["ad,genre,color", *lines]) + "\n")
    fields = (
        schema_lib.Field("user", "categorical", "query", min_count=1),
        *(schema_lib.Field(n, "categorical", "ad", min_count=1) for n in ("ad", "genre", "color")),
    )
    schema = schema_lib.Schema(
        "genres", fields, ("ad",), click=None, user_key="user", split="split"
    )
    return logs.converted_table(log, directory / "data", schema, ads_path=ads)


@pytest.mark.trains
def test_ads_that_were_never_shown_are_found_by_their_other_fields(
    genres, retrieval_config, tmp_path
):
    config = dataclasses.replace(
        retrieval_config, field_dim=16, epochs=3, batch_size=32, id_dropout=0.1, refit=False
    )
    retrieval.train_two_tower(genres, config, tmp_path)
    model, _ = retrieval.load_two_tower(genres, tmp_path)
    clicks = retrieval.read_clicks(genres, "test")
    found = retrieval.exact_top_k(
        retrieval.embed_in_batches(model.query_tower, clicks.query),
        retrieval.embed_in_batches(model.ad_tower, np.asarray(genres.catalog().features)),
        50,
    )
    # A genre has 50 of the 150 ads: at random, a third would be found.
    assert (found == clicks.ad_rows[:, None]).any(axis=1).mean() > 0.8


@pytest.fixture(scope="module", params=[0, 200, 1_000])
def new_users(request, tmp_path_factory):
    """60 users in training, and 300 in validation, 240 of them new.

    The parameter is the number of the 4,000 training rows whose users are too rare for the
    vocabulary.
    """
    directory = tmp_path_factory.mktemp("new_users")
    rng = np.random.default_rng(7)
    lines = ["user,ad,click,split"]
    for split, users, rows in (("train", 60, 4_000), ("validation", 300, 2_000)):
        drawn = zip(rng.integers(users, size=rows), rng.integers(20, size=rows), strict=True)
        lines += [f"u{user},a{ad},{rng.integers(2)},{split}" for user, ad in drawn]
    for number in range(1, 1 + request.param):
        lines[number] = f"rare{number},{lines[number].split(',', 1)[1]}"
    log = directory / "log.csv"
    log.write_text("\n".join(lines) + "\n")
    fields = [
        schema_lib.Field(name, "categorical", side, min_count=2)
        for name, side in (("user", "query"), ("ad", "ad"))
    ]
    schema = schema_lib.Schema(
        "new_users", tuple(fields), ("ad",), "click", user_key="user", split="split"
    )
    return logs.converted_table(log, directory / "data", schema)


def test_rates_make_up_for_oov_values_that_training_rows_lack(new_users, ranker_config):
    rates = layers.oov_rates(new_users)
    known = next(iter(new_users.windows("train")))["query"].numpy()[:, 0]
    kept = 4 * np.mean(known > 60)
    if kept > 0.8:
        assert not rates
    else:
        # Four standard errors of 2,000 rows, and the share of kept ids magnifies them.
        assert list(rates) == ["user"]
        assert rates["user"] == pytest.approx((0.8 - kept) / (1 - kept), abs=0.05)
    model = ranker_training.build_ranker(new_users, ranker_config, [], [])
    ranker_training.start(model, new_users)
    assert model.id_dropout.rates == {"user": 0.05, **rates}
