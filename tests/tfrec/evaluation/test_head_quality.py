"""A head's metrics, the reasons for those that are missing, and segments."""

import dataclasses

import logs
import numpy as np
import pyarrow as pa
import pytest

from tfrec import calibration, config, heads, metrics, ranking
from tfrec.evaluation import head_quality, logged_quality, segments
from tfrecords import schema


def rows_of(labels, list_lengths=None, unit=None, count=20):
    labels = np.asarray(labels, np.float64)
    lengths = np.ones(len(labels), int) if list_lengths is None else np.array(list_lengths)
    units = np.repeat(np.arange(len(lengths)), lengths) if unit is None else np.asarray(unit)
    why = "the schema names no user_key" if unit is None else None
    return head_quality.HeadRows(labels, lengths, metrics.Resamples(units, count, 1), why)


def measure_probability(rows, probabilities):
    scores = head_quality.HeadScores(np.asarray(probabilities), np.asarray(probabilities))
    return head_quality.measure(heads.CLICK, rows, scores)


def measure_amount(rows, expected, positive):
    scores = head_quality.HeadScores(np.asarray(expected), np.asarray(positive))
    return head_quality.measure(heads.HEADS["revenue"], rows, scores)


def test_every_metric_without_a_value_has_its_reason():
    for labels in ([0, 0, 0], [1, 1, 1]):
        rows, scores = rows_of(labels), np.full(3, 0.2)
        for quality in (measure_probability(rows, scores), measure_amount(rows, scores, scores)):
            assert quality.metrics["auc"].value is None
            for estimate in quality.metrics.values():
                assert (estimate.value is None) == (estimate.absent is not None)
                assert estimate.value is not None or estimate.interval is None


def test_without_rows_nothing_is_measured():
    quality = measure_probability(rows_of([]), [])
    assert (quality.labeled, quality.metrics, quality.calibration_curve) == (0, {}, [])


def test_one_row_has_no_intervals_but_is_measured():
    found = measure_probability(rows_of([1]), [0.5]).metrics
    assert found["log_loss"].value == pytest.approx(0.693147, abs=1e-6)
    assert found["calibration_ratio"].value == 0.5
    assert found["auc"].absent == "the rows are all of one class"
    assert found["log_loss"].interval is None


def test_one_positive_row_has_no_intervals_but_is_measured():
    scores = np.linspace(0.01, 0.02, 200)
    for positives in (1, 2):
        # All resamples with a single positive row agree that it is below nine tenths of the rows.
        rows = rows_of(np.isin(np.arange(200), range(20, 20 + positives)), count=200)
        quality = measure_probability(rows, scores)
        found = [quality.metrics["auc"], quality.metrics["normalized_entropy"]]
        found += [head_quality.order(rows, scores)["auc"]]
        assert [estimate.interval is None for estimate in found] == [positives == 1] * 3
        assert found[0].value == found[2].value == pytest.approx(20 / (200 - positives))


def test_intervals_hold_their_values_and_shrink_with_rows():
    rng = np.random.default_rng(0)
    widths = []
    for count in (200, 3_200):
        p = rng.uniform(0.05, 0.6, count)
        rows = rows_of(rng.random(count) < p, [4] * (count // 4), count=100)
        found = measure_probability(rows, p).metrics
        for estimate in found.values():
            if estimate.interval is not None:
                assert estimate.interval[0] <= estimate.value <= estimate.interval[1]
        low, high = found["auc"].interval
        widths.append(high - low)
    assert 2.5 < widths[0] / widths[1] < 6.5  # sixteen times the rows: about a quarter


def test_per_user_auc_is_measured_where_users_are_known():
    # Two users, each ordered rightly, whose scores are on different levels.
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.2, 0.1, 0.9, 0.8])
    found = measure_probability(rows_of(labels, unit=[0, 0, 1, 1]), scores).metrics
    assert found["per_user_auc"].value == 1.0
    assert found["auc"].value == 0.75
    without = measure_probability(rows_of(labels), scores).metrics
    absent = {
        name: estimate.absent for name, estimate in without.items() if estimate.absent is not None
    }
    assert absent == {
        "per_user_auc": "the schema names no user_key",
        "ndcg_at_10_logged_lists": "no list of two or more ads has a positive row",
    }


def test_per_user_auc_is_not_measured_where_clicks_change_the_scores_of_later_rows(
    ranker_config, tmp_path
):
    rows = "".join(f"u{n % 9},{1_700_000_000 + n},a{n % 5},{n % 2}\n" for n in range(300))
    (tmp_path / "log.csv").write_text(f"user,time,ad,clicked\n{rows}")
    fields = (
        schema.Field("user", "categorical", "query"),
        schema.Field("ad", "categorical", "ad"),
        schema.Field("clicks", "history", "query", of="ad", event="click"),
    )
    shop = schema.Schema("shop", fields, ("ad",), "clicked", user_key="user", time="time")
    data_set = logs.converted_table(tmp_path / "log.csv", tmp_path / "data", shop)
    model = ranking.Ranker(data_set.fitted, ranker_config, ["click"])

    def absent():
        options = config.EvaluationConfig(resamples=5)
        logged = logged_quality.predict(data_set, model, calibration.Calibrators(), options)
        return logged_quality.measure_heads(logged)["click"].metrics["per_user_auc"].absent

    assert "random scores would not have 0.5" in absent()
    data_set.schema = dataclasses.replace(shop, fields=fields[:2])
    assert absent() is None


def test_the_calibration_curve_has_predicted_and_observed_means():
    labels = np.repeat([0.0, 1.0], 30)
    curve = head_quality.calibration_curve(rows_of(labels), np.repeat([0.25, 0.75], 30))
    assert [point.rows for point in curve] == [30, 30]  # equal predictions share a bin
    assert [point.predicted for point in curve] == [0.25, 0.75]
    assert [point.observed.value for point in curve] == [0.0, 1.0]
    assert curve[-1].observed.interval is None


def test_the_zero_part_of_an_amount_has_metrics_of_its_own():
    revenue = np.array([0.0, 0.0, 3.0, 1.0])
    found = measure_amount(rows_of(revenue), [0.1, 0.2, 1.5, 0.2], [0.5, 0.5, 0.5, 0.5]).metrics
    assert found["calibration_ratio"].value == pytest.approx(2.0 / 4.0)
    assert found["normalized_entropy_of_zero_part"].value == pytest.approx(1.0)  # the rate is 1/2


def test_the_auc_of_an_amount_and_its_ceiling_are_of_the_probabilities_of_one():
    revenue = np.array([0.0, 0.0, 3.0, 1.0])
    # 0.5 is above 0.2 and 0.4; 0.2 equals 0.2 and is below 0.4.
    predicted = head_quality.HeadScores(
        np.array([0.1, 0.2, 1.5, 0.2]), np.array([0.2, 0.4, 0.5, 0.2])
    )
    # The true probabilities of revenue order the rows perfectly; their expected revenues do not.
    truth = head_quality.HeadScores(np.array([0.9, 0.1, 2.0, 0.5]), np.array([0.1, 0.2, 0.8, 0.9]))
    found = head_quality.measure(heads.HEADS["revenue"], rows_of(revenue), predicted, truth).metrics
    assert found["auc"].value == 2.5 / 4
    assert found["auc"].ground_truth == 1.0
    assert found["auc_share_of_achievable"].value == pytest.approx(0.125 / 0.5)
    assert found["calibration_ratio"].ground_truth == pytest.approx(3.5 / 4.0)
    perfect = head_quality.measure(heads.HEADS["revenue"], rows_of(revenue), truth, truth).metrics
    assert perfect["auc_share_of_achievable"].value == 1.0


def test_segments_by_value_are_the_frequent_values_and_all_others():
    column = pa.chunked_array([pa.array([*(f"a{i}" for i in range(12)), None])])
    # Ad i is shown 20 − i times; the ad without a value is shown most.
    shown = np.repeat(np.arange(13), [*(20 - i for i in range(12)), 30])
    cut = segments._by_value("advertiser", column, shown)
    assert list(cut.values) == [
        "(missing)", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "all others",
    ]  # fmt: skip
    assert np.bincount(cut.segment).tolist() == [30, 20, 19, 18, 17, 16, 15, 14, 55]


def test_the_last_positions_are_one_segment():
    cut = segments._by_position(np.array([2, 0, 0, 25, 11]))
    assert list(cut.values) == ["0", "2", "11", "25"]
    assert cut.segment.tolist() == [1, 0, 0, 3, 2]
    cut = segments._by_position(np.arange(14))
    assert cut.values[-2:] == ["8", "9 and on"]
    assert np.bincount(cut.segment)[-1] == 5


def test_a_segment_is_compared_with_its_own_rate():
    labels = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    cut = segments.Segmentation("field", ("a", "b", "c"), np.array([0, 0, 1, 1, 9, 9]))
    known = np.array([True, True, True, True, True, False])
    found = segments.measure(cut, rows_of(labels), np.full(5, 0.5), known)
    assert [segment.rows for segment in found] == [2, 2, 0]
    assert found[0].metrics["normalized_entropy"].value == pytest.approx(1.0)
    assert found[0].metrics["calibration_ratio"].value == pytest.approx(1.0)
    assert found[1].metrics["auc"].absent == "the segment's rows are all of one class"
    assert found[2].metrics["observed"].absent == "no row of the segment has the label"


def test_a_head_without_labels_in_the_split_has_no_segments(data_set):
    """As after an engagement window that is longer than the test split."""
    count = data_set.num_rows("test")
    values = np.linspace(0.1, 0.9, count)
    labels = {"click": (values > 0.5).astype(np.float32), "engagement": np.full(count, np.nan)}
    logged = logged_quality.LoggedScores(
        ranking.Predictions({}, labels, np.ones(count, int), np.zeros(count, int)),
        dict.fromkeys(labels, head_quality.HeadScores(values, values)),
        metrics.Resamples(np.arange(count), 0, 0),
        None,
    )
    measured = logged_quality.by_segment(logged, data_set, config.EvaluationConfig())
    assert list(measured.heads) == ["click"]
