"""The limits and the messages of the export gate."""

import pytest

from serving import errors
from serving.export import gate


def figures(**changed):
    """A head with 10,000 rows, a rate of 0.2, and ordinary figures."""
    return {
        "labeled": 10_000,
        "positives": 2_000,
        "base_rate": 0.2,
        "mean_label": 0.2,
        "normalized_entropy": 0.9,
        "normalized_entropy_error": 0.005,
        "calibration_ratio": 1.0,
        "calibration_ratio_error": 0.02,
        "expected_calibration_error": 0.012,
        "expected_calibration_error_of_chance": 0.012,
        **changed,
    }


def judge(own, before=None, differences=None, head="click"):
    released = None
    if before is not None:
        known = gate.parse_figures({head: before})
        released = gate.Released(3, known, differences and {head: differences})
    return gate.judge(gate.parse_figures({head: own}), released)


def test_a_good_first_ranker_passes_without_notes():
    verdict = judge(figures())
    assert verdict == gate.Verdict((), ())
    verdict.check(None)


@pytest.mark.parametrize("entropy", [1.0, 1.0004, 1.3])
def test_clicks_predicted_no_better_than_their_rate_are_refused(entropy):
    verdict = judge(figures(normalized_entropy=entropy))
    with pytest.raises(
        errors.ReleaseRefusedError,
        match=r"Not published, there is no release: click: the normalized entropy is "
        rf"{entropy:.4f} on 10,000 validation rows; expected less than 1, .* rate \(0\.2000\).*; "
        r"--force publishes the release",
    ):
        verdict.check(None)


def test_another_head_may_be_as_good_as_its_rate_but_not_significantly_worse():
    # Two errors of 0.005 above 1.
    for entropy, refused in ((1.009, False), (1.011, True)):
        verdict = judge(figures(normalized_entropy=entropy), head="revenue")
        assert bool(verdict.refusals) == refused


def test_a_head_without_rows_of_both_kinds_is_noted_and_not_refused():
    verdict = judge({"labeled": 40, "positives": 0}, head="engagement")
    assert verdict.refusals == ()
    assert verdict.notes == ("engagement is not judged: 0 of 40 validation rows are positive",)


def test_clicks_that_cannot_be_judged_are_refused():
    verdict = judge({"labeled": 40, "positives": 0})
    assert "click cannot be judged: 0 of 40 validation rows are positive" in verdict.refusals[0]


@pytest.mark.parametrize(
    ("difference", "refused"),
    # A tenth of the information 0.1, and two errors: 0.012 and 0.05.
    [((0.0119, 0.001), 0), ((0.0121, 0.001), 1), ((0.049, 0.02), 0), ((0.051, 0.02), 1)],
)
def test_on_the_same_rows_the_difference_decides(difference, refused):
    # Its own figure, far below, has no part in it.
    verdict = judge(figures(normalized_entropy=0.2), figures(), difference)
    assert len(verdict.refusals) == refused
    assert verdict.notes == ()


def test_the_message_names_release_value_difference_and_limit():
    verdict = judge(figures(normalized_entropy=0.93), figures(), (0.03, 0.001))
    with pytest.raises(errors.ReleaseRefusedError) as caught:
        verdict.check(3)
    assert str(caught.value).startswith(
        "Not published, release 3 stays: click: the normalized entropy rose from 0.9000 of "
        "release 3 to 0.9300 on the same rows, by 0.0300 (limit 0.0120). "
    )


def test_on_other_rows_the_tolerance_is_wider_and_noted():
    # A fifth of 0.1, and 2 · sqrt(0.005² + 0.005²) = 0.0141.
    close = judge(figures(normalized_entropy=0.934), figures())
    assert close.refusals == ()
    assert "release 3 was measured on other rows" in close.notes[0]
    far = judge(figures(normalized_entropy=0.935), figures())
    assert (
        "0.9000 of release 3 to 0.9350 on its own rows, by 0.0350 (limit 0.0341)" in far.refusals[0]
    )


def test_a_release_without_metrics_is_not_compared():
    verdict = gate.judge(gate.parse_figures({"click": figures()}), gate.Released(3, {}))
    assert verdict.refusals == ()
    assert verdict.notes == ("release 3 has no metrics to compare with",)


@pytest.mark.parametrize(
    ("ratio", "refused"),
    # 0.1 and two errors of 0.02: from 0.86 to 1.14.
    [(0.87, 0), (1.13, 0), (0.85, 1), (1.15, 1)],
)
def test_predicted_over_observed_has_bounds(ratio, refused):
    verdict = judge(figures(calibration_ratio=ratio))
    assert len(verdict.refusals) == refused
    if refused:
        expected = f"click: predicted / observed is {ratio:.3f}; expected 0.860 to 1.140"
        assert verdict.refusals == (expected,)


def test_calibration_no_worse_than_the_release_passes():
    off = figures(calibration_ratio=1.3, expected_calibration_error=0.06)
    assert len(judge(off).refusals) == 2
    assert judge(off, off, (0.0, 0.001)).refusals == ()
    worse = figures(calibration_ratio=1.4, expected_calibration_error=0.1)
    assert len(judge(worse, off, (0.0, 0.001)).refusals) == 2


def test_the_limit_of_the_calibration_error_follows_from_chance_and_the_mean_label():
    # Allowed: 0.1 + 1.5 · 0.012 / 0.2 = 0.19 of the mean label 0.2, so 0.038.
    assert judge(figures(expected_calibration_error=0.0375)).refusals == ()
    verdict = judge(figures(expected_calibration_error=0.039))
    assert verdict.refusals == (
        "click: the expected calibration error is 0.195 of the mean label (0.2; limit 0.190)",
    )


def test_every_head_is_judged_and_every_fault_is_named():
    own = {
        "click": figures(normalized_entropy=1.2),
        "engagement": figures(),
        "revenue": figures(calibration_ratio=2.0),
    }
    verdict = gate.judge(gate.parse_figures(own), None)
    heads = [refusal.split(":")[0] for refusal in verdict.refusals]
    assert heads == ["click", "revenue"]


def test_figures_that_lack_a_metric_are_refused():
    own = figures()
    del own["calibration_ratio"]
    with pytest.raises(ValueError, match="calibration_ratio"):
        gate.parse_figures({"click": own})


def test_the_json_of_a_verdict():
    verdict = judge(figures(normalized_entropy=1.2))
    assert verdict.to_json(forced=True) == {
        "forced": True,
        "refusals": list(verdict.refusals),
        "notes": [],
    }
