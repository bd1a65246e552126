"""Which heads are weak, why, and what would help."""

import pytest
from head_figures import figures

from tfrec.ranking import head_strength


def weakness(**changed):
    """Returns why a head with 10,000 rows and a rate of 0.2 is weak."""
    known = head_strength.parse_figures({"click": figures(**changed)})
    return head_strength.weakness(known["click"])


def test_an_ordinary_head_is_not_weak():
    assert weakness() is None


# Two errors of 0.005 below 1.
@pytest.mark.parametrize(("entropy", "is_weak"), [(0.989, False), (0.991, True), (1.3, True)])
def test_a_head_is_weak_unless_it_is_known_to_beat_its_base_rate(entropy, is_weak):
    reason = weakness(normalized_entropy=entropy)
    assert (reason is not None) == is_weak
    if is_weak:
        assert f"its normalized entropy is {entropy:.3f} ± 0.010" in reason
        assert "2,000 of 10,000 validation rows are positive" in reason


def test_the_advice_says_how_many_positive_rows_would_settle_it():
    # Two errors of 0.04 and an information of 0.02: 16 times the rows would be enough.
    reason = weakness(positives=50, normalized_entropy=0.98, normalized_entropy_error=0.04)
    assert "About 800 positive validation rows would settle this" in reason


@pytest.mark.parametrize(
    ("entropy", "advice"),
    [(1.01, "More positive rows would help"), (0.9999, "Many more positive rows would help")],
)
def test_the_advice_has_no_number_if_none_can_be_estimated(entropy, advice):
    reason = weakness(normalized_entropy=entropy, normalized_entropy_error=0.04)
    assert advice in reason
    assert "min_count" in reason


# 0.1 and two errors of 0.02.
@pytest.mark.parametrize(("ratio", "is_weak"), [(0.87, False), (1.13, False), (0.85, True)])
def test_a_head_whose_predicted_sum_is_off_is_weak(ratio, is_weak):
    reason = weakness(calibration_ratio=ratio)
    assert (reason is not None) == is_weak
    if is_weak:
        assert "it predicts 0.85 times what was observed" in reason


def test_a_head_that_is_badly_calibrated_is_weak():
    # Allowed: 0.1 + 1.5 · 0.012 / 0.2 = 0.19 of the mean label 0.2.
    assert weakness(expected_calibration_error=0.0379) is None
    reason = weakness(expected_calibration_error=0.17)
    assert "its expected calibration error is 85% of the mean label" in reason


def test_rows_of_one_kind_cannot_be_judged():
    found = head_strength.parse_figures({"engagement": {"labeled": 40, "positives": 0}})
    assert head_strength.weak_heads(found) == {
        "engagement": "0 of 40 validation rows are positive, so it cannot be evaluated. A larger "
        "log would help."
    }


def test_a_larger_log_does_not_help_where_every_row_is_positive():
    found = head_strength.parse_figures({"revenue": {"labeled": 40, "positives": 40}})
    assert head_strength.weak_heads(found) == {
        "revenue": "40 of 40 validation rows are positive, so it cannot be compared with a base "
        'rate. Set "weights" in the schema to use it.'
    }


def test_rows_of_one_user_cannot_be_judged():
    found = head_strength.parse_figures({"click": {"labeled": 40, "positives": 9}})
    assert head_strength.weak_heads(found) == {
        "click": "its validation rows are all of one user or request, so it cannot be evaluated. A "
        "larger log would help."
    }
