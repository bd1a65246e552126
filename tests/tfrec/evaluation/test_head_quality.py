"""A head's metrics, the reasons for those that are missing, and segments."""

import numpy as np
import pyarrow as pa
import pytest

from tfrec import metrics
from tfrec.evaluation import head_quality, segments


def rows_of(labels, list_lengths=None, unit=None, count=20):
    labels = np.asarray(labels, np.float64)
    lengths = np.ones(len(labels), int) if list_lengths is None else np.array(list_lengths)
    own = np.repeat(np.arange(len(lengths)), lengths) if unit is None else np.asarray(unit)
    return head_quality.HeadRows(
        labels, lengths, metrics.Resamples(own, count, 1), unit is not None
    )


def test_every_metric_that_is_none_has_its_reason():
    for labels in ([0, 0, 0], [1, 1, 1], []):
        rows = rows_of(labels)
        for report in (
            head_quality.of_probability(rows, np.full(len(labels), 0.2)),
            head_quality.of_amount(rows, np.full(len(labels), 0.2), np.full(len(labels), 0.2)),
        ):
            missing = {name for name, value in report.items() if value is None}
            assert missing == set(report["absent"])
            assert "auc" in missing
            assert not missing & set(report["intervals"])


def test_one_row_has_no_intervals_but_is_measured():
    report = head_quality.of_probability(rows_of([1]), np.array([0.5]))
    assert report["log_loss"] == pytest.approx(0.693147, abs=1e-6)
    assert report["calibration_ratio"] == 0.5
    assert report["absent"]["auc"] == "the rows are all of one class"
    assert "auc" not in report["intervals"]


def test_intervals_hold_their_values_and_shrink_with_rows():
    rng = np.random.default_rng(0)
    widths = []
    for count in (200, 3_200):
        p = rng.uniform(0.05, 0.6, count)
        rows = rows_of(rng.random(count) < p, [4] * (count // 4), count=100)
        report = head_quality.of_probability(rows, p)
        for name, (low, high) in report["intervals"].items():
            if name != "expected_calibration_error":
                assert low <= report[name] <= high
        low, high = report["intervals"]["auc"]
        widths.append(high - low)
    assert 2.5 < widths[0] / widths[1] < 6.5  # sixteen times the rows: about a quarter


def test_per_user_auc_is_measured_where_users_are_known():
    # Two users, each ordered rightly, whose scores are on different levels.
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.2, 0.1, 0.9, 0.8])
    report = head_quality.of_probability(rows_of(labels, unit=[0, 0, 1, 1]), scores)
    assert report["per_user_auc"] == 1.0
    assert report["auc"] == 0.75
    without = head_quality.of_probability(rows_of(labels), scores)
    assert without["absent"] == {
        "per_user_auc": "the schema names no user_key",
        "ndcg_at_10_logged_lists": "no list of at least two ads has a positive",
    }


def test_the_calibration_curve_has_observed_beside_predicted():
    labels = np.repeat([0.0, 1.0], 30)
    curve = head_quality.calibration_curve(rows_of(labels), np.repeat([0.25, 0.75], 30))
    assert [point["rows"] for point in curve] == [30, 30]  # equal predictions share a bin
    assert curve[0]["predicted"] == 0.25
    assert curve[0]["observed"] == 0.0
    assert curve[-1]["predicted"] == 0.75
    assert curve[-1]["interval"] == [1.0, 1.0]


def test_zero_part_and_amount_of_amount_are_measured_apart():
    revenue = np.array([0.0, 0.0, 3.0, 1.0])
    report = head_quality.of_amount(
        rows_of(revenue), np.array([0.1, 0.2, 1.5, 0.2]), np.array([0.5, 0.5, 0.5, 0.5])
    )
    assert report["calibration_ratio"] == pytest.approx(2.0 / 4.0)
    assert report["normalized_entropy_of_zero_part"] == pytest.approx(1.0)  # the rate is 1/2


def test_segments_by_value_name_the_frequent_ones_and_gather_the_rest():
    column = pa.chunked_array([pa.array([*(f"a{i}" for i in range(12)), None])])
    # Ad i is shown 20 − i times; the ad without a value is shown most.
    shown = np.repeat(np.arange(13), [*(20 - i for i in range(12)), 30])
    cut = segments._by_value("advertiser", column, shown)
    assert list(cut.values) == [
        "(missing)", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "all others",
    ]  # fmt: skip
    assert np.bincount(cut.segment).tolist() == [30, 20, 19, 18, 17, 16, 15, 14, 55]


def test_segments_by_position_gather_the_last_positions():
    cut = segments._by_position(np.array([2, 0, 0, 25, 11]))
    assert list(cut.values) == ["0", "2", "11", "25"]
    assert cut.segment.tolist() == [1, 0, 0, 3, 2]
    cut = segments._by_position(np.arange(14))
    assert cut.values[-2:] == ["8", "9 and on"]
    assert np.bincount(cut.segment)[-1] == 5


def test_a_segment_is_measured_against_its_own_rate():
    labels = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    cut = segments.Segmentation("field", ("a", "b", "c"), np.array([0, 0, 1, 1, 9, 9]))
    known = np.array([True, True, True, True, True, False])
    report = segments.measure(cut, rows_of(labels), np.full(5, 0.5), known)
    assert [own["rows"] for own in report] == [2, 2, 0]
    assert report[0]["normalized_entropy"] == pytest.approx(1.0)
    assert report[0]["calibration_ratio"] == pytest.approx(1.0)
    assert report[1]["absent"]["auc"] == "the segment's rows are all of one class"
    assert report[2]["absent"]["observed"] == "no row of the segment has the label"
