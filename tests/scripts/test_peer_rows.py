"""Which rows the peers of the ranker's benchmark are given: every one the same, each for its use.

The peers here have one setting and one check of one pass, so that validation chooses nothing, and
their training is deterministic, so that rows alone make a difference.
"""

import collections
import dataclasses

import numpy as np
import pytest
import split_logs
from absl import flags

from tfrec import calibration
from tfrecords import reader

PEERS = ("lightgbm", "hashed_logistic_regression", "dnn", "dcn_v2", "deepfm")
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, deterministic):
    """A work directory with a converted log."""
    directory = tmp_path_factory.mktemp("peers") / "whole"
    split_logs.convert(directory)
    return directory


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """The same with a poisoned test split."""
    directory = tmp_path_factory.mktemp("peers") / "poisoned"
    poisons = (split_logs.with_other_labels, split_logs.with_other_values)
    split_logs.convert(directory, "test", *poisons)
    return directory


@pytest.fixture
def peers(script, monkeypatch):
    models = script("peers.models")
    small = {"hidden": (8,), "field_dim": 4, "epochs": 1, "checks": 1}
    for name in ("dnn", "dcn_v2", "deepfm"):
        once = dataclasses.replace(models.DEFAULTS[name][0], **small)
        monkeypatch.setitem(models.DEFAULTS, name, [once])
    trees = models.DEFAULTS["lightgbm"][0]
    once = dataclasses.replace(trees, treatment="ordinal", rounds=1, min_data_in_leaf=20)
    monkeypatch.setitem(models.DEFAULTS, "lightgbm", [once])
    set_strengths(models, monkeypatch, 1.0)
    return models


def set_strengths(models, monkeypatch, *strengths):
    name = "hashed_logistic_regression"
    options = models.DEFAULTS[name][0]
    own = [dataclasses.replace(options, C=strength) for strength in strengths]
    monkeypatch.setitem(models.DEFAULTS, name, own)


@pytest.fixture
def data(script, whole):
    return script("peers.peer_data").read(reader.DataSet(whole / "data"), with_position=True)


def assert_same(logits, expected):
    """Fails where logits differ by more than float32 sums do, which depend on how memory lies."""
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def relabeled(rows):
    return dataclasses.replace(rows, labels=1 - rows.labels)


@pytest.mark.trains
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_learns_training_rows_alone_and_predicts_the_others(peers, data, name):
    def fit(**others):
        return peers.fit(name, dataclasses.replace(data, **others), tune=False, seed=1)

    fitted = fit()
    # The same model predicts what stands in the place of validation and test, whatever its labels.
    turned = fit(validation=relabeled(data.test), test=relabeled(data.validation))
    assert_same(turned.validation, fitted.test)
    assert_same(turned.test, fitted.validation)
    assert np.abs(fit(train=relabeled(data.train)).test - fitted.test).max() > 1e-3


@pytest.mark.parametrize("is_learned", [True, False])
def test_the_settings_of_a_peer_are_those_that_are_best_on_validation(
    peers, data, monkeypatch, is_learned
):
    # Rows that were learned are best known with the least regularisation, their opposite with most.
    set_strengths(peers, monkeypatch, 0.003, 3.0)
    learned, opposite = data.train, relabeled(data.train)
    rows = (learned, opposite) if is_learned else (opposite, learned)
    own = dataclasses.replace(data, validation=rows[0], test=rows[1])
    fitted = peers.fit("hashed_logistic_regression", own, tune=False, seed=1)
    assert fitted.settings["C"] == (3.0 if is_learned else 0.003)


@dataclasses.dataclass
class Given:
    """What the benchmark gave a peer, and what it made of what came back."""

    data: object
    fitted: object
    calibrators: calibration.Calibrators


@pytest.fixture
def measured(script, peers, monkeypatch):
    """Runs the benchmark of all peers in a work directory and says what each was given."""
    quality = script("quality")
    fit, fit_calibrators = peers.fit, calibration.fit_calibrators

    def run(workdir):
        fitted, calibrators = {}, []

        def record_fit(name, data, *others):
            fitted[name] = data, fit(name, data, *others)
            return fitted[name][1]

        def record_calibrators(*rows):
            calibrators.append(fit_calibrators(*rows))
            return calibrators[-1]

        with monkeypatch.context() as patch:
            patch.setattr(peers, "fit", record_fit)
            patch.setattr(calibration, "fit_calibrators", record_calibrators)
            flags.FLAGS(["quality", f"--workdir={workdir}", "--noours", "--bootstrap_samples=1"])
            quality.main()
        own = zip(fitted.items(), calibrators, strict=True)
        return {name: Given(*given, curves) for (name, given), curves in own}

    yield run
    flags.FLAGS.unparse_flags()


def calibrated(calibrators, given):
    """Returns a peer's validation logits as calibrators change them."""
    return calibrators.calibrated({"click": given.fitted.validation.astype(np.float32)})["click"]


def counted(rows, fields, vocabularies):
    """Counts the users, ads, slots and clicks of a peer's rows, as the log writes them."""
    columns = {field.name: rows.ids[:, field.columns.start].tolist() for field in fields}
    user, ad = ([names[i] for i in columns[field]] for field, names in vocabularies.items())
    slots = [str(slot - 1) for slot in columns["(position)"]]
    clicks = [f"{label:.0f}" for label in rows.labels]
    return collections.Counter(zip(user, ad, slots, clicks, strict=True))


@pytest.mark.trains
@pytest.mark.benchmark
def test_every_peer_is_given_the_rows_of_the_log_and_none_learns_of_test_rows(
    measured, whole, poisoned
):
    given, other = measured(whole), measured(poisoned)
    assert tuple(given) == tuple(other) == PEERS
    vocabularies = {
        field: ("", *reader.DataSet(whole / "data").fitted.statistics[field].vocabulary)
        for field in ("user", "ad")
    }
    for name, one in given.items():
        for split in SPLITS:
            logged = [row for row in split_logs.rows() if row["split"] == split]
            assert counted(getattr(one.data, split), one.data.fields, vocabularies) == (
                collections.Counter((r["user"], r["ad"], r["slot"], r["click"]) for r in logged)
            ), (name, split)
        # What is poisoned are the test rows, and they reach nothing but the test logits.
        np.testing.assert_array_equal(other[name].data.test.labels, 1 - one.data.test.labels)
        assert other[name].fitted.settings == one.fitted.settings
        assert_same(other[name].fitted.validation, one.fitted.validation)
        assert_same(calibrated(other[name].calibrators, one), calibrated(one.calibrators, one))
        # The calibrators are those of the validation rows.
        held_out = one.data.validation
        expected = calibration.fit_calibrators(
            {"click": one.fitted.validation.astype(np.float32)},
            {"click": held_out.labels},
            calibration.fold_of_rows(np.bincount(held_out.requests)),
        )
        assert one.calibrators == expected
