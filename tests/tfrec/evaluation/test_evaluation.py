"""Evaluation with ground truth, and of logs with clicks only or without clicks."""

import dataclasses
import functools
import json

import logs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrec import calibration, config, evaluation, metrics, ranking, retrieval, training
from tfrec.evaluation import (
    baselines,
    candidates,
    ground_truth,
    retrieval_comparison,
)
from tfrec.retrieval import retrieval_training
from tfrecords import convert, encoding, reader, records, schema

pytestmark = pytest.mark.trains

RECALL = tuple(f"corpus_recall_at_{k}" for k in (10, 20, 50, 100, 500))
PER_CLICK = (*RECALL, "ndcg_at_10", "ndcg_at_20")


@pytest.fixture(scope="module")
def models(data_set, trained):
    ranker, calibrators, _ = ranking.load_ranker(data_set, trained / "ranker")
    two_tower, _ = retrieval_training.load_two_tower(data_set, trained / "retrieval")
    return evaluation.Models(two_tower, ranker, calibrators)


@pytest.fixture(scope="module")
def report(data_set, models, synthetic_log):
    return evaluation.evaluate(data_set, models, synthetic_log.directory)


def test_the_report_is_read_as_it_was_written_and_covers_every_head(report, data_set):
    text = json.dumps(report.to_json())
    assert evaluation.EvaluationReport.model_validate_json(text) == report
    assert report.absent_heads == []
    assert report.impressions == data_set.num_rows("test")
    assert list(report.ranker) == ["click", "engagement", "revenue"]


def test_a_report_for_a_manifest_leaves_out_segments_and_curves(report):
    assert report.to_json().keys() - report.summary().keys() == {"segments", "curves"}


def test_every_ranker_metric_has_a_ceiling(report):
    for quality in report.ranker.values():
        share = quality.metrics["auc_share_of_achievable"]
        low, high = share.interval
        assert low < share.value < high
        for name, estimate in quality.metrics.items():
            if name != "auc_share_of_achievable":
                assert (estimate.ground_truth is None) == (estimate.value is None)
    click = report.ranker["click"].metrics
    auc = click["auc"]
    assert 0.5 < auc.value < auc.ground_truth < 1.0
    assert click["normalized_entropy"].value > click["normalized_entropy"].ground_truth
    assert click["auc_share_of_achievable"].value == pytest.approx(
        (auc.value - 0.5) / (auc.ground_truth - 0.5)
    )


def test_the_ceiling_of_the_auc_of_revenue_ranks_by_the_true_probability(
    report, data_set, synthetic_log
):
    """Expected revenue is a poorer order of the rows with revenue, so its AUC is no ceiling."""
    truth = ground_truth.load_ground_truth(synthetic_log.directory, data_set)
    revenue = np.concatenate([w["revenue"] for w in data_set.windows("test")])
    ceiling = metrics.auc(revenue, truth.rows["engagement_probability"])
    auc = report.ranker["revenue"].metrics["auc"]
    assert auc.ground_truth == pytest.approx(ceiling)
    assert ceiling > metrics.auc(revenue, truth.rows["expected_revenue"])
    share = report.ranker["revenue"].metrics["auc_share_of_achievable"].value
    assert share == pytest.approx((auc.value - 0.5) / (ceiling - 0.5))


def test_retrieval_is_compared_with_popularity_and_the_ground_truth(report):
    comparison = report.retrieval
    assert comparison.num_ads == 300
    assert list(comparison.recommenders) == ["two_tower", "popularity", "ground_truth", "random"]
    chance = comparison.recommenders["random"]
    assert chance.metrics["corpus_recall_at_10"] == 10 / 300
    measured = list(comparison.recommenders.values())[:-1]
    for quality in measured:
        values = quality.metrics
        recall = [values[name] for name in RECALL]
        assert recall == sorted(recall)
        assert recall[-1] == 1.0  # 500 of 300 ads
        assert recall[0] > values["ndcg_at_10"] > 0
        assert values["catalog_coverage_at_500"] == 1.0
        assert 0 < values["catalog_coverage_at_10"] <= 1.0
        assert quality.on_unseen_ads is None  # 4,000 impressions show them all
        assert quality.on_seen_ads == {k: values[k] for k in PER_CLICK}
    assert comparison.num_clicks_on_unseen_ads == 0
    two_tower, popularity, best = (quality.metrics for quality in measured)
    for key in ("corpus_recall_at_50", "ndcg_at_10", "auc_against_uniform_ads"):
        assert best[key] > two_tower[key]
    assert best["auc_against_popular_ads"] > 0.5
    assert popularity["catalog_coverage_at_10"] == pytest.approx(10 / 300)
    assert popularity["popularity_percentile_at_10"] > 0.95
    assert 0.5 < comparison.clicked_popularity_percentile < 0.95
    assert comparison.share_of_achievable == pytest.approx(
        {key: two_tower[key] / best[key] for key in ("corpus_recall_at_500", "ndcg_at_10")}
    )


def test_without_a_user_key_measures_of_users_are_listed_as_absent(report):
    assert "item_knn" not in report.retrieval.recommenders
    assert report.retrieval.recommenders["two_tower"].excluding_seen is None
    assert report.retrieval.absent == {
        "excluding_seen": "the schema names no user_key",
        "item_knn": "the schema names no user_key",
        "ease": "the schema names no user_key",
    }


TASTES = schema.Schema(
    "tastes",
    (
        schema.Field("user", "categorical", "query", min_count=1),
        schema.Field("song", "categorical", "ad", min_count=1),
    ),
    ad_key=("song",),
    click=None,
    user_key="user",
)


@pytest.fixture(scope="module")
def tastes(retrieval_config, tmp_path_factory):
    """Clicks of users who like songs of their own half, and an untrained model of it."""
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
    return data_set, retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())


def test_with_users_all_recommenders_are_measured_by_both_conventions(tastes):
    report = evaluation.evaluate_retrieval(*tastes)
    assert report.absent == {}
    assert report.num_users == 60
    assert report.num_clicks == 60 * 5
    measured = ["two_tower", "popularity", "item_knn", "ease"]
    assert list(report.recommenders) == [*measured, "random"]
    for quality in (report.recommenders[name] for name in measured):
        # All of a user's five held-out songs are among the 80, and none was clicked before.
        assert quality.excluding_seen["corpus_recall_at_100"] == pytest.approx(1.0)
        # Leaving out what the user knows makes room for what is held out.
        by_user = quality.excluding_seen["corpus_recall_at_50"]
        assert by_user >= quality.metrics["corpus_recall_at_50"]
    # Of the 20 to 27 songs of the user's half that are left, 10 hold about 10/27 to 10/20 of
    # the five; of both halves' about 65, popularity finds 10/65.
    for name in ("item_knn", "ease"):
        assert report.recommenders[name].excluding_seen["corpus_recall_at_10"] > 0.3
    assert report.recommenders["popularity"].excluding_seen["corpus_recall_at_10"] < 0.25


def test_own_clicks_are_a_baseline_if_users_return_to_ads(retrieval_config, tmp_path):
    # Each user plays 20 of 80 songs, some often.
    rng, often = np.random.default_rng(0), 0.8 ** np.arange(20)
    songs = [
        rng.choice(rng.choice(80, 20, replace=False), 50, p=often / often.sum()) for _ in range(60)
    ]
    table = pa.table({"user": np.repeat(np.arange(60), 50), "song": np.concatenate(songs)})
    pq.write_table(table, tmp_path / "plays.parquet")
    source = convert.Source(tmp_path / "plays.parquet", TASTES, format="tabular")
    convert.convert(source, tmp_path / "data", split="leave_random_fraction_out")
    data_set = reader.DataSet(tmp_path / "data")
    two_tower = retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())
    found = evaluation.evaluate_retrieval(data_set, two_tower).recommenders
    own_clicks, neighbors = (
        found[n].metrics["corpus_recall_at_10"] for n in ("own_clicks", "item_knn")
    )
    assert own_clicks > neighbors + 0.2


def clicks_in_ten(tastes):
    data_set, two_tower = tastes
    funnel = evaluation.evaluate_whole_system(
        data_set, evaluation.Models(two_tower), None, None, config.EvaluationConfig(resamples=20)
    )
    return funnel


def test_the_funnel_leaves_out_clicked_ads_if_users_do_not_click_again(tastes):
    funnel = clicks_in_ten(tastes)
    assert funnel.leaves_out_seen
    assert funnel.clicks == 300
    # Each of 60 users clicked 15 of 80 songs before, so 10 of the other 65 are drawn at random.
    assert funnel.baselines["random_10"].value == pytest.approx(10 / 65)
    # All are candidates, and without a ranker the ten are those of retrieval.
    assert funnel.survived["tower"].value == 1.0
    assert funnel.survived["retrieval_order"] == funnel.baselines["retrieval_top_10"]
    # Held-out songs make up 5 of a user's 25 new songs of the own half, and 0 of the other 40.
    popular = funnel.baselines["popularity_top_10"]
    assert popular.interval[0] < popular.value < popular.interval[1]
    assert 0.05 < popular.value < 0.3


def test_the_funnel_keeps_clicked_ads_if_users_click_again(tastes, monkeypatch):
    leaving_out = clicks_in_ten(tastes)
    monkeypatch.setattr(retrieval.HeldOut, "leaves_out_seen", False)
    funnel = clicks_in_ten(tastes)
    assert not funnel.leaves_out_seen
    assert funnel.baselines["random_10"].value == pytest.approx(10 / 80)
    assert funnel.clicks == leaving_out.clicks


def test_ads_that_were_shown_are_ordered_by_ranker_tower_and_popularity(report, data_set, models):
    orders = report.order_of_shown_ads
    assert list(orders) == ["ranker", "two_tower", "popularity"]
    click = report.ranker["click"].metrics
    for name, estimate in orders["ranker"].items():
        assert estimate.value == click[name].value
    assert orders["ranker"]["per_user_auc"].absent == "the schema names no user_key"
    windows = list(data_set.windows("test"))
    clicks, rows = (np.concatenate([w[name] for w in windows]) for name in ("click", "ad_row"))
    queries = np.concatenate([w["query"] for w in windows])
    owner = np.repeat(np.arange(len(queries)), np.concatenate([w["list_lengths"] for w in windows]))
    query = models.two_tower.embed_queries(queries, {"click": 1.0})[owner]
    ad = retrieval.embed_in_batches(models.two_tower.ad_tower, data_set.catalog().features[rows])
    expected = metrics.auc(clicks, (query * ad).sum(axis=1))
    assert orders["two_tower"]["auc"].value == pytest.approx(expected, abs=1e-6)
    known = retrieval.with_validation_clicks(data_set, data_set.catalog()).clicks
    assert orders["popularity"]["auc"].value == pytest.approx(metrics.auc(clicks, known[rows]))


def test_ease_is_left_out_of_large_catalogs_and_named(tastes, monkeypatch):
    monkeypatch.setattr(baselines, "MAX_ADS_OF_EASE", 79)
    monkeypatch.delattr(baselines, "Ease")  # not even built: it needs 8 N² bytes
    report = evaluation.evaluate_retrieval(*tastes, max_clicks=7)
    assert "ease" not in report.recommenders
    assert report.absent == {"ease": "the catalog has more than 79 ads"}


def test_fewer_clicks_can_be_measured_one_by_one(tastes):
    report = evaluation.evaluate_retrieval(*tastes, max_clicks=7)
    assert report.num_clicks == 7
    assert report.num_users == 60


def test_recall_under_uniform_exposure_is_compared_with_the_truth(
    report, data_set, models, synthetic_log, monkeypatch
):
    everything = report.retrieval.uniform_exposure
    assert everything.share_of_achievable.value == 1.0  # 500 of 300 ads
    monkeypatch.setattr(retrieval_comparison, "NUM_CANDIDATES", 30)
    truth = ground_truth.load_ground_truth(synthetic_log.directory, data_set)
    catalog = data_set.catalog()
    tower = evaluation.recommender_of(models.two_tower, catalog)
    order = ground_truth.catalog_order(truth, catalog)
    click = ground_truth.value_matrices(truth, order, truth.sample_requests)["click"]
    recommenders = {
        "two_tower": tower,
        "revealed": lambda queries: click[queries.number],
        "hidden": lambda queries: -click[queries.number],
    }
    seven = functools.partial(retrieval.query_chunks, max_scores=7 * 300)
    monkeypatch.setattr(retrieval, "query_chunks", seven)
    measured = retrieval_comparison.recall_under_uniform_exposure(
        truth, data_set, recommenders, config.EvaluationConfig(resamples=10)
    )
    recall = {name: estimate.value for name, estimate in measured.corpus_recall_at_500.items()}
    assert measured.requests == len(click)
    best = np.sort(click, axis=1)[:, -30:].sum() / click.sum()
    assert recall["ground_truth"] == recall["revealed"] == pytest.approx(best)
    assert recall["hidden"] == pytest.approx(np.sort(click, axis=1)[:, :30].sum() / click.sum())
    assert recall["hidden"] < recall["two_tower"] < best
    share = measured.share_of_achievable
    assert share.value == pytest.approx(recall["two_tower"] / best)
    assert share.interval[0] < share.value < share.interval[1]


def test_all_ads_are_scored_as_candidates_are(data_set, models, monkeypatch):
    monkeypatch.setattr(candidates, "NUM_CANDIDATES", 128)  # 300 ads are three lists
    queries = np.concatenate([w["query"] for w in data_set.windows("test")])[:3]
    setting = (data_set, models.ranker, models.calibrators, models.heads.weights, queries)
    scores = candidates.score_all_ads(*setting)
    rows = np.array([[0, 299], [127, 128], [255, 256]])
    scored = candidates.score(*setting, candidates.Candidates(rows, rows, rows))
    assert list(scores) == list(scored.scores) == ["click", "engagement", "revenue"]
    for head, values in scores.items():
        assert values.shape == (3, 300)
        np.testing.assert_allclose(
            np.take_along_axis(values, rows, axis=1), scored.scores[head], rtol=1e-5
        )


def test_if_every_ad_is_a_candidate_no_tower_could_return_more(report):
    for utility in report.funnel.utilities.values():
        ranker = utility.over_all_ads
        assert ranker.requests == report.funnel.requests
        assert ranker.ranker.value == pytest.approx(utility.returned.value)
        assert ranker.share_of_ranker.value == pytest.approx(1.0)
        # Two matrix products of one matrix, with rows in another order.
        assert ranker.best_possible.value == pytest.approx(utility.best_possible.value)
        for known in utility.head_known.values():
            assert known.value < utility.best_possible.value + 1e-9
    assert list(report.funnel.utilities["utility"].head_known) == ["click", "engagement", "revenue"]
    # With one head, to know it is to know the order.
    click = report.funnel.utilities["click"]
    assert click.head_known["click"].value == pytest.approx(click.best_possible.value)


def test_the_losses_of_the_funnel_add_up(report):
    funnel = report.funnel
    assert (funnel.truth, funnel.ads, funnel.candidates) == ("ground truth", 300, 300)
    assert (funnel.index, funnel.filters) == ("exact search", None)
    for utility in funnel.utilities.values():
        lost = {stage: loss.value for stage, loss in utility.lost.items()}
        assert sum(lost.values()) == pytest.approx(
            utility.best_possible.value - utility.returned.value
        )
        assert lost["tower"] == pytest.approx(0.0)  # every ad is a candidate here
        assert lost["index"] == lost["filters"] == 0.0
        assert lost["ranker"] > 0.0
    assert funnel.utilities["click"].lost["calibration"].value == pytest.approx(0.0)
    ndcg = funnel.ndcg_at_10_retrieved_lists
    assert set(ndcg) == {"click", "engagement", "revenue", "utility"}
    assert all(0 < estimate.value < 1 for estimate in ndcg.values())


def test_the_value_of_ten_ads_is_between_random_and_optimal(report, data_set, synthetic_log):
    truth = ground_truth.load_ground_truth(synthetic_log.directory, data_set)
    catalog = data_set.catalog()
    order = ground_truth.catalog_order(truth, catalog)
    clicks = ground_truth.value_matrices(truth, order, truth.sample_requests)["click"]
    popular = retrieval.most_clicked(data_set, catalog, 10)
    for utility in report.funnel.utilities.values():
        assert list(utility.baselines) == ["retrieval_top_10", "popularity_top_10", "random_10"]
        best = utility.best_possible.value
        assert utility.baselines["random_10"].value < utility.returned.value < best
        assert utility.baselines["retrieval_top_10"].value < best
    baselines = report.funnel.utilities["click"].baselines
    assert baselines["random_10"].value == pytest.approx(10 * clicks.mean())
    mean = clicks[:, popular].sum(axis=1).mean()
    assert baselines["popularity_top_10"].value == pytest.approx(mean)


def test_quality_is_measured_by_advertiser_position_and_new_ads(report, data_set):
    segments = report.segments
    # The 300 ads have 20 advertisers (C13) and 10 categories (C17), nearest to √300 = 17.3.
    assert segments.by == ["C13", "C17", "ads", "position"]
    assert segments.absent == {}
    assert list(segments.heads) == ["click", "engagement"]
    for cuts in segments.heads.values():
        assert list(cuts) == segments.by
        for parts in cuts.values():
            assert sum(segment.rows for segment in parts) == data_set.num_rows("test")
    first = segments.heads["click"]["position"][0]
    assert first.value == "0"
    assert first.rows == data_set.num_requests("test")


def test_segments_by_unknown_fields_are_refused(data_set, models):
    wrong = config.EvaluationConfig(segment_fields="C8,I10", resamples=2)
    message = r"segment_fields: expected categorical fields of the ad side \(C7, .*\), got 'I10'"
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(data_set, models, config=wrong)


def test_a_worse_index_and_filters_are_charged_with_their_losses(data_set, models, synthetic_log):
    def open_index(ads):
        rows = np.arange(len(ads))
        return evaluation.CandidateIndex(
            "every second ad",
            lambda queries, k: np.tile(rows[::2], (len(queries), 1)),
            "the first 20 ads",
            lambda queries, k: np.tile(rows[:20], (len(queries), 1)),
        )

    plain = config.EvaluationConfig(resamples=2)
    truth = ground_truth.load_ground_truth(synthetic_log.directory, data_set)
    funnel = evaluation.evaluate_whole_system(data_set, models, truth, open_index, plain)
    utility = funnel.utilities["click"]
    lost = {stage: loss.value for stage, loss in utility.lost.items()}
    assert lost["index"] > 0
    assert lost["filters"] > lost["index"]
    assert sum(lost.values()) == pytest.approx(utility.best_possible.value - utility.returned.value)
    assert (funnel.index, funnel.filters) == ("every second ad", "the first 20 ads")
    clicks = evaluation.evaluate_whole_system(data_set, models, None, open_index, plain)
    assert clicks.truth == "held-out clicks"
    assert clicks.clicks == data_set.label_sum("test", "click")
    survived = [share.value for share in clicks.survived.values()]
    assert list(clicks.survived) == ["tower", "index", "filters", "ranker"]
    assert survived[0] == 1.0
    assert 1.0 > survived[1] > survived[2] >= survived[3] > 0.0
    assert sum(loss.value for loss in clicks.lost.values()) == pytest.approx(1.0 - survived[3])
    assert clicks.baselines["random_10"].value == pytest.approx(10 / 300)
    assert not clicks.leaves_out_seen  # the log names no users
    # The weights of the heads are equal, so clicks alone give another order.
    others = ["ranker_by_click_alone", "retrieval_top_10", "popularity_top_10", "random_10"]
    assert list(clicks.baselines) == others


def test_the_truth_lines_up_with_the_test_split(data_set, synthetic_log):
    truth = ground_truth.load_ground_truth(synthetic_log.directory, data_set)
    windows = list(data_set.windows("test"))
    clicks = np.concatenate([w["click"] for w in windows])
    np.testing.assert_array_equal(truth.log["label"].to_numpy(), clicks)
    ids = data_set.catalog().ad_ids.to_pylist()
    rows = np.concatenate([w["ad_row"] for w in windows])
    assert truth.log["C7"].to_pylist() == [ids[row] for row in rows]
    query = np.concatenate([w["query"] for w in windows])
    spaced = retrieval.evenly_spaced(len(query), ground_truth.MAX_REQUESTS)
    np.testing.assert_array_equal(truth.sample_queries, query[spaced])
    encoder = encoding.Encoder(data_set.fitted, data_set.schema.query_fields)
    encoded = encoder.encode_table(truth.sample_requests)
    np.testing.assert_array_equal(encoded, truth.sample_queries)
    true_rows = records.read_arrow(synthetic_log.truth)["click_probability"].to_numpy()
    np.testing.assert_array_equal(truth.rows["click_probability"], true_rows[-len(clicks) :])


def test_the_requests_of_the_funnel_are_spread_over_the_whole_split(
    data_set, synthetic_log, monkeypatch
):
    monkeypatch.setattr(ground_truth, "MAX_REQUESTS", 10)
    truth = ground_truth.load_ground_truth(synthetic_log.directory, data_set)
    in_log = list(dict.fromkeys(truth.log["request_id"].to_pylist()))
    sampled = [in_log.index(key) for key in truth.sample_requests["request_id"].to_pylist()]
    assert len(in_log) > 50
    assert sampled == [i * len(in_log) // 10 for i in range(10)]


def test_the_true_values_of_all_ads_agree_with_those_of_the_log(data_set, synthetic_log):
    truth = ground_truth.load_ground_truth(synthetic_log.directory, data_set)
    first = np.flatnonzero(truth.log["position"].to_numpy() == 0)[:50]
    order = ground_truth.catalog_order(truth, data_set.catalog())
    matrix = ground_truth.value_matrices(truth, order, truth.log.take(first))["click"]
    ad_rows = np.concatenate([w["ad_row"] for w in data_set.windows("test")])[first]
    np.testing.assert_allclose(
        matrix[np.arange(len(first)), ad_rows], truth.rows["click_probability"][first], rtol=1e-5
    )


def test_a_truth_of_another_log_is_refused(synthetic_log, tmp_path, data_set):
    other = logs.converted(logs.write(tmp_path / "log.tsv", logs.rows(50)), tmp_path / "data")
    with pytest.raises(ValueError, match=r"has 4000 impressions, but the data set .* has 50"):
        ground_truth.load_ground_truth(synthetic_log.directory, other)
    with pytest.raises(FileNotFoundError, match=r"No world at"):
        ground_truth.load_ground_truth(tmp_path, data_set)


@pytest.fixture(scope="module")
def click_only(ranker_config, retrieval_config, tmp_path_factory):
    """A data set with clicks alone and none in its test part, and untrained models of it."""
    directory = tmp_path_factory.mktemp("click_only")
    rows = logs.rows(400)
    for row in rows[360:]:
        row[0] = "0"
    data_set = logs.converted(logs.write(directory / "log.tsv", rows), directory / "data")
    ranker = ranking.build_ranker(data_set, dataclasses.replace(ranker_config, num_blocks=0))
    two_tower = retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())
    return data_set, evaluation.Models(two_tower, ranker, calibration.Calibrators())


@pytest.fixture(scope="module")
def click_only_report(click_only):
    return evaluation.evaluate(*click_only)


def test_a_test_split_without_clicks_has_no_value_for_undefined_metrics(click_only_report):
    report = click_only_report
    click = report.ranker["click"].metrics
    assert {name for name, estimate in click.items() if estimate.absent is not None} == {
        "auc", "per_user_auc", "normalized_entropy", "calibration_ratio",
        "ndcg_at_10_logged_lists",
    }  # fmt: skip
    assert {name for name, estimate in click.items() if estimate.value is None} == {
        name for name, estimate in click.items() if estimate.absent is not None
    }
    assert report.order_of_shown_ads == {}
    assert report.funnel.absent == "the split has no clicks"
    assert report.segments.absent["position"] == "the schema names no position"
    assert np.isfinite(click["log_loss"].value)
    assert (
        report.retrieval.to_json().keys()
        == evaluation.RetrievalQuality(num_ads=1, num_clicks=0).to_json().keys()
    )
    text = json.dumps(report.to_json())
    assert evaluation.EvaluationReport.model_validate_json(text) == report


def test_a_log_with_clicks_alone_names_the_absent_heads(click_only_report):
    report = click_only_report
    assert report.absent_heads == ["engagement", "revenue"]
    assert report.unnamed_heads == ["engagement", "revenue"]
    assert list(report.ranker) == ["click"]
    assert report.funnel.truth == "held-out clicks"


def without_clicks(directory, first, last):
    """Returns a data set of 400 rows in which some have no click; 320 are for training."""
    rows = logs.rows(400)
    for row in rows[first:last]:
        row[0] = "0"
    return logs.converted(logs.write(directory / "log.tsv", rows), directory / "data")


def test_a_log_without_training_clicks_cannot_train_retrieval(retrieval_config, tmp_path):
    data_set = without_clicks(tmp_path, 0, 320)
    with pytest.raises(ValueError, match=r"train split of .* has no clicks .*; expected at least"):
        retrieval_training.train_two_tower(data_set, retrieval_config, tmp_path / "work")


def test_without_validation_clicks_the_best_epoch_is_chosen_by_training_clicks(tmp_path):
    data_set = without_clicks(tmp_path, 320, 360)
    training.check_clicks(data_set)
    held_out = retrieval_training._held_out(data_set, None)
    assert len(held_out.ad_rows) == data_set.label_positives("train", "click") > 0
