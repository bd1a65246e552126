"""After the best epoch is chosen, the model also learns from validation clicks."""

import dataclasses
import json
import shutil

import logs
import numpy as np
import pytest
import tensorflow as tf

from tfrec import retrieval, training
from tfrec.retrieval import refit, retrieval_training

PLAN = training.Plan(
    epochs=9,
    patience=2,
    learning_rate=0.1,
    embedding_learning_rate=0.1,
    steps_per_epoch=1,
    examples_per_epoch=1,
    metric="validation_corpus_recall",
    maximize=True,
)


def rows_of(batches):
    return np.concatenate([batch["ad_row"].numpy() for batch in batches])


def test_the_clicks_of_both_splits_are_read_once_and_mixed(data_set):
    expected = [retrieval.read_clicks(data_set, split).ad_rows for split in refit.REFIT_SPLITS]
    read = list(refit.refit_batches(data_set, 16, seed=3))
    assert sorted(rows_of(read)) == sorted(np.concatenate(expected))
    # Not all of one split and then all of the other.
    is_validation = [set(rows_of([b])) <= set(expected[1]) for b in read]
    assert np.count_nonzero(np.diff(np.array(is_validation, int))) > 3


def test_validation_clicks_count_as_draws(data_set):
    catalog = data_set.catalog()
    clicks = retrieval.read_clicks(data_set, "validation").ad_rows
    counted = refit.with_validation_clicks(data_set, catalog)
    added = np.bincount(clicks, minlength=len(catalog))
    np.testing.assert_array_equal(counted.clicks, catalog.clicks + added)
    np.testing.assert_array_equal(counted.impressions, catalog.impressions)


def test_the_most_clicked_ads_do_not_prefer_early_ones(data_set):
    catalog = data_set.catalog()
    clicks = refit.with_validation_clicks(data_set, catalog).clicks
    rows = refit.most_clicked(data_set, catalog, len(catalog))
    assert (np.diff(clicks[rows]) <= 0).all()
    assert sorted(rows) == list(range(len(catalog)))
    without = rows[clicks[rows] == 0]
    # In the order of the catalog each is above the one before; in random order half are.
    rising = np.mean(np.diff(without) > 0)
    assert rising == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(without)))


@pytest.mark.trains
def test_the_refitted_model_is_loaded(data_set, retrieval_config, learned_from_clicks):
    directory = learned_from_clicks
    model, description = retrieval.load_two_tower(data_set, directory)
    history = json.loads((directory / "refit" / "history.json").read_text())
    best = training.best_epoch(description["history"], PLAN)
    # As many epochs as were best, each with the temperature that the first training found.
    assert len(history) == best + 1
    temperatures = [entry["temperature"] for entry in description["history"][: best + 1]]
    assert [entry["temperature"] for entry in history] == pytest.approx(temperatures)
    assert float(model.temperature) == pytest.approx(temperatures[-1])
    first = retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())
    training.restore_best(first, directory)
    weights = [m.query_tower.trainable_variables[0].numpy() for m in (first, model)]
    assert not np.allclose(*weights)


@pytest.fixture
def to_be_refitted(learned_from_clicks, tmp_path):
    """What a training leaves that was killed before its refit."""
    directory = tmp_path / "retrieval"
    shutil.copytree(learned_from_clicks, directory)
    shutil.rmtree(directory / "refit")
    for name in ("retrieval.json", "config.json"):
        (directory / name).unlink()
    return directory


@pytest.mark.trains
def test_without_a_refit_the_best_epoch_is_loaded(data_set, retrieval_config, to_be_refitted):
    config = dataclasses.replace(retrieval_config, refit=False)
    retrieval.train_two_tower(data_set, config, to_be_refitted)
    assert not (to_be_refitted / "refit").exists()
    model, _ = retrieval.load_two_tower(data_set, to_be_refitted)
    best = retrieval.build_two_tower(data_set, config, data_set.catalog())
    training.restore_best(best, to_be_refitted)
    for ours, theirs in zip(model.weights, best.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def eager():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


class Killed(Exception):
    """Stands for a process that is killed."""


@pytest.mark.slow
def test_a_refit_counts_the_clicks_of_both_splits(retrieval_config, tmp_path, monkeypatch):
    def killed(model, plan, history, read, workdir, progress, callbacks):
        raise Killed(model, plan, callbacks)

    data_set = logs.converted_tastes(tmp_path, users=20, tastes=2, ads=20, clicks=15, seed=0)
    monkeypatch.setattr(training, "fit", lambda *_, **options: [])
    monkeypatch.setattr(retrieval_training, "refit_two_tower", killed)
    with pytest.raises(Killed) as begun:
        retrieval.train_two_tower(data_set, retrieval_config, tmp_path / "retrieval")
    model, plan, (shrink,) = begun.value.args
    counted = refit.with_validation_clicks(data_set, data_set.catalog()).clicks
    assert plan.examples_per_epoch == counted.sum() == len(rows_of(shrink._batches))
    shares = model._click_shares(tf.range(len(counted)))
    np.testing.assert_allclose(shares, counted / counted.sum(), rtol=1e-6)
    clicks = retrieval.read_clicks(data_set, "validation")
    assert len(clicks.user) == 40  # two of each user
    clicked = model.clicked_ads.among(tf.constant(clicks.user), tf.constant(clicks.ad_rows))
    assert np.diag(clicked).all()


@pytest.mark.trains
@pytest.mark.filterwarnings("ignore:Even though the")  # Data pipelines are not run eagerly.
def test_a_killed_refit_resumes_after_its_last_complete_epoch(
    data_set, retrieval_config, to_be_refitted, monkeypatch, eager
):
    class KilledInSecondPass(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == self.params["steps"] + 2:
                raise Killed

    # Two epochs, so that one is whole before the kill; of few steps, which tracing would outlast.
    monkeypatch.setattr(training, "best_epoch", lambda history, plan: 1)
    monkeypatch.setattr(retrieval_training, "_MIN_BATCHES", 2)
    config = dataclasses.replace(retrieval_config, batch_size=512)
    with pytest.raises(Killed):
        retrieval.train_two_tower(
            data_set, config, to_be_refitted, callbacks=[KilledInSecondPass()]
        )
    path = to_be_refitted / "refit" / "history.json"
    (first,) = json.loads(path.read_text())
    retrieval.train_two_tower(data_set, config, to_be_refitted)
    assert [entry["epoch"] for entry in json.loads(path.read_text())] == [1, 2]
    assert json.loads(path.read_text())[0] == first
