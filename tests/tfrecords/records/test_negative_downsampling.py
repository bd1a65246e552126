"""Down-sampled negatives: which rows are left out, and that the true rates are recovered."""

import dataclasses
import math

import logs
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import tensorflow as tf

from tfrec import config as config_lib
from tfrec import exported, ranking
from tfrec.ranking import down_sampling, tasks
from tfrecords import records
from tfrecords import schema as schema_lib

ADS = ("tea", "pot", "cup", "tin")
TRUE_RATES = np.array([0.05, 0.1, 0.2, 0.4])  # of a click
ENGAGED, REVENUE = 0.5, 2.0  # of the clicks; of an engagement
KEPT = 0.1
SCHEMA = schema_lib.Schema(
    "shop",
    (
        schema_lib.Field("country", "categorical", "query"),
        schema_lib.Field("ad", "categorical", "ad"),
    ),
    ad_key=("ad",),
    click="click",
    engagement="engagement",
    revenue="revenue",
)


def table(count):
    rng = np.random.default_rng(0)
    ad = rng.integers(len(ADS), size=count)
    click = rng.random(count) < TRUE_RATES[ad]
    engagement = click & (rng.random(count) < ENGAGED)
    columns = {
        "country": rng.choice(["CH", "DE"], count),
        "ad": np.array(ADS)[ad],
        "click": click.astype(int),
        "engagement": engagement.astype(int),
        "revenue": np.where(engagement, REVENUE, 0.0),
    }
    return pa.table(columns), click


@pytest.fixture(scope="module")
def config(ranker_config):
    return dataclasses.replace(
        ranker_config, num_blocks=0, batch_size=64, epochs=3, patience=3, dropout=0.0
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    pa.csv.write_csv(table(20_000)[0], directory / "log.csv")
    return logs.converted(directory / "log.csv", directory / "data", SCHEMA, format="tabular")


@pytest.fixture(scope="module")
def thinned(tmp_path_factory):
    """A log of the same world that kept a tenth of the unclicked rows before conversion."""
    directory = tmp_path_factory.mktemp("thinned")
    rows, click = table(20_000)
    kept = click | (np.random.default_rng(1).random(len(click)) < KEPT)
    pa.csv.write_csv(rows.filter(pa.array(kept)), directory / "log.csv")
    schema = dataclasses.replace(SCHEMA, negative_keep_rate=KEPT)
    return logs.converted(directory / "log.csv", directory / "data", schema, format="tabular")


def served(data_set, config, directory):
    """Trains, and returns what the exported model serves of each ad."""
    ranking.train_ranker(data_set, config, directory)
    model, calibrators, _ = ranking.load_ranker(data_set, directory)
    catalog = data_set.catalog()
    order = [catalog.ad_ids.to_pylist().index(ad) for ad in ADS]
    ads = np.asarray(catalog.features)[order][None]
    module = exported.RankerModule(data_set.fitted, model, calibrators)
    answer = module.serve(country=tf.constant(["CH"]), ad_features=tf.constant(ads))
    predictions = ranking.predict_split(model, data_set, "test")
    logged = ranking.served_values(predictions, calibrators)
    return {name: v.numpy()[0] for name, v in answer.items()}, predictions, logged


def assert_true_rates(answer):
    # Without correction the rarest click would be served with 0.34, and the mean with 0.7.
    # In the thinned log, the second ad is clicked a quarter more often than its true rate.
    np.testing.assert_allclose(answer["click_probability"], TRUE_RATES, rtol=0.45)
    np.testing.assert_allclose(answer["engagement_probability"], ENGAGED * TRUE_RATES, rtol=0.4)
    expected = REVENUE * ENGAGED * TRUE_RATES
    np.testing.assert_allclose(answer["expected_revenue"], expected, rtol=0.45)
    assert answer["expected_revenue"].sum() == pytest.approx(expected.sum(), rel=0.2)


@pytest.mark.trains
def test_training_on_a_tenth_of_the_unclicked_rows_gives_the_true_rates(whole, config, tmp_path):
    few = dataclasses.replace(config, negative_keep_rate=KEPT)
    answer, predictions, logged = served(whole, few, tmp_path)
    assert_true_rates(answer)
    # Held-out rows are whole.
    assert predictions.labels["click"].mean() == pytest.approx(TRUE_RATES.mean(), rel=0.15)
    assert logged["click_probability"].mean() == pytest.approx(TRUE_RATES.mean(), rel=0.15)


@pytest.mark.trains
def test_a_down_sampled_log_is_served_with_the_true_rates(thinned, config, tmp_path):
    answer, predictions, logged = served(thinned, config, tmp_path)
    assert_true_rates(answer)
    # 18.75 of 100 rows are clicked, and 8.125 of the 81.25 others are kept, which metrics use.
    for observed in (predictions.labels["click"], logged["click_probability"]):
        assert observed.mean() == pytest.approx(18.75 / (18.75 + 8.125), rel=0.1)
    revenue = predictions.labels["revenue"].mean()
    assert logged["expected_revenue"].mean() == pytest.approx(revenue, rel=0.15)


def requests():
    """Three requests of 1, 3 and 2 rows; click of the fourth row is unknown."""
    return {
        "list_lengths": tf.constant([1, 3, 2]),
        "query_uint8": tf.constant([[0], [1], [2]], tf.uint8),
        "ad_uint8": tf.constant([[10], [11], [12], [13], [14], [15]], tf.uint8),
        "ad_row": tf.constant([0, 1, 2, 3, 4, 5]),
        "click": tf.constant([0, 1, 0, 255, 0, 0], tf.uint8),
    }


def test_clicked_and_unlabeled_rows_stay_and_requests_without_rows_go():
    left = records.thin_unclicked(requests(), 1e-9, tf.constant([1, 0]))
    assert left["list_lengths"].numpy().tolist() == [2]
    assert left["query_uint8"].numpy().tolist() == [[1]]
    assert left["ad_uint8"].numpy().tolist() == [[11], [13]]
    assert left["ad_row"].numpy().tolist() == [1, 3]
    assert left["click"].numpy().tolist() == [1, 255]
    whole = records.thin_unclicked(requests(), 1.0, tf.constant([1, 0]))
    for name, values in requests().items():
        np.testing.assert_array_equal(whole[name], values)


def rows_of(data_set, seed):
    batches = list(data_set.batches_of_like_lists("train", 512, seed, KEPT))
    shown = [
        np.stack([b["query"].numpy()[:, 0], b["ad_row"].numpy()[:, 0], b["click"].numpy()[:, 0]])
        for b in batches
    ]
    return np.concatenate(shown, axis=1)


def test_an_epoch_has_all_clicks_and_a_share_of_the_other_rows_by_its_seed(whole):
    first, again, other = rows_of(whole, 3), rows_of(whole, 3), rows_of(whole, 4)
    clicks, rows = whole.label_sum("train", "click"), whole.num_rows("train")
    assert (first[2] == 1).sum() == (other[2] == 1).sum() == clicks
    # Binomial: 13,000 unclicked rows, a tenth of them kept, with a deviation of 34.
    assert (first[2] == 0).sum() == pytest.approx(KEPT * (rows - clicks), abs=140)
    assert sorted(first.T.tolist()) == sorted(again.T.tolist())
    assert sorted(first.T.tolist()) != sorted(other.T.tolist())


def test_losses_of_a_sample_are_those_of_all_rows_given_that_a_row_was_kept():
    batch = {
        "mask": tf.constant([[True, True, True]]),
        "click": tf.constant([[1.0, 0.0, math.nan]]),
        "engagement": tf.constant([[1.0, 0.0, math.nan]]),
        "revenue": tf.constant([[0.0, 0.0, 0.0]]),
    }
    zeros = tf.zeros([1, 3])
    logits = {"click": zeros, "engagement": zeros, "revenue": tf.zeros([1, 3, 3])}

    def loss(head):
        return tasks.mean(tasks.task_of(head)(*tasks.labeled_rows(head, batch, logits, 0.25)))

    # Odds 1 among all rows are odds 4 among those kept: p = 4/5 of a click, 2/5 of both.
    click = -(math.log(4 / 5) + math.log(1 / 5)) / 2
    engagement = -(math.log(2 / 5) + math.log(3 / 5)) / 2
    assert float(loss("click")) == pytest.approx(click, rel=1e-6)
    assert float(loss("engagement")) == pytest.approx(engagement, rel=1e-6)


def test_down_sampling_is_undone_in_probabilities_and_amounts():
    # Odds of 1 among kept rows are odds of 0.1 among all: 1/11. Engagement and revenue shrink by
    # the same factor, 2/11.
    answer = down_sampling.undo_down_sampling(
        {
            "click_probability": tf.constant([[0.5, 0.0, 1.0]]),
            "expected_revenue": tf.constant([[3.0, 3.0, 3.0]]),
        },
        0.1,
    )
    np.testing.assert_allclose(answer["click_probability"], [[1 / 11, 0.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(answer["expected_revenue"], [[6 / 11, 0.3, 3.0]], rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, -0.5, 1.5, math.nan])
def test_a_keep_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(
        ValueError, match=r"negative_keep_rate: expected a number > 0 and <= 1, got"
    ):
        config_lib.RankerConfig(negative_keep_rate=rate)
    with pytest.raises(ValueError, match="negative_keep_rate must be above 0 and at most 1"):
        dataclasses.replace(SCHEMA, negative_keep_rate=rate)


def test_a_keep_rate_needs_a_click_column():
    with pytest.raises(ValueError, match="negative_keep_rate needs a click column"):
        dataclasses.replace(SCHEMA, click=None, negative_keep_rate=0.5)


def test_only_a_keep_rate_below_1_is_written():
    assert "negative_keep_rate" not in SCHEMA.to_json()
    thinned = dataclasses.replace(SCHEMA, negative_keep_rate=KEPT)
    assert schema_lib.schema_from_json(thinned.to_json()) == thinned
    assert thinned.fingerprint() != SCHEMA.fingerprint()
