"""The limits and the messages of the export gate."""

import json
import shutil

import pytest
from head_figures import FEW, figures

from serving import errors, manifest, releases
from serving.export import gate
from tfrec import evaluation, ranking

WEAK = figures(normalized_entropy=1.2)


def measured(version=3, utility_shares=None, **heads):
    return gate.Measured(ranking.parse_figures(heads), utility_shares or {}, version)


def judge(own, before, head="click"):
    return gate.judge(measured(**{head: own}), measured(**{head: before}))


@pytest.mark.parametrize("own", [{}, {"click": FEW}, {"click": WEAK, "revenue": FEW}])
def test_a_first_release_is_never_refused(own):
    assert gate.judge(measured(**own), None) == gate.Verdict([], [])


@pytest.mark.parametrize("before", [WEAK, FEW, figures(calibration_ratio=2.0)])
@pytest.mark.parametrize("own", [WEAK, FEW, figures(calibration_ratio=3.0), figures()])
def test_a_head_that_was_weak_before_is_no_reason_to_refuse(own, before):
    verdict = judge(own, before, head="revenue")
    assert verdict.refusals == []
    assert verdict.notes == ["revenue is not compared: it is weak in release 3"]


def test_a_head_that_the_release_has_and_the_next_one_lacks_is_refused():
    released = measured(click=figures(), revenue=figures())
    assert gate.judge(measured(click=figures()), released).refusals == [
        "revenue: release 3 has this head and this one lacks it; check the revenue column of the "
        "log",
    ]
    # Without a ranker, both heads are missing.
    assert len(gate.judge(measured(), released).refusals) == 2
    # A weak one may be dropped, and a new one is not compared.
    assert not gate.judge(
        measured(click=figures()), measured(click=figures(), revenue=WEAK)
    ).refusals
    assert not gate.judge(
        measured(click=figures(), revenue=WEAK), measured(click=figures())
    ).refusals


def test_a_strong_head_whose_rows_are_now_all_negative_is_noted():
    verdict = judge(FEW, figures())
    assert verdict.refusals == []
    assert verdict.notes == ["click is not compared: 0 of 40 validation rows are positive"]


def test_the_normalized_entropy_may_rise_by_a_fifth_of_the_information_and_two_errors():
    # A fifth of 0.1, and 2 · sqrt(0.005² + 0.005²) = 0.0141.
    assert judge(figures(normalized_entropy=0.934), figures()).refusals == []
    assert judge(figures(normalized_entropy=0.935), figures()).refusals == [
        "click: the normalized entropy rose from 0.9000 to 0.9350, by 0.0350 (limit 0.0341)"
    ]


def test_a_release_without_metrics_is_not_compared():
    verdict = gate.judge(measured(click=figures()), measured())
    assert verdict == gate.Verdict([], ["release 3 has no metrics to compare with"])


@pytest.mark.parametrize(
    ("ratio", "refused"),
    # 0.1 and two errors of 0.02: from 0.86 to 1.14.
    [(0.87, 0), (1.13, 0), (0.85, 1), (1.15, 1)],
)
def test_the_calibration_ratio_has_bounds(ratio, refused):
    verdict = judge(figures(calibration_ratio=ratio), figures())
    assert len(verdict.refusals) == refused
    if refused:
        expected = f"click: predicted / observed is {ratio:.3f}; expected 0.860 to 1.140"
        assert verdict.refusals == [expected]


def test_calibration_no_worse_than_the_release_passes():
    # The release is off by 0.13, which is within two errors of 0.02 and 0.1: it is not weak.
    before = figures(calibration_ratio=1.13)
    # Allowed: 0.13 and two errors, 0.17.
    assert judge(figures(calibration_ratio=1.165), before).refusals == []
    assert len(judge(figures(calibration_ratio=1.175), before).refusals) == 1


def test_every_head_is_judged_and_every_defect_is_named():
    own = {
        "click": figures(normalized_entropy=1.2),
        "engagement": figures(),
        "revenue": figures(calibration_ratio=2.0),
    }
    verdict = gate.judge(measured(**own), measured(**dict.fromkeys(own, figures())))
    heads = [refusal.split(":")[0] for refusal in verdict.refusals]
    assert heads == ["click", "revenue"]


def test_figures_that_lack_a_metric_are_refused():
    own = figures()
    del own["calibration_ratio"]
    with pytest.raises(ValueError, match="calibration_ratio"):
        measured(click=own)


def shares(**values):
    return {name: {"share": share, "error": 0.001} for name, share in values.items()}


@pytest.mark.parametrize(("own", "refused"), [(0.9, False), (0.88, False), (0.87, True)])
def test_retrieval_that_finds_less_of_the_utility_is_refused(own, refused):
    before = measured(click=figures(), utility_shares=shares(utility=0.9, click=0.9))
    candidate = measured(click=figures(), utility_shares=shares(utility=own, click=0.95))
    verdict = gate.judge(candidate, before)
    assert bool(verdict.refusals) == refused
    if refused:
        assert verdict.refusals == [
            "retrieval: the candidates have 0.870 of the utility that the ranker finds in all ads; "
            "they had 0.900 in release 3 (limit 0.877)",
        ]


def test_the_share_of_a_weak_head_is_no_reason_to_refuse():
    heads = {"click": figures(), "revenue": WEAK}
    before = measured(**heads, utility_shares=shares(utility=1.0, revenue=0.9))
    verdict = gate.judge(measured(**heads, utility_shares=shares(utility=1.0, revenue=0.2)), before)
    assert verdict.refusals == []
    assert not any("retrieval" in note for note in verdict.notes)


def test_a_first_release_whose_candidates_have_little_utility_is_published_with_a_note():
    candidate = measured(click=figures(), utility_shares=shares(utility=0.8))
    (note,) = gate.judge(candidate, None).notes
    assert note.startswith("retrieval: the candidates have 0.800 of the utility that the ranker")


def test_towers_trained_on_clicks_alone_are_not_compared():
    before = measured(click=figures(), utility_shares=shares(utility=1.0))
    verdict = gate.judge(measured(click=figures()), before)
    assert verdict.refusals == []
    assert "retrieval is not compared: it was trained on clicks alone" in verdict.notes


@pytest.mark.trains
def test_a_release_that_lacks_many_ads_of_the_last_one_is_noted(exported_base, data_set):
    ids = data_set.catalog().ad_ids
    count = len(ids)
    for kept, is_told in ((count, False), (round(0.85 * count), False), (count // 2, True)):
        judged = gate._decide(exported_base, None, ids[:kept], False)
        assert bool(judged["notes"]) == is_told
    assert judged["notes"][0].startswith(
        f"! {count - count // 2:,} of the {count:,} ads of release 1 are missing."
    )


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
@pytest.mark.trains
def test_nothing_is_compared_with_the_ads_of_a_damaged_release(exported_base, tmp_path, damage):
    ids = releases.ad_ids(exported_base, 1)
    path = tmp_path / "ad_index" / "1" / "ads.arrow"
    path.parent.mkdir(parents=True)
    if damage != "missing":
        content = (exported_base / "ad_index" / "1" / "ads.arrow").read_bytes()
        path.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    assert releases.describe_missing_ads(tmp_path, 1, ids[:1]) is None


@pytest.fixture
def candidate(data_set, trained, tmp_path):
    """The trained ranker again, in a work directory of its own, whose metrics can be changed."""
    directory = tmp_path / "candidate"
    shutil.copytree(trained, directory)
    model, calibrators, _ = ranking.load_ranker(data_set, directory / "ranker")
    models, path = evaluation.Models(None, model, calibrators), directory / "ranker" / "ranker.json"

    def check(base, models=models, force=False, **changed):
        description = json.loads(path.read_text())
        description["validation"]["click"].update(changed)
        path.write_text(json.dumps(description))
        return gate.check(base, data_set, models, directory, force)

    return check


@pytest.fixture
def strong(exported_base, tmp_path):
    """The base directory of a good release."""
    base = tmp_path / "bundle"
    shutil.copytree(exported_base / "manifests", base / "manifests")
    release = manifest.read(base, 1)
    release.metrics["validation"]["click"] |= figures(normalized_entropy=0.8)
    with manifest.writing(base, 1, manifest.encode(release)):
        pass
    return base


@pytest.mark.trains
def test_a_ranker_that_is_worse_is_refused_and_force_publishes_it(candidate, strong):
    worse = {"normalized_entropy": 1.002, "normalized_entropy_error": 0.01}
    with pytest.raises(errors.PublishError, match=r"release 1 stays: click: .*1\.0020"):
        candidate(strong, **worse)
    forced = candidate(strong, force=True)["gate"]
    assert forced["forced"]
    assert "1.0020" in forced["refusals"][0]
    with pytest.raises(errors.PublishError, match="click: release 1 has this head"):
        candidate(strong, models=evaluation.Models(None))


@pytest.mark.trains
def test_a_first_ranker_is_published_however_weak_and_nothing_is_compared_with_a_broken_release(
    candidate, strong, tmp_path
):
    judged = candidate(tmp_path / "none", normalized_entropy=1.3)
    assert judged["gate"] == {"forced": False, "refusals": [], "notes": []}
    assert judged["validation"]["click"]["normalized_entropy"] == 1.3
    manifest.path_of(strong, 1).write_text("{}")
    notes = candidate(strong)["gate"]["notes"]
    assert any("release 1 has no metrics to compare with" in note for note in notes)


@pytest.mark.trains
def test_training_writes_the_validation_metrics_of_the_ranker(data_set, trained, exported_base):
    found = ranking.load_ranker(data_set, trained / "ranker")[2]["validation"]
    assert set(found) == {"click", "engagement", "revenue"}
    # 600 rows; the structure of the world is learned, see test_training.
    assert found["click"]["labeled"] == data_set.num_rows("validation")
    assert 0.5 < found["click"]["auc"] < 1
    assert found["click"]["normalized_entropy"] < 1.02
    assert found["click"]["calibration_ratio"] == pytest.approx(1, abs=0.1)
    # The manifest holds them.
    release = gate.Measured.of(manifest.read(exported_base, 1))
    assert set(release.figures) == set(found)
    assert gate.judge(release, release).refusals == []
