"""The ground truth of a world whose log is a table: shop and drift."""

import dataclasses

import logs
import numpy as np
import pytest

from tfrec import evaluation
from tfrec.evaluation import ground_truth, realized
from tfrecords import reader, synthetic


@pytest.fixture(scope="module", params=["shop", "drift"])
def log(request, tmp_path_factory):
    config = dataclasses.replace(synthetic.WORLDS[request.param], num_users=200, num_ads=150)
    return synthetic.write_log(tmp_path_factory.mktemp("log"), 3_000, config)


@pytest.fixture(scope="module")
def data_set(log, tmp_path_factory):
    directory = tmp_path_factory.mktemp("converted") / "data"
    schema = synthetic.load_world(log.directory).schema
    logs.converted(log.log, directory, schema, format=log.format, ads_path=log.ads)
    return reader.DataSet(directory)


@pytest.fixture(scope="module")
def truth(log, data_set):
    return ground_truth.load_ground_truth(log.directory, data_set)


def test_the_truth_lines_up_with_the_test_split(truth, data_set):
    windows = list(data_set.windows("test"))
    clicks = np.concatenate([window["click"] for window in windows])
    np.testing.assert_array_equal(truth.log["clicked"].to_numpy(), clicks)
    encoded = truth.encode(data_set, truth.log)
    starts = np.concatenate([window["query"] for window in windows])
    first = truth.log["position"].cast("int64").to_numpy() == 0
    np.testing.assert_array_equal(encoded[first], starts)


def test_the_values_of_all_ads_are_those_of_the_log(truth, data_set):
    first = np.flatnonzero(truth.log["position"].cast("int64").to_numpy() == 0)
    order = ground_truth.catalog_order(truth, data_set.catalog())
    values = ground_truth.value_matrices(truth, order, truth.log.take(first))
    ad_rows = np.concatenate([window["ad_row"] for window in data_set.windows("test")])[first]
    for head, name in (
        ("click", "click_probability"),
        ("engagement", "engagement_probability"),
        ("revenue", "expected_revenue"),
    ):
        own = values[head][np.arange(len(first)), ad_rows]
        np.testing.assert_allclose(own, truth.rows[name][first], rtol=1e-9)


def test_ads_in_the_first_position_are_worth_what_the_matrix_says(truth, data_set):
    order = ground_truth.catalog_order(truth, data_set.catalog())
    requests = truth.sample_requests.slice(0, 5)
    shown = realized.shown(truth, order, requests, np.tile([7, 3], (5, 1)))
    values = ground_truth.value_matrices(truth, order, requests)
    np.testing.assert_allclose(shown.click[:, 0], values["click"][:, 7], rtol=1e-9)


def test_the_truth_finds_clicked_ads_better_than_popularity(truth, data_set):
    catalog = data_set.catalog()
    popularity = evaluation.Popularity(catalog.clicks)
    best = ground_truth.recommender(truth, catalog)
    recommenders = {"ground_truth": best, "popularity": popularity}
    history = evaluation.read_history(data_set, ("train", "validation"), len(catalog))
    found = evaluation.compare_recommenders(data_set, recommenders, history).recommenders
    own = {name: found[name].metrics["ndcg_at_10"] for name in recommenders}
    assert own["ground_truth"] > own["popularity"] > 0
    # Users are measured, too, without the ads that they clicked before.
    assert found["ground_truth"].excluding_seen["ndcg_at_10"] > 0
