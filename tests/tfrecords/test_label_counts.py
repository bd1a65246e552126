"""What to expect from a head, given the number of positive rows of its label."""

import numpy as np
import pytest

from tfrecords import label_counts


def expect(label, train, validation):
    return label_counts.expect(
        label, label_counts.LabelRows(*train), label_counts.LabelRows(*validation)
    )


def test_enough_positive_rows_give_no_warning():
    assert expect("click", (20_000, 1_000), (2_000, 100)) is None


@pytest.mark.parametrize(
    ("label", "train", "validation", "text"),
    [
        ("click", (9_000, 0), (900, 0), "No training row is a click, so nothing can be learned."),
        ("click", (9_000, 9_000), (900, 900), "so there is no ranker: retrieval alone orders ads."),
        ("revenue", (9_000, 0), (900, 0), "so the release has no such head."),
        ("click", (9_000, 999), (900, 100), "Training has 999 clicks, too few for a reliable"),
        ("engagement", (9_000, 99), (900, 100), "model: expect scores near the base rate."),
        ("engagement", (9_000, 1_000), (900, 0), "Validation has no rows with engagement, so the"),
        # 1 / sqrt(25).
        ("revenue", (9_000, 1_000), (900, 25), "a relative standard error of 20%."),
    ],
)
def test_a_problem_comes_with_a_remedy(label, train, validation, text):
    found = expect(label, train, validation)
    assert text in found.text
    assert found.action.endswith(".")


def test_one_row_is_singular():
    found = expect("engagement", (9_000, 1), (900, 1)).text
    assert "Training has 1 row with engagement, too few" in found
    assert "Validation has 1 row with engagement, so" in found


def test_only_very_few_rows_predict_scores_near_the_base_rate():
    assert "base rate" not in expect("click", (9_000, 100), (900, 100)).text


def test_the_auc_of_values():
    scores, negative, positive = np.array([[0.5, 0.1, 0.5], [2, 3, 1], [1, 1, 2]])
    # 3 x 3 of the 6 x 4 pairs are in order, and 3 x 3 + 3 x 1 have equal scores.
    assert label_counts.auc(scores, negative, positive) == pytest.approx((9 + 12 / 2) / 24)
    assert label_counts.auc(scores, negative, 0 * positive) is None
