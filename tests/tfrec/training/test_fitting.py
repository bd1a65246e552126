"""Training: known structure is learned, a killed run resumes, the best epoch is kept."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfrec import layers, retrieval, training
from tfrec.metrics import definitions
from tfrec.ranking import ranker_training
from tfrec.retrieval import retrieval_training
from tfrec.training import fitting

pytestmark = pytest.mark.trains


class Killed(Exception):
    """Stands for a process that is killed."""


class Lookup(training.StageModel):
    """A table and a dense layer, so that both optimizers have work; with dropout."""

    def __init__(self, target=1.0):
        super().__init__()
        tf.keras.utils.set_random_seed(1)
        self.table = tf.keras.layers.Embedding(10, 4)
        self.dropout = layers.Dropout(0.2)
        self.dense = tf.keras.layers.Dense(1)
        self.target = target
        self(tf.zeros([1], tf.int32))

    @property
    def sparse_variables(self):
        return [self.table.embeddings]

    def call(self, ids, training=False):
        rows = self.dropout(self.table(ids), training=training)
        return tf.squeeze(self.dense(rows), -1)

    def compute_loss(self, inputs, training=False):
        return tf.reduce_mean((self(inputs["ad_row"], training=training) - self.target) ** 2)


PLAN = training.Plan(
    epochs=4,
    patience=3,
    learning_rate=0.05,
    embedding_learning_rate=0.5,
    steps_per_epoch=5,
    examples_per_epoch=40,
    metric="score",
    maximize=False,
)
IDS = np.arange(40, dtype=np.int32) % 8  # ids 8 and 9 never occur


def batches(number):
    """Five batches of eight."""
    rows = tf.data.Dataset.from_tensor_slices({"ad_row": IDS})
    return rows.shuffle(40, seed=number).batch(8)


class KilledAt(tf.keras.callbacks.Callback):
    """Ends a run after a step of an epoch, both from 0; notes the epochs, and counts the steps."""

    def __init__(self, epoch=None, step=None):
        super().__init__()
        self.at, self.epochs, self.steps = (epoch, step), [], 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if (self.epochs[-1], batch) == self.at:
            raise Killed


class CopiedAt(tf.keras.callbacks.Callback):
    """Copies a run at a step of an epoch, both from 0, as a kill would leave it."""

    def __init__(self, directory, epoch, step):
        super().__init__()
        self.directory, self.copy = directory, directory.with_name("killed")
        self.epoch, self.at = None, (epoch, step)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            shutil.copytree(self.directory, self.copy)


class Run:
    """A training of a `Lookup`, with scripted validation scores."""

    def __init__(self, directory, scores, plan=PLAN, target=1.0, killed_at=()):
        self.model, self.scores = Lookup(target), scores
        self.directory, self.plan, self.weights = directory, plan, {}
        self.killed_at = KilledAt(*killed_at)

    @property
    def epochs(self):
        return self.killed_at.epochs

    def evaluate(self):
        epoch = self.epochs[-1]
        self.weights[epoch] = [v.numpy() for v in self.model.trainable_variables]
        if isinstance(self.scores[epoch], Exception):
            raise self.scores[epoch]
        return {"score": self.scores[epoch]}

    def fit(self, *callbacks, progress=False):
        return training.fit(
            self.model,
            batches,
            self.evaluate,
            self.plan,
            self.directory,
            progress=progress,
            extra_callbacks=[self.killed_at, *callbacks],
        )

    def assert_has_weights_of(self, epoch):
        for variable, value in zip(
            self.model.trainable_variables, self.weights[epoch], strict=True
        ):
            np.testing.assert_array_equal(variable, value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, whose second epoch is the best, and its history."""
    run = Run(tmp_path_factory.mktemp("finished"), [3, 1, 2, 2])
    return run, run.fit()


def test_the_loss_falls_and_every_epoch_is_in_the_history(finished):
    run, history = finished
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]
    assert json.loads((run.directory / "history.json").read_text()) == history
    assert list((run.directory / "tensorboard").glob("events*"))


@pytest.fixture
def eagerly():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run")
def test_a_run_can_be_debugged_eagerly(tmp_path, eagerly):
    history = Run(tmp_path, [4, 3, 2, 1]).fit()
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]


def test_a_progress_line_has_the_loss_and_the_selection_metric(tmp_path, capsys):
    history = Run(tmp_path, [4, 3.25, 5, 7]).fit(progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"  epoch 2/4: loss {history[1]['loss']:.4f}, score 3.2500"
    assert lines[4:] == ["  epoch 2 is kept: score 3.2500"]


def test_the_best_epoch_is_restored_and_can_be_restored_again(finished):
    run, _ = finished
    run.assert_has_weights_of(1)
    fresh = Lookup()
    training.restore_best(fresh, run.directory)
    for variable, value in zip(fresh.trainable_variables, run.weights[1], strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_larger_metric_is_better_if_the_plan_says_so(tmp_path):
    run = Run(tmp_path, [1, 2, 5, 4], dataclasses.replace(PLAN, maximize=True))
    run.fit()
    run.assert_has_weights_of(2)


def test_training_stops_when_patience_is_spent(tmp_path):
    run = Run(tmp_path, [1, 2, 3, 4], dataclasses.replace(PLAN, patience=2))
    assert len(run.fit()) == 3
    run.assert_has_weights_of(0)


@pytest.mark.parametrize(
    ("killed_at", "steps_per_backup", "steps_left"),
    [
        ((0, 0), 1, 20),
        ((0, 3), 2, 18),
        ((1, 0), 1_000, 15),
        ((1, 4), 1, 11),
        ((3, 4), 2, 1),
    ],
)
def test_a_run_killed_at_any_step_ends_with_the_weights_of_one_never_killed(
    tmp_path, whole, monkeypatch, killed_at, steps_per_backup, steps_left
):
    monkeypatch.setattr(fitting, "_STEPS_PER_BACKUP", steps_per_backup)
    with pytest.raises(Killed):
        Run(tmp_path, [4, 3, 2, 1], AVERAGED, killed_at=killed_at).fit()
    resumed = Run(tmp_path, [4, 3, 2, 1], AVERAGED)
    history = resumed.fit()
    assert resumed.epochs[0] == killed_at[0]
    assert resumed.killed_at.steps == steps_left
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    for variable, value in zip(resumed.model.trainable_variables, whole, strict=True):
        np.testing.assert_array_equal(variable, value)


AVERAGED = dataclasses.replace(PLAN, average_decay=0.9)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, deterministic):
    """The weights of an uninterrupted run."""
    run = Run(tmp_path_factory.mktemp("whole"), [4, 3, 2, 1], AVERAGED)
    run.fit()
    return [variable.numpy() for variable in run.model.trainable_variables]


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run")
@pytest.mark.parametrize("stage", ["ranker", "retrieval"])
def test_both_stages_resume_exactly(
    data_set, ranker_config, retrieval_config, tmp_path, monkeypatch, deterministic, eagerly, stage
):
    monkeypatch.setattr(fitting, "_STEPS_PER_BACKUP", 2)
    monkeypatch.setattr(ranker_training, "_MIN_BATCHES", 4)
    monkeypatch.setattr(retrieval_training, "_MIN_BATCHES", 4)
    # What comes before and after the epochs is not resumed.
    monkeypatch.setattr(layers, "find_comparisons", lambda *_: [])
    monkeypatch.setattr(layers, "find_pair_rates", lambda *_: [])
    monkeypatch.setattr(ranker_training, "fit_rare_heads", lambda *_: None)
    shared = {"epochs": 2, "batch_size": 1_024}

    def train(directory, *callbacks):
        if stage == "ranker":
            config = dataclasses.replace(ranker_config, num_blocks=1, **shared)
            ranker_training.train_ranker(data_set, config, directory, callbacks=callbacks)
        else:
            config = dataclasses.replace(
                retrieval_config, refit=False, click_factors=False, **shared
            )
            retrieval.train_two_tower(data_set, config, directory, callbacks=callbacks)

    whole, resumed = CopiedAt(tmp_path / "whole", 1, 2), KilledAt()
    train(tmp_path / "whole", whole)
    train(whole.copy, resumed)
    assert (resumed.epochs, resumed.steps) == ([1], 3)
    for ours, theirs in zip(
        resumed.model.trainable_variables, whole.model.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("train", "options"),
    [
        (ranker_training.train_ranker, "ranker_config"),
        (retrieval.train_two_tower, "retrieval_config"),
    ],
)
def test_an_epoch_reads_all_rows_in_a_new_order_and_shrinks_embeddings(
    train, options, data_set, tmp_path, monkeypatch, request
):
    class Begun(Exception):
        pass

    def fit(model, read, *_, extra_callbacks, **options):
        raise Begun(read, extra_callbacks)

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(layers, "find_pair_rates", lambda *_: [])
    with pytest.raises(Begun) as begun:
        train(data_set, request.getfixturevalue(options), tmp_path)
    read, (shrink,) = begun.value.args
    assert isinstance(shrink, training.ShrinkEmbeddings)
    first, second = (
        np.concatenate([batch["ad_row"].numpy().ravel() for batch in read(epoch)])
        for epoch in (0, 1)
    )
    np.testing.assert_array_equal(np.sort(first), np.sort(second))
    assert not np.array_equal(first, second)


def test_a_run_killed_during_validation_repeats_the_epoch(tmp_path):
    with pytest.raises(Killed):
        Run(tmp_path, [4, 3, Killed(), 1]).fit()
    resumed = Run(tmp_path, [4, 3, 2, 1])
    resumed.fit()
    assert resumed.epochs == [2, 3]


def test_a_resumed_run_counts_earlier_epochs_without_improvement(tmp_path):
    plan = dataclasses.replace(PLAN, epochs=9, patience=3)
    with pytest.raises(Killed):
        Run(tmp_path, [1, 2, 2, Killed()], plan).fit()
    resumed = Run(tmp_path, [1, 2, 2, 2, 2], plan)
    assert len(resumed.fit()) == 4
    assert resumed.epochs == [3]


def test_a_resumed_run_keeps_a_best_epoch_from_before_it_was_killed(tmp_path):
    killed = Run(tmp_path, [1, 3, Killed()])
    with pytest.raises(Killed):
        killed.fit()
    resumed = Run(tmp_path, [1, 3, 2, 2])
    resumed.fit()
    for variable, value in zip(resumed.model.trainable_variables, killed.weights[0], strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_finished_run_is_not_trained_again(finished):
    run, history = finished
    again = Run(run.directory, [])
    assert again.fit() == history
    assert again.epochs == []


def test_rows_outside_all_batches_are_not_changed(finished):
    before = Lookup().table.embeddings.numpy()
    run, _ = finished
    changed = (run.model.table.embeddings.numpy() != before).any(axis=1)
    assert changed.tolist() == [True] * 8 + [False] * 2


@pytest.mark.parametrize("given", ["x", ["x"], [tf.keras.callbacks.Callback], 1])
def test_callbacks_must_be_a_list_of_callbacks(given):
    with pytest.raises(
        ValueError, match=r"callbacks: expected a list of tf.keras.callbacks.Callback"
    ):
        training.check_callbacks(given)
    training.check_callbacks([tf.keras.callbacks.Callback()])


@pytest.mark.parametrize(
    "given",
    [
        tf.keras.callbacks.ReduceLROnPlateau(),
        tf.keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
    ],
)
def test_callbacks_that_set_the_learning_rate_are_refused(given):
    with pytest.raises(ValueError, match=f"{type(given).__name__} sets one learning rate"):
        training.check_callbacks([tf.keras.callbacks.Callback(), given])


def test_a_checkpoint_of_the_whole_model_is_refused():
    with pytest.raises(ValueError, match="Set save_weights_only=True"):
        training.check_callbacks([tf.keras.callbacks.ModelCheckpoint("models")])
    training.check_callbacks([tf.keras.callbacks.ModelCheckpoint("w", save_weights_only=True)])


def test_a_checkpoint_in_the_older_format_is_refused():
    def checkpoint(path):
        return tf.keras.callbacks.ModelCheckpoint(path, save_weights_only=True)

    for path in ("w.h5", "w.{epoch}.keras"):
        with pytest.raises(
            ValueError, match=r"writes w.*; expected a path that ends in .weights.h5"
        ):
            training.check_callbacks([checkpoint(path)])
    training.check_callbacks([checkpoint("w.weights.h5"), checkpoint("w.{epoch:02d}")])


def test_backups_of_keras_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"BackupAndRestore takes backups; .* Leave it out"):
        training.check_callbacks([tf.keras.callbacks.BackupAndRestore(str(tmp_path))])


def test_a_model_that_compiles_with_another_optimizer_is_refused(tmp_path, monkeypatch):
    run = Run(tmp_path, [1])
    compile_model = run.model.compile
    monkeypatch.setattr(run.model, "compile", lambda _: compile_model("sgd"))
    with pytest.raises(
        ValueError, match=r"Lookup.compile sets the optimizer SGD; expected the one"
    ):
        run.fit()


def test_a_loss_that_is_not_finite_is_refused(tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss of epoch 1 is nan; .* Lower the learning"):
        Run(tmp_path, [1], target=float("nan")).fit()


def test_a_validation_that_is_not_finite_is_refused(tmp_path):
    with pytest.raises(FloatingPointError, match=r"The score of epoch 2 is nan; expected a finite"):
        Run(tmp_path, [1, float("nan")]).fit()


def test_a_directory_without_a_best_epoch_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint in .*best. Delete .*, and train"):
        training.restore_best(Lookup(), tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    other = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    other(tf.zeros([1, 4]))
    other.save_weights(str(tmp_path / "best" / "weights"))
    with pytest.raises(ValueError, match=r"checkpoint .* lacks weights of the model; .*Delete"):
        training.restore_best(Lookup(), tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data.unlink(), lambda data: data.write_bytes(b"")])
def test_an_unreadable_best_epoch_is_reported_with_what_to_delete(finished, tmp_path, damage):
    shutil.copytree(finished[0].directory, tmp_path / "refit")
    (data,) = (tmp_path / "refit" / "best").glob("*.data-*")
    damage(data)
    with pytest.raises(ValueError, match=r"checkpoint .* cannot be read .*Delete .*model, and"):
        training.restore_best(Lookup(), tmp_path / "refit", tmp_path / "model")


def test_the_ranker_learns_known_structure(data_set, trained):
    model, _, description = ranker_training.load_ranker(data_set, trained / "ranker")
    history = description["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert description["heads"] == ["click", "engagement", "revenue"]
    held_out = [ranker_training.predict_split(model, data_set, s) for s in ("validation", "test")]
    labels = np.concatenate([predictions.labels["click"] for predictions in held_out])
    logits = np.concatenate([predictions.logits["click"] for predictions in held_out])
    # 1,200 rows put a score without information within 0.5 ± 0.04 (two standard errors).
    assert definitions.auc(labels, logits) > 0.57


def test_the_two_tower_model_learns_known_structure(data_set, learned_from_clicks):
    model, description = retrieval_training.load_two_tower(data_set, learned_from_clicks)
    assert description["history"][-1]["softmax_loss"] < description["history"][0]["softmax_loss"]
    clicks = retrieval.read_clicks(data_set, "test")
    features = np.asarray(data_set.catalog().features)
    found = retrieval.exact_top_k(
        retrieval.embed_in_batches(model.query_tower, clicks.query),
        retrieval.embed_in_batches(model.ad_tower, features),
        50,
    )
    # Fifty of 300 ads drawn at random would hold 0.167 of the clicks.
    assert (found == clicks.ad_rows[:, None]).any(axis=1).mean() > 0.25


def test_a_loaded_model_is_compiled_with_fresh_optimizers(data_set, trained):
    ranker, *_ = ranker_training.load_ranker(data_set, trained / "ranker")
    towers, _ = retrieval.load_two_tower(data_set, trained / "retrieval")
    for model, batches in (
        (ranker, data_set.batches("train", 64)),
        (towers, data_set.clicked("train", 64)),
    ):
        model.compile(training.dense_and_sparse(model, 1e-3, 0.1, steps=2), run_eagerly=True)
        assert [int(optimizer.iterations) for optimizer in model.optimizer.optimizers] == [0, 0]
        model.fit(batches.take(2), verbose=0)


def test_calibrated_click_probabilities_have_the_observed_mean(data_set, trained):
    model, calibrators, _ = ranker_training.load_ranker(data_set, trained / "ranker")
    predictions = ranker_training.predict_split(model, data_set, "validation")
    served = ranker_training.served_values(predictions, calibrators)
    ratio = served["click_probability"].sum() / predictions.labels["click"].sum()
    assert ratio == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (ranker_training.load_ranker, "ranker"),
        (retrieval_training.load_two_tower, "retrieval"),
    ],
)
def test_a_model_of_another_data_set_and_a_missing_one_are_refused(
    data_set, trained, tmp_path, load, name
):
    with pytest.raises(FileNotFoundError, match=rf"Run tfrec train_{name} first"):
        load(data_set, tmp_path)
    directory = tmp_path / name
    directory.mkdir()
    description = json.loads((trained / name / f"{name}.json").read_text())
    description["fingerprint"] = "feedbeeffeedbeef"
    (directory / f"{name}.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=rf"set feedbeeffeedbeef; expected {data_set.fingerprint}"):
        load(data_set, directory)


def test_the_averaged_weights_are_validated_and_kept(tmp_path):
    class LastWeights(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.kernel = self.model.dense.kernel.numpy()

    last = LastWeights()
    run = Run(tmp_path, [2.0, 1.0], dataclasses.replace(AVERAGED, epochs=2))
    run.fit(last)
    run.assert_has_weights_of(1)
    assert np.abs(last.kernel - run.model.dense.kernel).max() > 1e-3


def test_callbacks_of_keras_see_validation_and_can_end_training(tmp_path):
    log = tmp_path / "log.csv"
    run = Run(tmp_path / "run", [4, 3, 2, 1])
    history = run.fit(
        tf.keras.callbacks.CSVLogger(str(log)),
        tf.keras.callbacks.TensorBoard(str(tmp_path / "board"), update_freq=2),
        tf.keras.callbacks.EarlyStopping("score", mode="max", patience=1),
    )
    assert len(history) == 2
    again = Run(tmp_path / "run", [4, 3, 2, 1])
    assert (again.fit(), again.epochs) == (history, [])
    header, *rows = log.read_text().splitlines()
    assert "score" in header.split(",")
    assert "loss" in header.split(",")
    assert len(rows) == 2
    assert list((tmp_path / "board" / "train").glob("events*"))


def test_each_epoch_has_its_steps_and_starts_at_any_of_them():
    def read(number):
        # Four batches, one fewer than the steps: the last is taken from a second round.
        return tf.data.Dataset.range(4).map(lambda batch: 10 * number + batch)

    batches = training.stream_epochs(read, 5, 3)
    assert batches.options().autotune.enabled is False  # see `reader.without_tuning`
    every = list(batches.as_numpy_iterator())
    assert every == [0, 1, 2, 3, 0, 10, 11, 12, 13, 10, 20, 21, 22, 23, 20]
    for first in range(15):
        assert list(training.stream_epochs(read, 5, 3, first).as_numpy_iterator()) == every[first:]


def test_batches_of_a_small_log_are_smaller_but_never_tiny():
    assert training.batch_size(512, 1_000_000, 20) == 512
    assert training.batch_size(512, 4_000, 20) == 200
    assert training.batch_size(512, 4_000, 50) == 80
    assert training.batch_size(512, 100, 20) == 64
    assert training.batch_size(32, 100, 20) == 32  # what was asked is the most


def test_patience_is_longer_on_a_small_log():
    assert training.patience(2, 2_000) == 2
    assert training.patience(2, 20) == 5  # a hundred steps
    assert training.patience(2, 30) == 4
