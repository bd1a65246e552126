"""Evaluation beside the planted truth, and of a log that holds only clicks, or none."""

import dataclasses
import json

import logs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrec import evaluation, planted, ranker_training, retrieval_comparison, retrieval_training
from tfrecords import arrow_file, convert, reader
from tfrecords import schema as schema_lib

PER_CLICK = (*(f"corpus_recall_at_{k}" for k in (10, 50, 100, 500)), "ndcg_at_10")


@pytest.fixture(scope="module")
def models(data_set, trained):
    ranker, calibrators, _ = ranker_training.load(data_set, trained / "ranker")
    two_tower, _ = retrieval_training.load(data_set, trained / "retrieval")
    return evaluation.Models(two_tower, ranker, calibrators)


@pytest.fixture(scope="module")
def report(data_set, models, synthetic_log):
    return evaluation.evaluate(data_set, models, synthetic_log.directory)


def test_the_report_is_json_and_covers_every_head(report, data_set):
    assert json.loads(json.dumps(report)) == report
    assert report["absent_heads"] == []
    assert report["impressions"] == data_set.num_rows("test")
    assert list(report["ranker"]) == ["click", "engagement", "revenue"]


def test_every_ranker_metric_stands_beside_its_ceiling(report):
    for metrics in report["ranker"].values():
        assert metrics["planted"].keys() == metrics.keys() - {"planted", "auc_share_of_achievable"}
    click = report["ranker"]["click"]
    assert 0.5 < click["auc"] < click["planted"]["auc"] < 1.0
    assert click["normalized_entropy"] > click["planted"]["normalized_entropy"]
    assert click["auc_share_of_achievable"] == pytest.approx(
        (click["auc"] - 0.5) / (click["planted"]["auc"] - 0.5)
    )


def test_retrieval_stands_beside_popularity_and_the_planted_optimum(report):
    retrieval = report["retrieval"]
    assert retrieval["num_ads"] == 300
    for name in ("two_tower", "popularity", "planted"):
        recall = [retrieval[name][f"corpus_recall_at_{k}"] for k in (10, 50, 100, 500)]
        assert recall == sorted(recall)
        assert recall[-1] == 1.0  # 500 of 300 ads
        assert recall[0] > retrieval[name]["ndcg_at_10"] > 0
        assert retrieval[name]["catalogue_coverage_at_500"] == 1.0
        assert 0 < retrieval[name]["catalogue_coverage_at_10"] <= 1.0
        assert retrieval[name]["on_never_shown_ads"] is None  # 4,000 impressions show them all
        assert retrieval[name]["on_seen_ads"] == {k: retrieval[name][k] for k in PER_CLICK}
    assert retrieval["num_clicks_on_seen_ads"] == retrieval["num_clicks"]
    assert retrieval["num_clicks_on_never_shown_ads"] == 0
    planted = retrieval["planted"]
    for key in ("corpus_recall_at_50", "ndcg_at_10", "auc_against_uniform_ads"):
        assert planted[key] > retrieval["two_tower"][key]
    assert planted["auc_against_popular_ads"] > 0.5
    assert retrieval["popularity"]["catalogue_coverage_at_10"] == pytest.approx(10 / 300)
    assert retrieval["popularity"]["popularity_percentile_at_10"] > 0.95
    assert 0.5 < retrieval["clicked_popularity_percentile"] < 0.95


def test_the_shares_of_the_achievable_are_those_of_the_planted_truth(report):
    retrieval = report["retrieval"]
    for key, share in (
        ("ndcg_at_10", "ndcg_at_10_share_of_achievable"),
        ("corpus_recall_at_500", "recall_at_500_share_of_achievable"),
    ):
        expected = retrieval["two_tower"][key] / retrieval["planted"][key]
        assert retrieval[share] == pytest.approx(expected)


def test_without_a_user_key_what_needs_users_is_none_and_named(report):
    retrieval = report["retrieval"]
    assert retrieval["item_knn"] is None
    assert retrieval["two_tower"]["excluding_seen"] is None
    assert retrieval["absent"] == {
        "excluding_seen": "the schema names no user_key",
        "item_knn": "the schema names no user_key",
    }


TASTES = schema_lib.Schema(
    "tastes",
    (
        schema_lib.Field("user", "categorical", "query", min_count=1),
        schema_lib.Field("song", "categorical", "ad", min_count=1),
    ),
    ad_key=("song",),
    click=None,
    user_key="user",
)


@pytest.fixture(scope="module")
def tastes(retrieval_config, tmp_path_factory):
    """Clicks of users who like songs of their own half, and a model of it."""
    directory = tmp_path_factory.mktemp("tastes")
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 20)
    songs = np.concatenate([rng.choice(40, 20, replace=False) for _ in range(60)])
    table = pa.table({"user": users, "song": songs + 40 * (users % 2)})
    pq.write_table(table, directory / "tastes.parquet")
    source = convert.Source(directory / "tastes.parquet", TASTES, format="tabular")
    convert.convert(
        source, directory / "data", split="leave_random_fraction_out", test_fraction=0.25
    )
    data_set = reader.DataSet(directory / "data")
    config = dataclasses.replace(retrieval_config, epochs=1)
    retrieval_training.train_and_evaluate(data_set, config, directory / "retrieval")
    two_tower, _ = retrieval_training.load(data_set, directory / "retrieval")
    return data_set, two_tower


def test_with_users_all_recommenders_are_measured_by_both_conventions(tastes):
    report = retrieval_comparison.evaluate(*tastes)
    assert "absent" not in report
    assert report["num_users"] == 60
    assert report["num_clicks"] == 60 * 5
    for name in ("two_tower", "popularity", "item_knn"):
        per_user = report[name]["excluding_seen"]
        # All of a user's five held-out songs are among the 80, and none was clicked before.
        assert per_user["corpus_recall_at_100"] == pytest.approx(1.0)
        # Leaving out what the user knows makes room for what is held out.
        assert per_user["corpus_recall_at_50"] >= report[name]["corpus_recall_at_50"]
    # Of the 20 to 27 songs of the user's half that are left, 10 hold about 10/27 to 10/20 of
    # the five; of both halves' about 65, popularity finds 10/65.
    assert report["item_knn"]["excluding_seen"]["corpus_recall_at_10"] > 0.3
    assert report["popularity"]["excluding_seen"]["corpus_recall_at_10"] < 0.25


def test_fewer_clicks_can_be_measured_one_by_one(tastes):
    report = retrieval_comparison.evaluate(*tastes, max_clicks=7)
    assert report["num_clicks"] == 7
    assert report["num_users"] == 60


def test_no_choice_of_ten_ads_beats_the_best_possible(report):
    ten = report["ten_ads"]
    best = ten["best_possible"]
    assert best == pytest.approx(ten["best_of_the_candidates"])  # every ad is a candidate here
    for chooser in ("retrieval_then_ranker", "retrieval_alone", "popularity", "random"):
        assert ten[chooser] < best
    assert ten["retrieval_then_ranker"] > ten["random"]


def test_the_truth_lines_up_with_the_test_split(data_set, synthetic_log):
    truth = planted.load(synthetic_log.directory, data_set)
    windows = list(data_set.windows("test"))
    clicks = np.concatenate([w["click"] for w in windows])
    np.testing.assert_array_equal(truth.log["label"].to_numpy(), clicks)
    ids = data_set.catalogue().ad_ids.to_pylist()
    rows = np.concatenate([w["ad_row"] for w in windows])
    assert truth.log["C7"].to_pylist() == [ids[row] for row in rows]
    encoded = truth.encode(data_set, truth.sample_requests)
    query = np.concatenate([w["query"] for w in windows])
    np.testing.assert_array_equal(encoded, query[: len(encoded)])
    planted_rows = arrow_file.read(synthetic_log.truth)["click_probability"].to_numpy()
    np.testing.assert_array_equal(truth.rows["click_probability"], planted_rows[-len(clicks) :])


def test_the_planted_click_matrix_agrees_with_the_planted_rows(data_set, synthetic_log):
    truth = planted.load(synthetic_log.directory, data_set)
    first = np.flatnonzero(truth.log["position"].to_numpy() == 0)[:50]
    order = planted.catalogue_order(truth, data_set.catalogue())
    matrix = planted.click_matrix(truth, order, truth.log.take(first))
    ad_rows = np.concatenate([w["ad_row"] for w in data_set.windows("test")])[first]
    np.testing.assert_allclose(
        matrix[np.arange(len(first)), ad_rows], truth.rows["click_probability"][first], rtol=1e-5
    )


def test_a_truth_of_another_log_is_refused(synthetic_log, tmp_path, data_set):
    other = logs.converted(logs.write(tmp_path / "log.tsv", logs.rows(50)), tmp_path / "data")
    with pytest.raises(ValueError, match=r"has 4000 impressions, but the data set .* has 50"):
        planted.load(synthetic_log.directory, other)
    with pytest.raises(FileNotFoundError, match=r"No world at"):
        planted.load(tmp_path, data_set)


@pytest.fixture(scope="module")
def click_only(ranker_config, retrieval_config, tmp_path_factory):
    """A data set with clicks alone and none in its test part, and models of it."""
    directory = tmp_path_factory.mktemp("click_only")
    rows = logs.rows(400)
    for row in rows[360:]:
        row[0] = "0"
    data_set = logs.converted(logs.write(directory / "log.tsv", rows), directory / "data")
    ranker_training.train_and_evaluate(
        data_set, dataclasses.replace(ranker_config, epochs=1), directory / "ranker"
    )
    retrieval_training.train_and_evaluate(
        data_set, dataclasses.replace(retrieval_config, epochs=1), directory / "retrieval"
    )
    ranker, calibrators, _ = ranker_training.load(data_set, directory / "ranker")
    two_tower, _ = retrieval_training.load(data_set, directory / "retrieval")
    return data_set, evaluation.Models(two_tower, ranker, calibrators)


def test_a_test_part_without_clicks_gives_none_where_a_metric_is_undefined(click_only):
    report = evaluation.evaluate(*click_only)
    click = report["ranker"]["click"]
    assert click["auc"] is None
    assert click["normalized_entropy"] is None
    assert click["calibration_ratio"] is None
    assert click["ndcg_at_10_logged_lists"] is None
    assert np.isfinite(click["log_loss"])
    assert report["retrieval"] == {
        "num_ads": report["retrieval"]["num_ads"],
        "num_clicks": 0,
    }
    assert json.loads(json.dumps(report)) == report


def test_a_log_with_clicks_alone_says_which_heads_are_absent(click_only):
    report = evaluation.evaluate(*click_only)
    assert report["absent_heads"] == ["engagement", "revenue"]
    assert list(report["ranker"]) == ["click"]
    assert "ten_ads" not in report


def test_a_log_without_training_or_validation_clicks_cannot_train_retrieval(
    retrieval_config, tmp_path
):
    for name, first, last, message in (
        ("train", 0, 320, "training split of .* has no clicks"),
        ("validation", 320, 360, "validation split of .* has no clicks to measure recall on"),
    ):
        rows = logs.rows(400)
        for row in rows[first:last]:
            row[0] = "0"
        data_set = logs.converted(logs.write(tmp_path / f"{name}.tsv", rows), tmp_path / name)
        with pytest.raises(ValueError, match=message):
            retrieval_training.train_and_evaluate(data_set, retrieval_config, tmp_path / "work")
