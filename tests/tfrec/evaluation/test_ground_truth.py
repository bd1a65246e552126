"""The ground truth of a world whose log is a table: shop, drift and sequence."""

import copy
import dataclasses

import logs
import numpy as np
import pytest

from tfrec import evaluation, retrieval
from tfrec.evaluation import ground_truth
from tfrecords import encoding, histories, reader, synthetic

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["shop", "drift", "sequence"])
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
    queries = np.concatenate([window["query"] for window in windows])
    spaced = retrieval.evenly_spaced(len(queries), ground_truth.MAX_REQUESTS)
    np.testing.assert_array_equal(truth.sample_queries, queries[spaced])
    fields = data_set.schema.query_fields
    logged = [field for field in fields if field.kind != "history"]
    encoded = encoding.Encoder(data_set.fitted, logged).encode_table(truth.sample_requests)
    columns = [
        column
        for field, span in encoding.columns(fields)
        if field in logged
        for column in range(span.start, span.stop)
    ]
    np.testing.assert_array_equal(truth.sample_queries[:, columns], encoded)


def test_the_truth_does_not_depend_on_the_fields_of_the_schema(truth, log, data_set):
    schema = data_set.schema
    left_out = {"user", *(field.name for field in schema.histories)}
    fields = tuple(field for field in schema.fields if field.name not in left_out)
    own = dataclasses.replace(schema, fields=fields, user_key=None, request_key=None)
    data_set = copy.copy(data_set)
    data_set.schema = own
    found = ground_truth.load_ground_truth(log.directory, data_set)
    # The ages are NaN where there was no click.
    logs_of_both = [
        own.log.drop_columns(list(own.world.population.state_columns)) for own in (found, truth)
    ]
    assert logs_of_both[0].equals(logs_of_both[1])
    assert found.sample_requests["time"].equals(truth.sample_requests["time"])


def test_the_state_of_sample_requests_agrees_with_their_histories(truth, data_set):
    if not truth.world.population.state_columns:
        return
    (history,) = data_set.schema.histories
    columns = encoding.history_columns(
        history, dict(encoding.columns(data_set.schema.query_fields))[history]
    )
    ages = ground_truth.query_columns(truth.world, truth.sample_requests)["click_ages"]
    latest = np.nanmin(np.nan_to_num(ages, nan=np.inf), axis=1)
    known = truth.sample_queries[:, columns.values] > 0
    np.testing.assert_array_equal(known.any(axis=1), np.isfinite(latest))
    in_history = np.where(known, truth.sample_queries[:, columns.ages], 999).min(axis=1)
    # An ad without a category (2 % of the ads) leaves no trace in the state.
    same = in_history == histories.age_buckets(latest)
    assert same[known.any(axis=1)].mean() > 0.95
    assert known.any(axis=1).sum() > 30


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
        found = values[head][np.arange(len(first)), ad_rows]
        np.testing.assert_allclose(found, truth.rows[name][first], rtol=1e-9)


def test_the_truth_finds_clicked_ads_better_than_popularity(truth, data_set):
    catalog = data_set.catalog()
    popularity = evaluation.Popularity(catalog.clicks)
    best = ground_truth.recommender(truth, catalog)
    recommenders = {"ground_truth": best, "popularity": popularity}
    history = evaluation.read_history(data_set, ("train", "validation"), len(catalog))
    found = evaluation.compare_recommenders(data_set, recommenders, history).recommenders
    ndcg = {name: found[name].metrics["ndcg_at_10"] for name in recommenders}
    assert ndcg["ground_truth"] > ndcg["popularity"] > 0
    # Users are measured, too, without the ads that they clicked before.
    assert found["ground_truth"].excluding_seen["ndcg_at_10"] > 0
