"""Which rows the peers of the ranker's benchmark get: all the same, each split for its purpose.

The peers here have one setting and one check of one epoch, so that validation chooses nothing, and
their training is deterministic, so that only rows make a difference.
"""

import collections
import dataclasses

import numpy as np
import pytest
import split_logs
import tensorflow as tf
from absl import flags

from tfrec import calibration
from tfrecords import reader

# The networks differ only in layers, so two represent all.
NETWORKS = ("dnn", "dcn_v2")
PEERS = ("lightgbm", "hashed_logistic_regression", *NETWORKS)
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
    split_logs.convert(directory, test=poisons)
    return directory


@pytest.fixture
def peers(script, monkeypatch):
    models = script("peers.models")
    # Eight steps, which take less time than building their graph.
    monkeypatch.setattr(script("peers.networks"), "_MIN_BATCHES", 8)
    tf.config.run_functions_eagerly(True)
    for name in NETWORKS:
        small = {"hidden": 8, "field_dim": 4, "epochs": 1, "checks": 1}
        set_defaults(models, monkeypatch, name, small)
    once = {"rounds": 1, "min_data_in_leaf": 20}
    rates = {**once, "id_rates": True, "pair_rates": True}
    set_defaults(models, monkeypatch, "lightgbm", rates)
    set_defaults(models, monkeypatch, "hashed_logistic_regression", {"C": 1.0})
    yield models
    tf.config.run_functions_eagerly(False)


def set_defaults(models, monkeypatch, name, *changes):
    peer = models.PEERS[name]
    own = [dataclasses.replace(peer.defaults[0], **change) for change in changes]
    monkeypatch.setitem(models.PEERS, name, dataclasses.replace(peer, defaults=own))


@pytest.fixture
def data(script, whole):
    return script("peers.peer_data").read(reader.DataSet(whole / "data"), with_position=True)


def assert_same(logits, expected):
    """Fails if logits differ by more than the rounding errors of float32 sums."""
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def relabeled(rows):
    """Returns rows with a click, an engagement and revenue where there was none, or none."""
    click = 1 - rows.labels["click"]
    labels = {"click": click, "engagement": click, "revenue": 9 * click}
    return dataclasses.replace(rows, labels=labels)


def all_logits(logits):
    return np.concatenate([own.reshape(len(own), -1) for own in logits.values()], axis=1)


@pytest.mark.trains
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_learns_training_rows_alone_and_predicts_the_others(peers, data, name, tmp_path):
    def fit(**others):
        fitted = peers.fit(name, dataclasses.replace(data, **others), 1, 0.0, tmp_path)
        # The scale of amounts is that of the validation rows, as the calibrators are.
        fitted.validation["revenue"][:, 2] = fitted.test["revenue"][:, 2] = 0
        return dataclasses.replace(
            fitted, validation=all_logits(fitted.validation), test=all_logits(fitted.test)
        )

    fitted = fit()
    # The same model predicts swapped splits, regardless of their labels.
    turned = fit(validation=relabeled(data.test), test=relabeled(data.validation))
    assert_same(turned.validation, fitted.test)
    assert_same(turned.test, fitted.validation)
    assert np.abs(fit(train=relabeled(data.train)).test - fitted.test).max() > 1e-3


@pytest.mark.parametrize("is_learned", [True, False])
def test_the_settings_of_a_peer_are_those_that_are_best_on_validation(
    peers, data, monkeypatch, is_learned, tmp_path
):
    # The weakest regularization is best for training rows, the strongest for their opposites.
    name = "hashed_logistic_regression"
    set_defaults(peers, monkeypatch, name, {"C": 0.003}, {"C": 3.0})
    learned, opposite = data.train, relabeled(data.train)
    rows = (learned, opposite) if is_learned else (opposite, learned)
    own = dataclasses.replace(data, validation=rows[0], test=rows[1])
    fitted = peers.fit(name, own, 1, 0.0, tmp_path)
    assert fitted.settings["click"]["C"] == (3.0 if is_learned else 0.003)


@dataclasses.dataclass
class Given:
    """What the benchmark passed to a peer, and what it returned and computed from that."""

    data: object
    fitted: object
    calibrators: calibration.Calibrators


@pytest.fixture
def measured(script, peers, monkeypatch):
    """Runs the benchmark of all peers in a work directory and returns what each was given."""
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

        only_peers = ("--noours", f"--peers={','.join(PEERS)}", "--bootstrap_samples=1")
        with monkeypatch.context() as patch:
            patch.setattr(peers, "fit", record_fit)
            patch.setattr(calibration, "fit_calibrators", record_calibrators)
            flags.FLAGS(["quality", f"--workdir={workdir}", *only_peers])
            quality.main()
        own = zip(fitted.items(), calibrators, strict=True)
        return {name: Given(*given, curves) for (name, given), curves in own}

    yield run
    flags.FLAGS.unparse_flags()


def calibrated(calibrators, given):
    """Returns a peer's validation logits as calibrators change them."""
    logits = calibration.calibrated_logits(given.fitted.validation, calibrators)
    return all_logits({head: own.numpy() for head, own in logits.items()})


def counted(rows, fields, vocabularies):
    """Counts the users, ads, slots and labels of a peer's rows, as the log writes them."""
    columns = {field.name: rows.ids[:, field.columns.start].tolist() for field in fields}
    user, ad = ([names[i] for i in columns[field]] for field, names in vocabularies.items())
    slots = [str(slot - 1) for slot in columns["(position)"]]
    labels = ([f"{label:.2f}" for label in own] for own in rows.labels.values())
    return collections.Counter(zip(user, ad, slots, *labels, strict=True))


def logged(row):
    """Returns what `counted` counts of a row of the log."""
    labels = (f"{float(row[name]):.2f}" for name in ("click", "engagement", "revenue"))
    return (row["user"], row["ad"], row["slot"], *labels)


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
            written = [logged(row) for row in split_logs.rows() if row["split"] == split]
            assert counted(getattr(one.data, split), one.data.fields, vocabularies) == (
                collections.Counter(written)
            ), (name, split)
        # Only test rows are poisoned, and they affect nothing but the test logits.
        clicks = (run[name].data.test.labels["click"] for run in (given, other))
        np.testing.assert_array_equal(sum(clicks), 1.0)
        assert other[name].fitted.settings == one.fitted.settings
        assert_same(all_logits(other[name].fitted.validation), all_logits(one.fitted.validation))
        assert_same(calibrated(other[name].calibrators, one), calibrated(one.calibrators, one))
        # The calibrators are those of the validation rows.
        held_out = one.data.validation
        expected = calibration.fit_calibrators(
            one.fitted.validation,
            held_out.labels,
            calibration.fold_of_rows(np.bincount(held_out.requests)),
        )
        assert one.calibrators == expected
