"""A trained ranker is compared with the release that it would replace, on the same rows."""

import json
import shutil

import numpy as np
import pytest

from serving import errors, manifest, releases
from serving.export import gate, release_gate
from tfrec import evaluation, ranking
from tfrec.ranking import ranker_training

pytestmark = pytest.mark.trains


@pytest.fixture
def candidate(data_set, trained, tmp_path):
    """The trained ranker again, in a work directory of its own."""
    directory = tmp_path / "candidate"
    shutil.copytree(trained, directory)
    model, calibrators, _ = ranker_training.load_ranker(data_set, directory / "ranker")
    return evaluation.Models(None, model, calibrators), directory


def test_a_release_that_lacks_many_ads_of_the_last_one_is_noted(exported_base, data_set):
    ids = data_set.catalog().ad_ids
    count = len(ids)
    for kept, is_told in ((count, False), (round(0.85 * count), False), (count // 2, True)):
        judged = release_gate._decide(exported_base, gate.Verdict((), ()), ids[:kept], False)
        assert bool(judged["notes"]) == is_told
    assert judged["notes"][0].startswith(
        f"! {count - count // 2:,} of the {count:,} ads of release 1 are missing."
    )


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_nothing_is_compared_with_the_ads_of_a_damaged_release(exported_base, tmp_path, damage):
    ids = releases.ad_ids(exported_base, 1)
    path = tmp_path / "ad_index" / "1" / "ads.arrow"
    path.parent.mkdir(parents=True)
    if damage != "missing":
        content = (exported_base / "ad_index" / "1" / "ads.arrow").read_bytes()
        path.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    assert releases.describe_missing_ads(tmp_path, 1, ids[:1]) is None


def spoil(model):
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(scale=0.3, size=variable.shape).astype(np.float32))


def change_release(base, **values):
    """Changes the validation metrics of the click head in the manifest."""
    release = manifest.read(base, 1)
    release.metrics["validation"]["click"] |= values
    with manifest.writing(base, 1, manifest.encode(release)):
        pass


def change(directory, **values):
    """Changes the validation metrics of the click head in ranker.json."""
    path = directory / "ranker" / "ranker.json"
    description = json.loads(path.read_text())
    description["validation"]["click"].update(values)
    path.write_text(json.dumps(description))


def test_training_writes_the_validation_metrics_of_the_ranker(data_set, trained):
    figures = ranker_training.load_ranker(data_set, trained / "ranker")[2]["validation"]
    assert set(figures) == {"click", "engagement", "revenue"}
    # 600 rows; the structure of the world is learned, see test_training.
    assert figures["click"]["labeled"] == data_set.num_rows("validation")
    assert 0.5 < figures["click"]["auc"] < 1
    assert figures["click"]["normalized_entropy"] < 1.02
    assert figures["click"]["calibration_ratio"] == pytest.approx(1, abs=0.1)


def test_a_release_scores_logged_rows_like_the_ranker_that_was_exported(
    data_set, candidate, exported_base
):
    models, _ = candidate
    held_out = ranker_training.predict_split(models.ranker, data_set, "validation")
    calibrators = ranker_training.fit_calibrators(held_out)
    again = release_gate._logits_of_release(exported_base / "ranker" / "1", data_set)
    expected = calibrators.calibrated(held_out.logits)
    assert again.keys() == expected.keys()
    for head, values in again.items():
        np.testing.assert_allclose(values, expected[head], rtol=1e-4, atol=1e-4)


def test_a_spoiled_ranker_is_worse_on_the_rows_that_both_scored(data_set, candidate, exported_base):
    models, _ = candidate
    spoil(models.ranker)
    known = release_gate._released(exported_base, data_set, models)
    assert set(known.differences) == {"click", "engagement", "revenue"}
    difference, error = known.differences["click"]
    assert difference > error > 0
    assert known.figures["click"].labeled == data_set.num_rows("validation")


def test_the_released_ranker_does_not_differ_from_the_release(data_set, candidate, exported_base):
    models, directory = candidate
    known = release_gate._released(exported_base, data_set, models)
    assert set(known.differences) == {"click", "engagement", "revenue"}
    for difference, _ in known.differences.values():
        assert difference == pytest.approx(0, abs=1e-4)
    change(directory, normalized_entropy=0.99)
    judged = release_gate.check(exported_base, data_set, models, directory, force=False)
    assert judged["gate"]["refusals"] == []
    assert not any("own rows" in note for note in judged["gate"]["notes"])
    assert judged["validation"]["click"]["normalized_entropy"] == 0.99


@pytest.mark.parametrize(("normalized_entropy", "is_weak"), [(0.99, False), (0.9999, True)])
def test_a_worse_ranker_is_refused_unless_the_manifest_says_that_the_head_is_weak(
    data_set, candidate, exported_base, tmp_path, normalized_entropy, is_weak
):
    models, directory = candidate
    spoil(models.ranker)
    base = tmp_path / "bundle"
    shutil.copytree(exported_base, base)
    change_release(
        base,
        normalized_entropy=normalized_entropy,
        normalized_entropy_error=0.001,
        calibration_ratio=1.0,
        expected_calibration_error=0.0,
    )
    judged = release_gate.check(base, data_set, models, directory, force=True)["gate"]
    of_click = [line for line in judged["refusals"] if "click: the normalized" in line]
    assert ("click is not compared: it is weak in release 1" in judged["notes"]) == is_weak
    assert ["on the same rows" in line for line in of_click] == ([] if is_weak else [True])


def test_a_first_ranker_is_published_however_weak_it_is(data_set, candidate, tmp_path):
    models, directory = candidate
    change(directory, normalized_entropy=1.3)
    judged = release_gate.check(tmp_path / "none", data_set, models, directory, force=False)
    assert judged["gate"] == {"forced": False, "refusals": [], "notes": []}


@pytest.fixture
def strong(exported_base, tmp_path, data_set, monkeypatch):
    """The base directory of a good release that was measured on other rows."""
    base = tmp_path / "bundle"
    shutil.copytree(exported_base / "manifests", base / "manifests")
    change_release(
        base,
        normalized_entropy=0.8,
        normalized_entropy_error=0.01,
        calibration_ratio=1.0,
        expected_calibration_error=0.0,
    )
    monkeypatch.setattr(data_set, "fingerprint", "another")
    return base


def test_a_ranker_that_is_worse_is_refused_and_force_publishes_it(data_set, candidate, strong):
    models, directory = candidate
    change(directory, normalized_entropy=1.002, normalized_entropy_error=0.01)
    with pytest.raises(errors.ReleaseRefusedError, match=r"release 1 stays: click: .*1\.0020"):
        release_gate.check(strong, data_set, models, directory, force=False)
    forced = release_gate.check(strong, data_set, models, directory, force=True)["gate"]
    assert forced["forced"]
    assert "1.0020" in forced["refusals"][0]


def test_a_release_without_a_ranker_does_not_replace_one_with_a_good_one(
    data_set, candidate, strong
):
    with pytest.raises(errors.ReleaseRefusedError, match="click: release 1 has this head"):
        release_gate.check(strong, data_set, evaluation.Models(None), candidate[1], force=False)


@pytest.mark.parametrize("damage", ["foreign", "corrupt"])
def test_another_release_is_compared_by_its_metrics_and_a_broken_one_is_not_compared(
    data_set, candidate, exported_base, tmp_path, monkeypatch, damage
):
    models, directory = candidate
    change(directory, normalized_entropy=0.99)
    base = tmp_path / "bundle"
    shutil.copytree(exported_base / "manifests", base / "manifests")
    if damage == "corrupt":
        manifest.path_of(base, 1).write_text("{}")
        note = "release 1 has no metrics to compare with"
    else:
        monkeypatch.setattr(data_set, "fingerprint", "another")
        note = "each release was measured on its own rows"
    judged = release_gate.check(base, data_set, models, directory, force=False)
    assert any(note in one for one in judged["gate"]["notes"])


def test_a_manifest_holds_metrics_and_verdict(exported_base):
    assert releases.latest(exported_base) == 1
    figures = manifest.read(exported_base, 1).metrics["validation"]
    parsed = ranking.parse_figures(figures)
    assert set(figures["click"]) >= {"normalized_entropy", "calibration_ratio"}
    assert gate.judge(parsed, gate.Released(1, parsed, {"click": (0.0, 0.0)})).refusals == ()
