"""The limits and the messages of the export gate."""

import pytest
from head_figures import FEW, figures

from serving import errors
from serving.export import gate
from tfrec import ranking

WEAK = figures(normalized_entropy=1.2)


def judge(own, before, differences=None, head="click"):
    known = ranking.parse_figures({head: before})
    released = gate.Released(3, known, differences and {head: differences})
    return gate.judge(ranking.parse_figures({head: own}), released)


@pytest.mark.parametrize("own", [{}, {"click": FEW}, {"click": WEAK, "revenue": FEW}])
def test_a_first_release_is_never_refused(own):
    assert gate.judge(ranking.parse_figures(own), None) == gate.Verdict((), ())


@pytest.mark.parametrize("before", [WEAK, FEW, figures(calibration_ratio=2.0)])
@pytest.mark.parametrize("own", [WEAK, FEW, figures(calibration_ratio=3.0), figures()])
def test_a_head_that_was_weak_before_is_no_reason_to_refuse(own, before):
    verdict = judge(own, before, (0.3, 0.001), head="revenue")
    assert verdict.refusals == ()
    assert verdict.notes == ("revenue is not compared: it is weak in release 3",)


def test_a_head_that_the_release_has_and_the_next_one_lacks_is_refused():
    released = gate.Released(3, ranking.parse_figures({"click": figures(), "revenue": figures()}))
    verdict = gate.judge(ranking.parse_figures({"click": figures()}), released)
    assert verdict.refusals == (
        "revenue: release 3 has this head and this one lacks it; check the revenue column of the "
        "log",
    )
    # Without a ranker, both heads are missing.
    assert len(gate.judge({}, released).refusals) == 2


def test_a_weak_head_of_the_release_may_be_dropped():
    released = gate.Released(3, ranking.parse_figures({"click": figures(), "revenue": WEAK}))
    assert gate.judge(ranking.parse_figures({"click": figures()}), released).refusals == ()


def test_a_new_head_is_not_compared():
    released = gate.Released(3, ranking.parse_figures({"click": figures()}))
    own = ranking.parse_figures({"click": figures(), "revenue": WEAK})
    assert gate.judge(own, released).refusals == ()


def test_a_strong_head_whose_rows_are_now_all_negative_is_noted():
    verdict = judge(FEW, figures(), (0.0, 0.0))
    assert verdict.refusals == ()
    assert verdict.notes == ("click is not compared: 0 of 40 validation rows are positive",)


@pytest.mark.parametrize(
    ("difference", "refused"),
    # A tenth of the information 0.1, and two errors: 0.012 and 0.05.
    [((0.0119, 0.001), 0), ((0.0121, 0.001), 1), ((0.049, 0.02), 0), ((0.051, 0.02), 1)],
)
def test_on_the_same_rows_the_difference_decides(difference, refused):
    # Its own normalized entropy, far below, does not matter.
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
    assert "--force publishes the release" in str(caught.value)


def test_on_other_rows_the_tolerance_is_wider_and_noted():
    # A fifth of 0.1, and 2 · sqrt(0.005² + 0.005²) = 0.0141.
    close = judge(figures(normalized_entropy=0.934), figures())
    assert close.refusals == ()
    assert "each release was measured on its own rows" in close.notes[0]
    far = judge(figures(normalized_entropy=0.935), figures())
    assert "0.9000 of release 3 to 0.9350 on its own rows" in far.refusals[0]
    assert "by 0.0350 (limit 0.0341)" in far.refusals[0]


def test_a_release_without_metrics_is_not_compared():
    verdict = gate.judge(ranking.parse_figures({"click": figures()}), gate.Released(3, {}))
    assert verdict.refusals == ()
    assert verdict.notes == ("release 3 has no metrics to compare with",)


@pytest.mark.parametrize(
    ("ratio", "refused"),
    # 0.1 and two errors of 0.02: from 0.86 to 1.14.
    [(0.87, 0), (1.13, 0), (0.85, 1), (1.15, 1)],
)
def test_the_calibration_ratio_has_bounds(ratio, refused):
    verdict = judge(figures(calibration_ratio=ratio), figures(), (0.0, 0.001))
    assert len(verdict.refusals) == refused
    if refused:
        expected = f"click: predicted / observed is {ratio:.3f}; expected 0.860 to 1.140"
        assert verdict.refusals == (expected,)


def test_calibration_no_worse_than_the_release_passes():
    # The release is off by 0.13, which is within two errors of 0.02 and 0.1: it is not weak.
    before = figures(calibration_ratio=1.13)
    # Allowed: 0.13 and two errors, 0.17.
    assert judge(figures(calibration_ratio=1.165), before, (0.0, 0.001)).refusals == ()
    assert len(judge(figures(calibration_ratio=1.175), before, (0.0, 0.001)).refusals) == 1


def test_the_limit_of_the_calibration_error_follows_from_chance_and_the_mean_label():
    # Allowed: 0.1 + 1.5 · 0.012 / 0.2 = 0.19 of the mean label 0.2, so 0.038.
    same = (0.0, 0.001)
    assert judge(figures(expected_calibration_error=0.0375), figures(), same).refusals == ()
    verdict = judge(figures(expected_calibration_error=0.039), figures(), same)
    assert verdict.refusals == (
        "click: the expected calibration error is 0.195 of the mean label (0.2; limit 0.190)",
    )


def test_every_head_is_judged_and_every_defect_is_named():
    own = {
        "click": figures(normalized_entropy=1.2),
        "engagement": figures(),
        "revenue": figures(calibration_ratio=2.0),
    }
    before = ranking.parse_figures(dict.fromkeys(own, figures()))
    verdict = gate.judge(ranking.parse_figures(own), gate.Released(3, before))
    heads = [refusal.split(":")[0] for refusal in verdict.refusals]
    assert heads == ["click", "revenue"]


def test_figures_that_lack_a_metric_are_refused():
    own = figures()
    del own["calibration_ratio"]
    with pytest.raises(ValueError, match="calibration_ratio"):
        ranking.parse_figures({"click": own})


def test_the_json_of_a_verdict():
    verdict = judge(figures(normalized_entropy=1.2), figures(), (0.3, 0.001))
    assert verdict.to_json(forced=True) == {
        "forced": True,
        "refusals": list(verdict.refusals),
        "notes": [],
    }


def shares(**values):
    return {name: {"share": share, "error": 0.001} for name, share in values.items()}


@pytest.mark.parametrize(("own", "refused"), [(0.9, False), (0.88, False), (0.87, True)])
def test_retrieval_that_finds_less_of_the_utility_is_refused(own, refused):
    click = ranking.parse_figures({"click": figures()})
    before = gate.Released(3, click, utility_shares=shares(utility=0.9, click=0.9))
    verdict = gate.judge(click, before, shares(utility=own, click=0.95))
    assert bool(verdict.refusals) == refused
    if refused:
        assert verdict.refusals == (
            "retrieval: the candidates have 0.870 of the utility that the ranker finds in all ads; "
            "they had 0.900 in release 3 (limit 0.877)",
        )


def test_the_share_of_a_weak_head_is_no_reason_to_refuse():
    known = ranking.parse_figures({"click": figures(), "revenue": WEAK})
    before = gate.Released(3, known, utility_shares=shares(utility=1.0, revenue=0.9))
    verdict = gate.judge(known, before, shares(utility=1.0, revenue=0.2))
    assert verdict.refusals == ()
    assert not any("retrieval" in note for note in verdict.notes)


def test_a_first_release_whose_candidates_have_little_utility_is_published_with_a_note():
    verdict = gate.judge(ranking.parse_figures({"click": figures()}), None, shares(utility=0.8))
    assert verdict.refusals == ()
    (note,) = verdict.notes
    assert note.startswith("retrieval: the candidates have 0.800 of the utility that the ranker")


def test_towers_trained_on_clicks_alone_are_not_compared():
    click = ranking.parse_figures({"click": figures()})
    before = gate.Released(3, click, utility_shares=shares(utility=1.0))
    verdict = gate.judge(click, before, {})
    assert verdict.refusals == ()
    assert "retrieval is not compared: it was trained on clicks alone" in verdict.notes
